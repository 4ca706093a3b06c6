"""What people type into the page's forms, as the values that handlers take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from cloud_trainer.flows.adaptation_engine import SceneRequest
from cloud_trainer.service.handlers import TrialRequest
from cloud_trainer.service.servicers.trials import rule_of
from gymnast_core.bounds import parsed_json, whole_number
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.loop_config import LoopConfig

_CONFIG_CHARACTERS = 64 * 1024
_MOST_NUMBER = 2.0**53
Form = Mapping[str, str]
_Json = TypeVar("_Json", list[Any], dict[str, Any])


def names_of(form: Form, name: str, separator: str = ",") -> list[str]:
    """Return the names of a field that lists some."""
    return [found.strip() for found in form.get(name, "").split(separator) if found.strip()]


def scene_request(form: Form) -> SceneRequest:
    """Read what is asked for when an adaptation begins.

    Raises:
        ConfigError: the seed is no whole number, or config no JSON object.
    """
    texts = {name: form.get(name, "").strip() for name in ("robot", "instruction", "scene", "world_model", "judge")}
    config, others = _json(form, "config", dict), tuple(names_of(form, "other_tasks", ";"))
    return SceneRequest(**texts, seed=whole(form, "seed") or 0, config=config, other_tasks=others)


def loop_config(form: Form) -> LoopConfig:
    """Read what a loop is asked for: config (JSON object of LoopConfig's settings), and over it the form's own fields.

    Raises:
        ConfigError: a setting does not exist or makes no sense.
    """
    values = _json(form, "config", dict)
    texts = ("name", "scene", "world_model", "judge")
    values |= {name: form[name].strip() for name in texts if form.get(name, "").strip()}
    values |= {name: found for name in ("rounds", "seed") if (found := whole(form, name)) is not None}
    if tasks := names_of(form, "tasks", ";"):
        values["tasks"] = tasks
    if robots := names_of(form, "robot"):
        values = {**values, "robot": "", "robots": robots}
    return LoopConfig.model_validate(values)


def trial_request(form: Form, candidate: str) -> TrialRequest:
    """Read what is asked for when a trial begins.

    Raises:
        ConfigError: a value makes no sense.
    """
    pairs = whole(form, "pairs")
    rule = rule_of({"max_pairs": SequentialRule.max_pairs if pairs is None else pairs})
    tasks = (form.get("instruction", ""),)
    return TrialRequest(
        candidate, form.get("robot", ""), tasks, form.get("against", ""), form.get("scene", ""), rule,
        form.get("key", ""),
    )  # fmt: skip


def budget(form: Form) -> dict[str, Any]:
    """Read what practice may cost; what is left out is as usual.

    Raises:
        ConfigError: a value is no number.
    """
    return {
        "minutes": number(form, "minutes"), "rollouts": whole(form, "rollouts"), "money": number(form, "money"),
        "mode": form.get("mode", ""),
    }  # fmt: skip


def revision(form: Form) -> int:
    """Return on which state a decision was taken; -1, which is none, where the form does not say."""
    found = whole_number(form.get("revision", ""))
    return -1 if found is None else found


def number(form: Form, name: str) -> float | None:
    """Read a number; None where it is left out.

    Raises:
        ConfigError: it is none, or is absurdly large.
    """
    text = form.get(name, "").strip()
    try:
        value = float(text) if text else None
    except ValueError as error:
        raise ConfigError(f"{name} must be a number, got {text[:40]!a}") from error
    if value is not None and not abs(value) < _MOST_NUMBER:  # NaN is not below anything either
        raise ConfigError(f"{name} must be a number below {_MOST_NUMBER:g}, got {text[:40]!a}")
    return value


def whole(form: Form, name: str) -> int | None:
    """Read a whole number; None where it is left out.

    Raises:
        ConfigError: as number(), or it has a fraction.
    """
    value = number(form, name)
    if value is not None and value != int(value):
        raise ConfigError(f"{name} must be a whole number, got {value:g}")
    return None if value is None else int(value)


def _json(form: Form, name: str, kind: type[_Json]) -> _Json:
    """A field that holds JSON; empty where it is left out."""
    try:
        value = parsed_json(form.get(name, "").strip() or "null", name, _CONFIG_CHARACTERS)
    except CorruptError as error:
        raise ConfigError(str(error)) from error
    if value is not None and not isinstance(value, kind):
        what = "object" if kind is dict else "list"
        raise ConfigError(f"{name} must be a JSON {what}, got {form.get(name, '')[:80]!a}")
    return kind() if value is None else value

"""Settings that somebody wrote: checked when they are made, refused with the value, what is allowed and the default.

One base for what jobs, the service, the loop and a robot's graph can be set to. A class of settings documents each
field where it stands; JSON schema, command line and the configuration reference are made from that.
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from gymnast_core.errors import ConfigError

MOST = 1_000_000
"""Of anything that is counted: iterations, rounds, episodes, rows. A job that needs more is a slip of the keyboard."""
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]
"""JSON has lists only, and they are taken for tuples; their items are as strict as everything else."""


@dataclass(frozen=True)
class Says:
    """Beside a pattern in a type: what it allows, in words."""

    words: str


DEVICES = re.compile(r"(auto|cpu|cuda(:\d+)?)")
Device = Annotated[str, Field(pattern=f"^{DEVICES.pattern}$"), Says("auto, cpu, cuda or cuda:N")]
"""Where something computes: auto is a GPU if there is one. Whether a machine has it is asked where it is used."""

_SHOWN = 80
_WORDS: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_RANGE = {
    "int_type", "int_from_float", "float_type", "bool_type", "string_type", "finite_number", "literal_error",
    "tuple_type", "dict_type", "mapping_type", "greater_than", "greater_than_equal", "less_than", "less_than_equal",
    "string_pattern_mismatch", "string_too_short",
}  # fmt: skip
"""Errors of a value that a field's words explain."""

SettingsT = TypeVar("SettingsT", bound="Settings")


class Settings(BaseModel):
    """Frozen settings; made from keyword arguments or from JSON values, and checked either way.

    Raises:
        ConfigError: a value is not allowed or a setting does not exist; the message names value, remedy and default.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )  # deferred: a process imports many classes of settings, and checks few
    where: ClassVar[str] = "settings"
    """What these are settings of, for messages."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls: type[SettingsT], values: object, handler: ModelWrapValidatorHandler[SettingsT]) -> SettingsT:
        try:
            return handler(values)
        except ValidationError as error:
            raise ConfigError(_message(cls, values, error)) from None

    def changed(self: SettingsT, **changes: Any) -> SettingsT:
        """Return a copy with other values, checked like the first.

        Raises:
            ConfigError: a value is not allowed.
        """
        return type(self)(**{**self.named(), **changes})

    def named(self) -> dict[str, Any]:
        """Return the settings that were given, by name; the others have their defaults."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def to_json(self) -> dict[str, Any]:
        """Return what was given as JSON values, which make the same settings again."""
        return self.model_dump(mode="json", exclude_unset=True)


def checked(kind: Any, values: object, where: str) -> Any:
    """Return JSON values as a type that is no class of settings, e.g. a union of some.

    Raises:
        ConfigError: they do not fit.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ConfigError(_described(error.errors()[0], where, None)) from None


def settings_in(path: Path, what: str) -> Mapping[str, Any]:
    """Return the values of a .toml or .json file.

    Args:
        path: of the file.
        what: whose settings, for messages.

    Raises:
        ConfigError: unreadable; the message names the remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return dict(json.loads(text))
        return dict(importlib.import_module("tomllib").loads(text))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: TOML needs Python 3.11; write the same settings as .json") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {what} {path}: {error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest of the known names, or an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def allowed(field: FieldInfo) -> str:
    """Return what a field takes, in words: "a whole number of at least 1, or none"."""
    words, optional = _words(field.annotation, list(field.metadata))
    return f"{words}, or none" if optional else words


def _message(cls: type[Settings], values: object, error: ValidationError) -> str:
    """The first error in words; unknown names are listed together."""
    errors = error.errors(include_url=False)
    known = list(cls.model_fields)
    unknown = sorted(str(entry["loc"][0]) for entry in errors if entry["type"] == "extra_forbidden")
    if unknown:
        return f"{cls.where}: unknown settings {unknown}{did_you_mean(unknown[0], known)}; there are {sorted(known)}"
    missing = [str(entry["loc"][0]) for entry in errors if entry["type"] == "missing" and len(entry["loc"]) == 1]
    if missing:
        return f"{cls.where} lacks {'; '.join(f'{name}: {_meaning(cls.model_fields[name])}' for name in missing)}"
    first = errors[0]
    if first["type"] == "model_type":
        return f"{cls.where} must be an object of settings, got {_shown(values)}"
    return _described(first, cls.where, cls.model_fields.get(str(first["loc"][0])) if first["loc"] else None)


def _described(error: Any, where: str, field: FieldInfo | None) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    path = re.sub(r"\.(function-\w+|tuple|dict|constrained-\w+)\[?.*$", "", path)
    start, got = f"{where}: {path}" if path else where, f"got {_shown(error['input'])}"
    if error["type"].startswith("union_tag"):
        context, given = error["ctx"], error["input"]
        tag = str(context["discriminator"]).strip("'")
        kinds = context.get("expected_tags", "").replace("'", "")
        found = given.get(tag) if isinstance(given, Mapping) else None
        return f"{path or where} {tag} {found!r} is not one of {kinds}" if kinds else f"{start} lacks {tag}"
    default = "" if field is None or field.is_required() else f"; the default is {_default(field)}"
    if field is not None and len(error["loc"]) == 1 and error["type"] in _RANGE:
        return f"{start} must be {allowed(field)}, {got}{default}"
    if error["type"] == "too_short":
        return f"{start} must have at least {error['ctx']['min_length']} entry, {got}{default}"
    said = str(error["msg"])
    return f"{start}: {said[:1].lower()}{said[1:]}, {got}{default}"


def _meaning(field: FieldInfo) -> str:
    text = (field.description or allowed(field)).rstrip(".")
    return text[:1].lower() + text[1:]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "none" if value is None else _shown(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _words(kind: Any, metadata: list[Any]) -> tuple[str, bool]:
    """What a type takes, and whether None is of it."""
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        return _words(kind, [*metadata, *(part for one in more for part in getattr(one, "metadata", [one]))])
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        words = " or ".join(_words(part, metadata)[0] for part in parts)
        return words, len(parts) < len(get_args(kind))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}", False
    if said := [part.words for part in metadata if isinstance(part, Says)]:
        return said[0], False
    if kind in _WORDS:
        return _WORDS[kind] + _bounds(metadata), False
    if get_origin(kind) is tuple:
        return "a list", False
    return "an object {name: value}", False


def _bounds(metadata: list[Any]) -> str:
    found = {name: getattr(part, name) for part in metadata for name in ("gt", "ge", "lt", "le") if hasattr(part, name)}
    least = [f"above {found['gt']:,}"] if "gt" in found else [f"of at least {found['ge']:,}"] if "ge" in found else []
    most = [f"below {found['lt']:,}"] if "lt" in found else [f"at most {found['le']:,}"] if "le" in found else []
    return "".join(f" {part}" for part in [" and ".join([*least, *most])] if part)

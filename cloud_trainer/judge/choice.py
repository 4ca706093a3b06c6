"""Which judge: a checkpoint folder, or settings that name an endpoint or a local vision-language model.

Settings are a JSON or TOML file for `gymnast judge calibrate --judge FILE`, and the same values under `judge` in a
job's or a loop's configuration:

    kind = "endpoint"                        # any OpenAI-compatible server, e.g. vLLM
    base_url = "http://localhost:8000/v1"    # and the other fields of judge.client.Endpoint
    model = "Qwen/Qwen3-VL-8B-Instruct"
    key_variable = "JUDGE_API_KEY"           # the variable's name; the key itself is never stored
    [voting]                                 # fields of judge.endpoint.Voting
    votes = 5
    [rubrics]                                # what success means, by instruction; weights are partial credit
    "put the cube on the plate" = [
      {name = "lifted", text = "the cube left the table", weight = 1, required = false},
      {name = "on_plate", text = "at the end the cube lies on the plate", weight = 2},
    ]

    kind = "vlm"                             # Qwen-VL or SmolVLM, in this process
    folder = "models/SmolVLM2-500M"
    device = "cuda"                          # default auto; and the fields of judge.vlm.VlmSettings

Installed packages add kinds of their own (gymnast_core.extensions); theirs get all other settings by name.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from cloud_trainer.judge.rubric import Criterion, Rubric, Rubrics
from gymnast_core.errors import ConfigError
from gymnast_core.extensions import JUDGES, extension, installed
from gymnast_core.judge import Judge
from gymnast_core.records.manifest import MANIFEST_NAME

KINDS = ("checkpoint", "endpoint", "vlm")
DTYPES = ("bfloat16", "float16", "float32")

T = TypeVar("T")


def read_judge(path: Path) -> Judge:
    """Open the judge of a checkpoint folder or of a settings file (.json, .toml).

    Raises:
        ConfigError: neither, or a setting that does not exist.
        CheckpointError: the checkpoint or the model folder is damaged or of another kind.
    """
    if (path / MANIFEST_NAME).is_file():
        return judge_of({"kind": "checkpoint", "folder": str(path)})
    if not path.is_file():
        raise ConfigError(f"{path} is neither a judge's checkpoint folder nor a settings file (.json, .toml)")
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else importlib.import_module("tomllib").loads(text)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: TOML needs Python 3.11; write the same settings as .json") from error
    except ValueError as error:
        raise ConfigError(f"cannot read the judge's settings {path}: {error}") from error
    return judge_of(values)


def judge_of(settings: Mapping[str, Any]) -> Judge:
    """Make the judge that settings name; see the head of this file.

    Raises:
        ConfigError: an unknown kind or setting; the message lists those that there are.
        CheckpointError: the checkpoint or the model folder is damaged or of another kind.
    """
    values = dict(settings)
    kind = values.pop("kind", None)
    if kind == "checkpoint":
        from cloud_trainer.judge.learned import LearnedJudge

        return LearnedJudge.load(_folder(values, kind))
    if kind == "endpoint":
        return _endpoint(values)
    if kind == "vlm":
        return _vlm(values)
    if (others := installed(JUDGES)) and kind in others:
        return _added(str(kind), values)
    raise ConfigError(f"judge kind {kind!r} is not one of {', '.join((*KINDS, *others))}")


def _added(kind: str, values: dict[str, Any]) -> Judge:
    try:
        judge: Judge = extension(JUDGES, kind)(**values)
    except TypeError as error:
        raise ConfigError(f"{kind} judge: {error}") from error
    return judge


def _endpoint(values: dict[str, Any]) -> Judge:
    from cloud_trainer.judge.client import Endpoint, EndpointClient
    from cloud_trainer.judge.endpoint import EndpointJudge, Voting

    rubrics = _rubrics(values.pop("rubrics", {}))
    voting = build(Voting, values.pop("voting", {}), "voting")
    return EndpointJudge(EndpointClient(build(Endpoint, values, "endpoint judge")), rubrics, voting)


def _vlm(values: dict[str, Any]) -> Judge:
    import torch

    from cloud_trainer.judge.vlm import VlmSettings, load_vlm_judge
    from gymnast_core.policies.placement import check_device_name, device_of

    device, dtype = str(values.pop("device", "auto")), str(values.pop("dtype", "bfloat16"))
    check_device_name(device, "device of a vlm judge")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype of a vlm judge must be one of {DTYPES}, got {dtype!r}")
    folder = Path(str(values.pop("folder", "")))
    settings = build(VlmSettings, values, "vlm judge")
    return load_vlm_judge(folder, device=str(device_of(device)), dtype=getattr(torch, dtype), settings=settings)


def _rubrics(values: Mapping[str, Any]) -> Rubrics:
    tasks = {
        str(task).strip().lower(): Rubric(tuple(build(Criterion, row, f"rubric of {task!r}") for row in rows))
        for task, rows in values.items()
    }
    return Rubrics(tasks=tasks)


def _folder(values: dict[str, Any], kind: str) -> Path:
    folder = values.pop("folder", "")
    if not folder or values:
        raise ConfigError(f"a {kind} judge takes folder and nothing else, got {sorted(values)}")
    return Path(str(folder))


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a settings dataclass from JSON values.

    Raises:
        ConfigError: a field does not exist, or one without a default is missing; the message lists the fields.
    """
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown settings {unknown}; there are {known}")
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; the settings are {known}") from error

"""Opening the judge that settings name: a checkpoint folder, an endpoint, or a local vision-language model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

from cloud_trainer.judge.rubric import Rubric, Rubrics
from gymnast_core.errors import ConfigError
from gymnast_core.extensions import JUDGES, extension
from gymnast_core.jobs.judges import (
    AddedChoice,
    CheckpointChoice,
    Choice,
    Endpoint,
    EndpointChoice,
    JudgeChoice,
    VlmChoice,
    VlmSettings,
)
from gymnast_core.judge import Judge
from gymnast_core.records.manifest import MANIFEST_NAME
from gymnast_core.settings import checked
from gymnast_core.shipped import shipped_checkpoints


def read_judge(path: Path) -> Judge:
    """Open the judge of a checkpoint folder or of a settings file (.json, .toml); see gymnast_core.jobs.judges.

    Raises:
        ConfigError: neither, or a setting that does not exist.
        CheckpointError: the checkpoint or the model folder is damaged or of another kind.
    """
    if (path / MANIFEST_NAME).is_file():
        return judge_of(CheckpointChoice(kind="checkpoint", folder=str(path)))
    if not path.is_file():
        raise ConfigError(
            f"{path} is neither a judge's checkpoint folder nor a settings file (.json, .toml); the shipped judge is "
            f"{shipped_checkpoints() / 'judge'}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else importlib.import_module("tomllib").loads(text)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: TOML needs Python 3.11; write the same settings as .json") from error
    except ValueError as error:
        raise ConfigError(f"cannot read the judge's settings {path}: {error}") from error
    return judge_of(choice_of(values))


def choice_of(values: Mapping[str, object]) -> Choice:
    """Return JSON values as the choice that they are.

    Raises:
        ConfigError: an unknown kind or setting; the message lists those that there are.
    """
    choice: Choice = checked(JudgeChoice, values, "judge")
    return choice


def judge_of(choice: Choice) -> Judge:
    """Make the judge that was chosen.

    Raises:
        ConfigError: an API key is missing, or an installed package's judge does not take these settings.
        CheckpointError: the checkpoint or the model folder is damaged or of another kind.
    """
    if isinstance(choice, CheckpointChoice):
        from cloud_trainer.judge.learned import LearnedJudge

        return LearnedJudge.load(Path(choice.folder))
    if isinstance(choice, AddedChoice):
        return _added(choice)
    return _endpoint(choice) if isinstance(choice, EndpointChoice) else _vlm(choice)


def _added(choice: AddedChoice) -> Judge:
    try:
        judge: Judge = extension(JUDGES, choice.kind)(**(choice.model_extra or {}))
    except TypeError as error:
        raise ConfigError(f"{choice.kind} judge: {error}") from error
    return judge


def _endpoint(choice: EndpointChoice) -> Judge:
    from cloud_trainer.judge.client import EndpointClient
    from cloud_trainer.judge.endpoint import EndpointJudge

    endpoint = Endpoint(**{name: value for name, value in choice.named().items() if name in Endpoint.model_fields})
    tasks = {task.strip().lower(): Rubric(criteria) for task, criteria in choice.rubrics.items()}
    return EndpointJudge(EndpointClient(endpoint), Rubrics(tasks=tasks), choice.voting)


def _vlm(choice: VlmChoice) -> Judge:
    import torch

    from cloud_trainer.judge.vlm import load_vlm_judge
    from gymnast_core.policies.placement import device_of

    settings = VlmSettings(**{n: value for n, value in choice.named().items() if n in VlmSettings.model_fields})
    device, dtype = device_of(choice.device or "auto"), getattr(torch, choice.dtype)
    return load_vlm_judge(Path(choice.folder), device=str(device), dtype=dtype, settings=settings)

"""What an unattended loop does, in one TOML or JSON file: schedule, budgets, stop conditions."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.seeds import block


@dataclass(frozen=True)
class StopRule:
    """When to stop before the last round.

    Attributes:
        success: evaluation success that is good enough.
        patience: rounds in a row without a gain.
        refusals: rounds in a row in which the audit refused to train.
        episodes: budget of real episodes, evaluations included.
        wall_s: budget of time, over all restarts; checked between steps.
    """

    success: float = 1.0
    patience: int = 2
    refusals: int = 2
    episodes: int = 100_000
    wall_s: float = 7 * 24 * 3600.0

    def __post_init__(self) -> None:
        """Refuse rules that would stop at once or mean nothing."""
        if not 0 < self.success <= 1:
            raise ConfigError(f"stop.success must be above 0 and at most 1, got {self.success}")
        for name in ("patience", "refusals", "episodes", "wall_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"stop.{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class LoopConfig:
    """One loop.

    Attributes:
        name: of the loop; the same name goes on where it was.
        world_model: checkpoint id to start from; empty is the trainer's newest when the loop begins.
        judge: likewise.
        rounds: at most so many.
        tasks: names or instructions.
        scene: where.
        seed: of everything random; each has start states of its own.
        collect: episodes per task, round by round; the last number repeats. Falling numbers spend real episodes early.
        grpo_iterations: policy updates, round by round; the last number repeats.
        choosing: start states per task of the canary: at most so many pairs a task, fewer once its rule decides.
        canary: the promotion rule, declared before the first pair; alpha_promote is shared by a round's candidates.
            max_pairs is choosing times tasks.
        evaluation: start states per task of the evaluation after every round; the same ones each time.
        piece: episodes per task recorded between two saves of the state.
        robot: its name at the trainer; empty is the only one that reports.
        replayed: start states per task of an evaluation that are recorded, for the trainer's calibration ledger.
        job: settings of the training job, see gymnast_core.jobs.ImproveSettings.
        stop: see StopRule.
    """

    name: str
    world_model: str = ""
    judge: str = ""
    rounds: int = 3
    tasks: tuple[str, ...] = ("lift", "push", "put", "drawer")
    scene: str = "standard"
    seed: int = 0
    collect: tuple[int, ...] = (150,)
    grpo_iterations: tuple[int, ...] = (10,)
    choosing: int = 25
    evaluation: int = 50
    piece: int = 25
    robot: str = ""
    replayed: int = 15
    canary: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    stop: StopRule = field(default_factory=StopRule)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", self.name):
            raise ConfigError(f"a loop's name is up to 64 letters, digits, _ . and -, got {self.name!r}")
        block("loop collect", self.seed)
        if not 1 <= self.rounds <= 30:
            raise ConfigError(f"rounds must be 1..30, got {self.rounds}")
        for name in ("choosing", "evaluation", "piece"):
            if not 1 <= getattr(self, name) <= 500:
                raise ConfigError(f"{name} must be 1..500, got {getattr(self, name)}")
        if not self.tasks:
            raise ConfigError("a loop needs at least one task, e.g. tasks = ['lift']")
        for name in ("collect", "grpo_iterations"):
            values = getattr(self, name)
            if not values or min(values) < 1 or max(values) > 500:
                raise ConfigError(f"{name} must be numbers 1..500, one per round, got {list(values)}")

        if not 0 <= self.replayed <= 500:
            raise ConfigError(f"replayed must be 0..500, got {self.replayed}")
        self.rule(1)

    def rule(self, candidates: int) -> SequentialRule:
        """The canary's rule for one of so many candidates: together they are promoted wrongly as rarely as one.

        Raises:
            ConfigError: a setting of the canary does not exist or makes no test; the message lists those that do.
        """
        known = {entry.name for entry in fields(SequentialRule)} - {"max_pairs"}
        if unknown := sorted(set(self.canary) - known):
            raise ConfigError(f"unknown canary settings {unknown}; there are {sorted(known)}")
        most = self.choosing * len(self.tasks)
        declared = SequentialRule(**{"min_pairs": min(5, most), **self.canary, "max_pairs": most})
        return replace(declared, alpha_promote=declared.alpha_promote / max(1, candidates))

    def at(self, name: str, round_number: int) -> int:
        """A schedule's value in a round (1, 2, ...)."""
        values = getattr(self, name)
        return int(values[min(round_number, len(values)) - 1])

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def read_loop_config(path: Path) -> LoopConfig:
    """Read a .toml or .json file.

    Raises:
        ConfigError: unreadable, or a setting that does not exist; the message lists those that do.
    """
    return loop_config_of(_parse(path), str(path))


def loop_config_of(given: Mapping[str, Any], where: str) -> LoopConfig:
    """Return a loop's settings from JSON values.

    Args:
        given: the values.
        where: they are from, for messages.

    Raises:
        ConfigError: a setting does not exist, or is missing; the message lists those that do.
    """
    values = dict(given)
    stop = values.pop("stop", {})
    _check_names(values, LoopConfig, "loop")
    _check_names(stop, StopRule, "stop")
    if "name" not in values:
        raise ConfigError(f"{where} lacks name: the same name goes on where it stopped")
    for name in ("collect", "grpo_iterations"):
        if isinstance(values.get(name), int):
            values[name] = [values[name]]
    for name in ("tasks", "collect", "grpo_iterations"):
        if name in values:
            values[name] = tuple(values[name])
    return LoopConfig(**{**values, "stop": StopRule(**stop)})


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return dict(json.loads(text))
        return dict(importlib.import_module("tomllib").loads(text))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: TOML needs Python 3.11; write the same settings as .json") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the loop's settings {path}: {error}") from error


def _check_names(values: Mapping[str, Any], kind: type[LoopConfig] | type[StopRule], where: str) -> None:
    known = {entry.name for entry in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"unknown {where} settings {unknown}; there are {sorted(known)}")

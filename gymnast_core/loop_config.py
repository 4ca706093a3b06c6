"""What an unattended loop does, in one TOML or JSON file: schedule, budgets, stop conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.sequential import MOST_ALPHA_PROMOTE, SequentialRule
from gymnast_core.jobs import ImproveSettings
from gymnast_core.practice import MOST_HOURS
from gymnast_core.seeds import block
from gymnast_core.settings import Count, CountOrZero, Positive, Says, Settings, Texts, settings_in

MOST = 500
"""Episodes of one kind, and updates, per round."""


def _listed(value: Any) -> Any:
    """One number is a schedule too."""
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


Starts = Annotated[int, Field(ge=1, le=MOST)]
Schedule = Annotated[tuple[Starts, ...], Field(strict=False, min_length=1), BeforeValidator(_listed)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"), Says("up to 64 letters, digits, _ . and -")]
Rate = Annotated[float, Field(gt=0, le=0.5)]


class StopRule(Settings):
    """When to stop before the last round."""

    where: ClassVar[str] = "stop"

    success: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Evaluation success that is good enough."""
    patience: Count = 2
    """Rounds in a row without a gain."""
    refusals: Count = 2
    """Rounds in a row in which the audit refused to train."""
    episodes: Count = 100_000
    """Budget of real episodes, evaluations included."""
    wall_s: Positive = 7 * 24 * 3600.0
    """Budget of time, over all restarts; checked between steps."""


class CanaryRule(Settings):
    """The promotion rule of a loop's canary, declared before its first pair; max_pairs is choosing times tasks."""

    where: ClassVar[str] = "canary"

    alpha_promote: Annotated[float, Field(gt=0, le=MOST_ALPHA_PROMOTE)] = 0.025
    """Largest chance that a policy that is not better is ever promoted, shared by a round's candidates."""
    alpha_roll_back: Rate = 0.025
    """Largest chance that a policy that is not worse is ever rolled back as worse."""
    alpha_futile: Rate = 0.10
    """Largest chance that a policy better by worthwhile is given up as futile."""
    worthwhile: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """The smallest gain in success rate worth promoting for; futility means it is excluded."""
    min_pairs: Count | None = None
    """No decision before this many pairs; none is 5, or all where there are fewer."""


class LoopConfig(Settings):
    """One loop."""

    where: ClassVar[str] = "loop"

    name: Name
    """Of the loop: the same name goes on where it stopped."""
    world_model: str = ""
    """Checkpoint to start from; empty is the trainer's newest when the loop begins."""
    judge: str = ""
    """Likewise."""
    rounds: Annotated[int, Field(ge=1, le=30)] = 3
    """At most so many."""
    tasks: Annotated[Texts, Field(min_length=1)] = ("lift", "push", "put", "drawer")
    """Names or instructions."""
    scene: str = "standard"
    """Where."""
    seed: int = 0
    """Of everything random; each has start states of its own."""
    collect: Schedule = (150,)
    """Episodes per task, round by round; the last number repeats. Falling numbers spend real episodes early."""
    grpo_iterations: Schedule = (10,)
    """Policy updates, round by round; the last number repeats."""
    restart: bool = False
    """Practise in every round from the policy that the loop began with, in what is by then a better dream, rather than
    go on from the one in force; the canary still asks for a candidate better than that one."""
    choosing: Starts = 25
    """Start states per task of the canary: at most so many pairs a task, fewer once its rule decides."""
    evaluation: Starts = 50
    """Start states per task of the evaluation after every round; the same ones each time."""
    piece: Starts = 25
    """Episodes per task recorded between two saves of the state."""
    practise: dict[str, str] = Field(default_factory=dict)
    """Task -> what undoes it, e.g. {put = "take"}: both are collected by practising them in turns, each from where the
    other ended, instead of from laid-out starts."""
    practise_hours: Annotated[float, Field(gt=0, le=MOST_HOURS)] = 12.0
    """Longest practice of a pair in one round."""
    practise_tries: CountOrZero = 0
    """Failures in a row of one skill, then a person is called to lay the scene; 0 goes by the skill's success."""
    robots: Texts = ()
    """Their names at the trainer, which share the episodes; none is the only one that reports. `robot` names one."""
    replayed: Annotated[int, Field(ge=0, le=MOST)] = 15
    """Start states per task of an evaluation that are recorded, for the trainer's calibration ledger."""
    canary: CanaryRule = Field(default_factory=CanaryRule)
    """The promotion rule."""
    job: ImproveSettings = Field(default_factory=ImproveSettings)
    """Settings of the training job; grpo_iterations are the loop's own."""
    stop: StopRule = Field(default_factory=StopRule)
    """When to stop before the last round."""

    @model_validator(mode="before")
    @classmethod
    def _one_robot(cls, values: Any) -> Any:
        """Take `robot` for a list of one: of one robot it reads better, and loops of 0.1 were kept so."""
        if not isinstance(values, Mapping) or "robot" not in values:
            return values
        one, several = values["robot"], values.get("robots", ())
        if not isinstance(one, str) or (one and several):
            raise ConfigError(f"loop: robot must be one name, without robots beside it, got {one!r} and {several!r}")
        rest = {name: value for name, value in values.items() if name != "robot"}
        return {**rest, "robots": (one,) if one else several}

    @model_validator(mode="after")
    def _can_run(self) -> LoopConfig:
        block("loop collect", self.seed)
        if "grpo_iterations" in self.job.model_fields_set:
            raise ConfigError("loop: grpo_iterations stand beside job, one per round; take them out of it")
        if len(set(self.robots)) < len(self.robots) or not all(name.strip() for name in self.robots):
            raise ConfigError(f"loop: robots must be names, each once, got {list(self.robots)}")
        for task, reset in self.practise.items():
            if task not in self.tasks or not reset.strip() or reset == task:
                raise ConfigError(
                    f"loop: practise {{{task!r}: {reset!r}}} must name one of the tasks {list(self.tasks)} and what "
                    "undoes it"
                )
        self.rule(1)
        return self

    def rule(self, candidates: int) -> SequentialRule:
        """The canary's rule for one of so many candidates: together they are promoted wrongly as rarely as one.

        Raises:
            ConfigError: it makes no test.
        """
        most = self.choosing * len(self.tasks)
        named = {name: value for name, value in self.canary.named().items() if value is not None}
        declared = SequentialRule(**{"min_pairs": min(5, most), **named, "max_pairs": most})
        return replace(declared, alpha_promote=declared.alpha_promote / max(1, candidates))

    def at(self, name: str, round_number: int) -> int:
        """A schedule's value in a round (1, 2, ...)."""
        values = getattr(self, name)
        return int(values[min(round_number, len(values)) - 1])

    def to_json(self) -> dict[str, Any]:
        """As JSON values; of the job and the canary only what is named, for their defaults are the trainer's."""
        kept = {"job": self.job.to_json(), "canary": self.canary.to_json()}
        return {**self.model_dump(mode="json", exclude=set(kept)), **kept}


def read_loop_config(path: Path) -> LoopConfig:
    """Read a .toml or .json file.

    Raises:
        ConfigError: unreadable, or a setting that does not exist; the message lists those that do.
    """
    return LoopConfig.model_validate(settings_in(path, "the loop's settings"))

"""What is fixed before the first run of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.cards import DeclaredPlan
from gymnast_core.evaluation.sequential import HarmRule, SequentialRule
from gymnast_core.json_values import JsonObject


@dataclass(frozen=True)
class TrialPlan:
    """What is fixed before the first run.

    Attributes:
        trial_id: never reused.
        incumbent: checkpoint id that runs now.
        candidate: checkpoint id that wants to.
        instruction: what the arm is asked to do; of several, for people: pairs take turns through `tasks`.
        rule: when to stop and what to conclude.
        start_seeds: one start state per pair; at least rule.max_pairs of them.
        judge: source of the labels: "operator", or a judge's version.
        judge_calibration: JSON values: how far that judge is to be trusted.
        versions: JSON values: code, robot, world model; for the card.
        tasks: instructions that take turns, pair by pair; empty is `instruction` alone. A SequentialRule decides on
            all of them together, a HarmRule on each.
    """

    trial_id: str
    incumbent: str
    candidate: str
    instruction: str
    rule: SequentialRule | HarmRule
    start_seeds: tuple[int, ...]
    judge: str = "operator"
    judge_calibration: JsonObject | None = None
    versions: JsonObject | None = None
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a comparison of a checkpoint with itself, and too few starts."""
        if self.incumbent == self.candidate:
            raise ConfigError(f"incumbent and candidate are both {self.incumbent}; name two checkpoints")
        if len(self.start_seeds) < self.rule.max_pairs:
            raise ConfigError(f"{len(self.start_seeds)} start seeds for up to {self.rule.max_pairs} pairs; add some")
        if len(set(self.start_seeds)) != len(self.start_seeds):
            raise ConfigError("start seeds repeat; every pair needs a start of its own")
        of_rule = self.rule.tasks if isinstance(self.rule, HarmRule) else len(self.tasks)
        if len(set(self.tasks)) != len(self.tasks) or len(self.tasks) != of_rule:
            raise ConfigError(f"the rule is for {of_rule} other tasks, got {list(self.tasks)}; name each once")

    def to_json(self) -> DeclaredPlan:
        """Return the plan as JSON values."""
        return {
            "trial_id": self.trial_id, "incumbent": self.incumbent, "candidate": self.candidate,
            "instruction": self.instruction, "rule": self.rule.to_json(), "start_seeds": list(self.start_seeds),
            "judge": self.judge, "judge_calibration": self.judge_calibration, "versions": self.versions,
            "tasks": list(self.tasks),
        }  # fmt: skip

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TrialPlan:
        """Return the plan that to_json() wrote."""
        tasks = tuple(data.get("tasks", ()))
        rule = HarmRule(**data["rule"]) if "tasks" in data["rule"] else SequentialRule(**data["rule"])
        return TrialPlan(**{**data, "rule": rule, "start_seeds": tuple(data["start_seeds"]), "tasks": tasks})

    def instruction_of(self, pair: int) -> str:
        """Return what the arm is asked to do in a pair."""
        return self.tasks[pair % len(self.tasks)] if self.tasks else self.instruction

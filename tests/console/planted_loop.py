"""A finished unattended loop for the page to show: the real Loop; what the robot and the jobs answer is planted."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gymnast_cli.loop import Loop
from gymnast_cli.stages import Advance, Stages
from gymnast_core.evaluation.sequential import Decision, SequentialRule, confidence_sequence
from gymnast_core.evaluation.statistics import PairCounts, wilson_interval
from gymnast_core.loop_config import LoopConfig

TASKS = ("lift", "push")


class PlantedRobot:
    """Succeeds as often as its checkpoint's rate says, the same way from the same start state."""

    def __init__(self, policy: str, rates: Mapping[str, float]) -> None:
        self.policy_version, self.robot_name, self._rates = policy, "sim-0", rates

    def evaluate(
        self, *, tasks: Sequence[str], seed_start: int, seed_count: int, checkpoints: Sequence[str] = (), **_: Any
    ) -> dict[str, Any]:
        rows = [
            {
                "task": task,
                "seed": seed,
                "policy": name,
                "success": bool(np.random.default_rng([number, seed]).random() < self._rates[name]),
            }
            for name in checkpoints or [self.policy_version]
            for number, task in enumerate(tasks)
            for seed in range(seed_start, seed_start + seed_count)
        ]
        return {"episodes": rows}

    def flush(self, timeout_s: float) -> None:
        """Everything is there."""

    def wait_staged(self, names: Sequence[str], timeout_s: float) -> None:
        """Everything is there."""

    def swap(self, checkpoint_id: str) -> None:
        self.policy_version = checkpoint_id


class PlantedCanary:
    """The trial's own rule and card over the robot's planted rates."""

    def __init__(self, robot: PlantedRobot) -> None:
        self._robot = robot

    def run(self, candidate: str, incumbent: str, rule: SequentialRule, key: str, advance: Advance) -> dict[str, Any]:
        decision, counts = Decision.CONTINUE, PairCounts(0, 0, 0, 0)
        won: dict[str, list[bool]] = {candidate: [], incumbent: []}
        while not decision.final:
            for name, outcomes in won.items():
                (row,) = self._robot.evaluate(
                    tasks=TASKS[:1], seed_start=len(outcomes), seed_count=1, checkpoints=[name]
                )["episodes"]
                outcomes.append(row["success"])
            counts = PairCounts.of(won[incumbent], won[candidate])
            decision = rule.decide(counts)
        return {
            "candidate": candidate, "decision": decision.value, "n": counts.n, "counts": asdict(counts),
            "difference": confidence_sequence(counts).to_json(), "rule": rule.to_json(), "trial_id": key,
        }  # fmt: skip


class PlantedLoop(Loop):
    """Training answers at once: a better policy, one no better, a refusal."""

    def __init__(self, folder: Path, checkpoints: Sequence[str]) -> None:
        first, better, same = checkpoints
        self._robot = PlantedRobot(first, {first: 0.3, better: 0.75, same: 0.75})
        config = LoopConfig(
            folder, "world_model-a", "judge-a", rounds=3, tasks=TASKS, collect=(10,), choosing=25, evaluation=100
        )
        stages = Stages(Console(file=io.StringIO()))
        here: Callable[[str], str] = str
        canary: Any = PlantedCanary(self._robot)
        super().__init__(config, self._robot, None, canary, here, stages)  # type: ignore[arg-type]
        self._answers = {1: better, 2: same, 3: ""}

    def _train(self, number: int, advance: Advance) -> dict[str, Any]:
        if not self._answers[number]:
            return {"refused": "agreement 0.71 is below 0.80; collect more first", "candidates": []}
        trusted = {"precision": wilson_interval(88 + number, 100).to_json()}
        return {
            "candidates": [{"id": self._answers[number]}], "world_model": f"world_model-{number}", "judge": "judge-a",
            "audit": {"agreement": 0.82 + 0.04 * number, "optimism": 0.12 - 0.03 * number},
            "judge_trust": {"tasks": [trusted]}, "imagined_reward": [],
        }  # fmt: skip

"""An unattended loop without an arm: the real Loop; what the robot, the jobs and the canaries answer is planted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cloud_trainer.flows.adaptation_engine import CLOSING, Ended
from cloud_trainer.flows.arms import Errand
from cloud_trainer.flows.job_following import JobEndedError
from cloud_trainer.flows.loop_parts import Advance, CanaryRequest
from cloud_trainer.flows.queue_begin import Begin
from cloud_trainer.progress import ClosingError
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.evaluation.sequential import Decision, confidence_sequence
from gymnast_core.evaluation.statistics import PairCounts, wilson_interval
from gymnast_core.loop_config import LoopConfig
from gymnast_core.orders import EpisodeAnswer, OrderError, PracticeFigures
from gymnast_core.practice import PracticeAsked

TASKS = ("lift", "push")


class PlantedRobot:
    """Succeeds as often as its checkpoint's rate says, the same way from the same start state."""

    def __init__(self, policy: str, rates: Mapping[str, float]) -> None:
        self.policy_version, self.rates, self.runs = policy, rates, 0
        self.unable, self.stopped = "", False
        self.at_work = threading.Event()
        self.stuck: threading.Event | None = None
        self.staged: list[str] = []
        self.practised: list[PracticeAsked] = []
        self._before = policy

    def once(self, task: str, seed: int, policy: str) -> EpisodeAnswer:
        self.runs += 1
        drawn = np.random.default_rng([TASKS.index(task), seed]).random()
        return EpisodeAnswer(
            task=task, instruction=task, seed=seed, success=bool(drawn < self.rates[policy]), episode_id="",
            labelled_by="", truncated_reason="",
        )  # fmt: skip

    def evaluate(
        self, *, tasks: Sequence[str], seed_start: int, seed_count: int, withdrawn: Callable[[], bool], **_: Any
    ) -> list[EpisodeAnswer]:
        self.at_work.set()
        while self.stuck is not None and not self.stuck.wait(0.01):
            if withdrawn():
                raise OrderError("evaluate was withdrawn")
        seeds = range(seed_start, seed_start + seed_count)
        return [self.once(task, seed, self.policy_version) for task in tasks for seed in seeds]

    def practise(self, asked: PracticeAsked, timeout_s: float, withdrawn: Callable[[], bool]) -> PracticeFigures:
        self.practised.append(asked)
        return PracticeFigures(episodes=asked.episodes, interventions=1, reason=f"all {asked.episodes} are done")

    def flush(self, timeout_s: float) -> None:
        """Everything is there."""

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float) -> None:
        self.staged += checkpoint_ids

    def swap(self, checkpoint_id: str) -> str:
        self._before, self.policy_version = self.policy_version, checkpoint_id
        return checkpoint_id

    def rollback(self) -> str:
        self.policy_version = self._before
        return self.policy_version


class PlantedEngine:
    """Answers at once: training with a better policy, one no better, a refusal; canaries by the trial's own rule and
    card over the robot's planted rates.

    Args:
        checkpoints: the first one is in force; then what rounds 1 and 2 train.
        hold: training waits until it is set.
        names: of its robots.
    """

    def __init__(
        self, checkpoints: Sequence[str], hold: threading.Event | None = None, names: Sequence[str] = ("wx-0",)
    ) -> None:
        first, better, same = checkpoints
        self.robots = {name: PlantedRobot(first, {first: 0.3, better: 0.75, same: 0.75}) for name in names}
        self.robot = self.robots[names[0]]
        self.tried_on: list[str] = []
        self._answers = {1: better, 2: same, 3: ""}
        self.hold, self.trained, self.asked = hold, [], threading.Event()
        self.errands: list[Errand] = []
        self.asks_gate: list[str] = []
        self.gate_says: dict[str, str] = {}
        self.admitted: list[tuple[str, tuple[str, ...], str, str]] = []
        self.named: list[str] = []
        self.begins: Begin = lambda *_: None

    def check(self, job: Mapping[str, Any], world_model: str) -> None:
        """Nothing here reaches out."""

    def connect(self, robot: str, errand: Errand) -> Any:
        self.errands.append(errand)
        return self.robots.get(robot, self.robot)

    def begin(self, robots: Sequence[str], errand: Errand, ended: Ended, advance: Advance) -> None:
        self.begins(robots, errand, ended, lambda why: advance(0, 0, why))

    def require(self, policy: str) -> None:
        if policy not in self.robot.rates:
            raise ConfigError(f"the trainer has no checkpoint {policy!r}")

    def newest(self, kind: str) -> str:
        return f"{kind}-newest"

    def improve(self, spec: Mapping[str, Any], key: str, by: str, ended: Ended, advance: Advance) -> Mapping[str, Any]:
        self.named.append(by)
        number = int(spec["seed"]) % 100
        self.trained.append((key, dict(spec)))
        self.asked.set()
        while self.hold is not None and not self.hold.wait(0.01):
            if (why := ended()) == CLOSING:
                raise ClosingError("the job goes on")
            if why:
                raise JobEndedError(f"the training job of {key} was cancelled")
        if not self._answers[number]:
            raise NotTrustedError("agreement 0.71 is below 0.80; collect more first")
        trusted = {"precision": wilson_interval(88 + number, 100).to_json()}
        return {
            "candidates": [{"id": self._answers[number]}], "world_model": f"world_model-{number}", "judge": "judge-a",
            "audit": {"agreement": 0.82 + 0.04 * number, "optimism": 0.12 - 0.03 * number},
            "judge_trust": {"tasks": [trusted]}, "imagined_reward": [],
        }  # fmt: skip

    def asking(self, robots: Sequence[str]) -> list[str]:
        return [name for name in robots if name in self.asks_gate]

    def admit(self, candidate: str, robots: Sequence[str], key: str, by: str, ended: Ended, advance: Advance) -> str:
        self.admitted.append((candidate, tuple(robots), key, by))
        return self.gate_says.get(candidate, "")

    def try_out(self, asked: CanaryRequest, ended: Ended, advance: Advance) -> Mapping[str, Any]:
        self.named.append(asked.by)
        self.tried_on.append(asked.robot)
        decision, counts = Decision.CONTINUE, PairCounts(0, 0, 0, 0)
        won: dict[str, list[bool]] = {asked.candidate: [], asked.incumbent: []}
        while not decision.final:
            for name, outcomes in won.items():
                row = self.robots.get(asked.robot, self.robot).once(asked.tasks[0], len(outcomes), name)
                outcomes.append(row.success)
            counts = PairCounts.of(won[asked.incumbent], won[asked.candidate])
            decision = asked.rule.decide(counts)
        return {
            "candidate": asked.candidate, "decision": decision.value, "n": counts.n, "counts": asdict(counts),
            "difference": confidence_sequence(counts).to_json(), "rule": asked.rule.to_json(), "trial_id": asked.key,
        }  # fmt: skip


def planted_config(name: str = "night") -> LoopConfig:
    return LoopConfig(
        name=name,
        world_model="world_model-a",
        judge="judge-a",
        rounds=3,
        tasks=TASKS,
        collect=(10,),
        choosing=25,
        evaluation=100,
    )

"""Paired evaluation on the arm: the same start states for every checkpoint, rows and sums as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError, EstopLatchedError, SafetyError
from gymnast_core.policy import Policy
from gymnast_ros.run.episodes import EpisodeRunner
from gymnast_ros.run.plan import EpisodePlan, EpisodeResult
from gymnast_ros.run.retry import RetryingRunner, by_policy

REPEATS = 8
"""Times an episode is tried when arm or gate are lost under it; it starts from the same state again."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What shall be evaluated.

    Attributes:
        tasks: (name, instruction) pairs.
        seed_start: first start state; every task gets the same range.
        seed_count: start states per task.
        scene: look of the world.
        temperature_seed: negative is greedy.
        record: write every episode to the spool.
        purpose: rides in the recordings' metadata.
        ids: see EpisodePlan.
        resume: see EpisodePlan.
        temperature: see EpisodePlan.
    """

    tasks: tuple[tuple[str, str], ...]
    seed_start: int
    seed_count: int
    scene: str = "standard"
    temperature_seed: int = -1
    record: bool = False
    purpose: str = "evaluate"
    ids: str = ""
    resume: str = ""
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty plan."""
        if not self.tasks:
            raise ConfigError("an evaluation needs at least one task")
        if self.seed_count < 1:
            raise ConfigError(f"seed_count must be at least 1, got {self.seed_count}")

    def episodes(self) -> list[EpisodePlan]:
        """Every episode, tasks interleaved so that a drift of the machine hits all alike."""
        return [
            EpisodePlan(
                instruction,
                task,
                self.seed_start + offset,
                self.scene,
                self.temperature_seed,
                self.record,
                self.purpose,
                self.ids,
                resume=self.resume,
                temperature=self.temperature,
            )
            for offset in range(self.seed_count)
            for task, instruction in self.tasks
        ]


def evaluate(
    runner: EpisodeRunner,
    policies: Sequence[Policy],
    plan: EvaluationPlan,
    *,
    cancelled: Callable[[], bool],
    progress: Callable[[int, int, Sequence[EpisodeResult]], None],
    renew: Callable[[Policy], Policy] = lambda policy: policy,
    stopped: Callable[[str], bool] = lambda reason: False,
    retrying: RetryingRunner | None = None,
    before: Sequence[EpisodeResult] = (),
) -> list[EpisodeResult]:
    """Run every policy from every start state.

    Args:
        runner: of the arm.
        policies: compared in this order at every start state.
        plan: what to run.
        cancelled: asked between episodes.
        progress: called with (done, total, rows) after each.
        renew: asked before every episode; gives the policy in force where that is what is evaluated.
        stopped: called with the reason when an e-stop ended an episode; returns True once the arm is armed again, and
            the episode is repeated from the same start; False gives up.
        retrying: tries again after a judged failure; its rows stay with it. None tries every start once.
        before: the first rows of this very plan, which were finished before a restart.

    Returns:
        The rows so far when cancelled, else one per policy and start state: of first attempts alone.

    Raises:
        EstopLatchedError: an operator stopped the arm and stopped() gave up; the rows are lost to the caller, the
            recordings are not.
        SafetyError: the arm refuses the plan, or arm or gate stayed away for eight attempts.
    """
    episodes = plan.episodes()
    rows = list(before)
    run = partial(runner.run, cancelled=cancelled) if retrying is None else retrying.first
    for number, episode in enumerate(episodes):
        for policy in policies[max(0, len(before) - number * len(policies)) :]:
            if cancelled():
                return rows
            driver = renew(policy)
            row = _until_done(run, episode, driver, cancelled)
            while row.truncated_reason == "estop":
                if not stopped(row.detail):
                    if cancelled():
                        return rows
                    raise EstopLatchedError(row.detail)
                driver = renew(policy)
                row = _until_done(run, episode, driver, cancelled)
            if row.truncated_reason == "cancelled":
                return rows
            rows.append(row)
            progress(len(rows), len(episodes) * len(policies), rows)  # from here on a restart does not repeat it
            if retrying is not None:
                retrying.again(row, episode, driver)
    return rows


def _until_done(
    run: Callable[[EpisodePlan, Policy], EpisodeResult],
    episode: EpisodePlan, policy: Policy, cancelled: Callable[[], bool],
) -> EpisodeResult:  # fmt: skip
    for _ in range(REPEATS):
        row = run(episode, policy)
        if row.truncated_reason == "refused":
            raise SafetyError(row.detail)
        if row.truncated_reason != "arm_lost" or cancelled():
            return row
    raise SafetyError(f"gave up after {REPEATS} attempts: {row.detail}")


def summarise(rows: Sequence[EpisodeResult]) -> dict[str, Any]:
    """{version: {successes, n, unlabelled, tasks: {task: the same}}}; n are the labelled episodes."""
    policies: dict[str, Any] = {}
    for row in rows:
        policy = policies.setdefault(row.policy, {"successes": 0, "n": 0, "unlabelled": 0, "tasks": {}})
        task = policy["tasks"].setdefault(row.task, {"successes": 0, "n": 0, "unlabelled": 0})
        for count in (policy, task):
            count["unlabelled"] += int(row.success is None)
            count["n"] += int(row.success is not None)
            count["successes"] += int(row.success is True)
    return policies


def write_evaluation(
    path: Path, plan: EvaluationPlan, rows: Sequence[EpisodeResult], checkpoints: Sequence[str], *,
    retrying: RetryingRunner | None, complete: bool, seconds: float,
) -> dict[str, object]:  # fmt: skip
    """Write an evaluation's rows and sums; returns the sums, and where they lie.

    Args:
        path: of the file; named by the run.
        plan: what was run.
        rows: of first attempts.
        checkpoints: ids of what was evaluated.
        retrying: with the rows of further attempts; None made none.
        complete: whether every episode of the plan was run.
        seconds: it took.
    """
    result: dict[str, object] = {
        "run_id": path.stem, "scene": plan.scene, "temperature_seed": plan.temperature_seed,
        "temperature": plan.temperature,
        "seed_start": plan.seed_start, "seed_count": plan.seed_count, "checkpoints": checkpoints,
        "policies": summarise(rows), "complete": complete, "seconds": seconds,
    }  # fmt: skip
    result |= {} if retrying is None else {"retried": by_policy(retrying.groups, retrying.of)}
    groups = {} if retrying is None else {"groups": [group.to_json() for group in retrying.groups]}
    write_result(path, {**result, "episodes": [row.to_json() for row in rows], **groups})
    return {**result, "file": str(path.resolve())}


def write_result(path: Path, result: Mapping[str, object]) -> None:
    """Write JSON so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial-{os.getpid()}")
    staging.write_text(json.dumps(result, indent=1, sort_keys=True))
    staging.replace(path)

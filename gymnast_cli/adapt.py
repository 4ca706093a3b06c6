"""Test-time training as one action: collect in the scene, train, offer, try it on the arm, keep it only if it wins.

Used by `gymnast ttt` and the demo. Everything is asked of a started robot (GraphClient), whose bridge has the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnast_cli.jobs import describe
from gymnast_cli.results import KeepRule, counts, difference, judge_trial, trials_of
from gymnast_cli.stages import Advance, shown

if TYPE_CHECKING:
    from gymnast_ros.nodes.client import GraphClient

FLUSH_S = 120.0
STAGE_S = 120.0
"""How long episodes may take up, and a checkpoint down."""

ADAPT_S = 7200.0
"""Longest wait for a whole adaptation: a queue at the trainer, its budget, the way up and down."""


@dataclass(frozen=True)
class AdaptOutcome:
    """What an adaptation job came to.

    Attributes:
        candidate: id of the adapted checkpoint, staged on the robot; None when there is nothing to try.
        reason: why there is none.
        job: the job's result (audit, imagined_reward, forgetting, ...); empty when the trust check refused.
    """

    candidate: str | None
    reason: str = ""
    job: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AdaptTrial:
    """An adapted checkpoint against the one in force, same start states.

    Attributes:
        kept: what the rule says.
        reason: in words.
        scene: {before, after, difference} in the new scene.
        other_tasks: the same on the other tasks in the standard scene; empty when none was asked for.
    """

    kept: bool
    reason: str
    scene: Mapping[str, Any]
    other_tasks: Mapping[str, Any]


def test_time_train(
    client: GraphClient,
    *,
    spec: Mapping[str, Any],
    scene: str,
    task: str,
    collect: int,
    seed_start: int,
    advance: Advance,
    temperature_seed: int = 0,  # noqa: PT028
) -> AdaptOutcome:
    """Have the robot collect start episodes in a scene, adapt its policy within a budget, and stage the result.

    This is the robot's own service rollout/test_time_train; its bridge speaks to the trainer.

    Args:
        client: of the started robot.
        spec: policy, world_model, judge (ids; empty is what is in force, the trainer's newest), seed, budget_s,
            config, and as options rollouts and mode.
        scene: where.
        task: a task's name or an instruction.
        collect: real episodes to record there first; 0 takes those the trainer has.
        seed_start: first start state of these.
        advance: told every episode and every training step.
        temperature_seed: of the sampled exploration while collecting.

    Returns:
        The candidate, or the reason why there is none: the dream of this scene cannot be trusted, or it forgets.

    Raises:
        RobotRefusedError: the robot or the trainer refused or failed; the message says what.
        RobotSilentError: it did not answer in time.
    """
    answer = client.test_time_train(
        instruction=instruction_of(task), scene=scene, episodes=collect, seed_start=seed_start,
        temperature_seed=temperature_seed, budget_s=float(spec.get("budget_s", 120.0)),
        rollouts=int(spec.get("rollouts", 0)), mode=str(spec.get("mode", "full")),
        checkpoint=str(spec.get("policy", "")), world_model=str(spec.get("world_model", "")),
        judge=str(spec.get("judge", "")), seed=int(spec.get("seed", 0)), config=spec.get("config", {}),
        timeout_s=ADAPT_S, progress=lambda status: advance(*_told(status)),
    )  # fmt: skip
    job = answer.get("result", {})
    if answer["state"] != "ready":
        return AdaptOutcome(None, str(answer["reason"]), job)
    return AdaptOutcome(str(answer["candidate"]), "", job)


def try_adaptation(
    client: GraphClient,
    *,
    current: str,
    candidate: str,
    folder_of: Callable[[str], str | Path],
    scene: str,
    task: str,
    other_tasks: Sequence[str],
    seed_start: int,
    seed_count: int,
    advance: Advance,
    rule: KeepRule | None = None,
) -> AdaptTrial:
    """Run both checkpoints greedily from the same start states, in the scene and on the other tasks.

    Args:
        client: of the started robot.
        current: checkpoint id in force.
        candidate: staged checkpoint id.
        folder_of: checkpoint id -> folder on the robot's machine.
        scene: the new one.
        task: what it was adapted to.
        other_tasks: run in the standard scene.
        seed_start: first start state.
        seed_count: start states per task.
        advance: told every episode.
        rule: see KeepRule.
    """
    versions = (current, candidate)

    def compared(tasks: Sequence[str], where: str) -> dict[str, Any]:
        result = client.evaluate(
            tasks=list(tasks), seed_start=seed_start, seed_count=seed_count, scene=where, timeout_s=1800,
            checkpoints=[str(folder_of(version)) for version in versions],
            progress=lambda status: advance(*shown(status)),
        )  # fmt: skip
        trials = trials_of(result, versions)
        before, after = (trials[version] for version in versions)
        return {"before": counts(before), "after": counts(after), "difference": difference(before, after)}

    there = compared([task], scene)
    elsewhere = compared(other_tasks, "standard") if other_tasks else {}
    kept, reason = judge_trial(there, elsewhere, rule or KeepRule())
    return AdaptTrial(kept, reason, there, elsewhere)


def _told(status: Mapping[str, Any]) -> tuple[int, int, str]:
    done, total, note = shown(status)
    return done, total, describe(status) if status.get("stage") else note


def instruction_of(task: str) -> str:
    """The instruction of a task's name; anything else is an instruction already."""
    from gymnast_ros.sim.tasks import TASKS

    return TASKS[task].instruction if task in TASKS else task

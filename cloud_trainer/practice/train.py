"""Reinforcement learning as a job: sample groups somewhere, reward them, update the policy, keep candidates.

Where the groups come from is a function, so that the world model with a judge and the simulator with the true reward
run through the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloud_trainer.practice.grpo.scored import Scored, join_scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.recorded import Lesson
from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent, never, silent
from cloud_trainer.training_state import read_values
from cloud_trainer.world_model.audit.outcomes import outcomes_of
from cloud_trainer.world_model.starts import StartState
from gymnast_core.judge import Judge
from gymnast_core.policies.trainable import LearningPolicy
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import BoolArray, ByteArray, RolloutBatch

Sampler = Callable[[LearningPolicy, np.random.Generator], Scored]
"""One round of groups from a policy: rollouts, rewards, and which rows count. Group names are made unique later."""

Anchor = Callable[[LearningPolicy, np.random.Generator], torch.Tensor]
"""A further loss of every optimiser step."""


@dataclass(frozen=True)
class TrainedCandidate:
    """A checkpoint along the way; which one is offered is decided by real evidence, not by imagined reward."""

    iteration: int
    folder: Path
    version: str
    imagined_reward: float


@dataclass(frozen=True)
class Training:
    """What a run left.

    Attributes:
        candidates: in order of iteration; the last is the fixed choice unless a small real evaluation says otherwise.
        history: per iteration {iteration, imagined_reward, abstained, groups, trajectories, loss, clipped, kl, ...}.
    """

    candidates: tuple[TrainedCandidate, ...]
    history: tuple[Mapping[str, Any], ...]


def first_frames(starts: Sequence[StartState]) -> ByteArray:
    """Return (B, H, W, 3): what the judge compares the end with."""
    return np.stack([start.first_HWC for start in starts])


def judged(rollouts: RolloutBatch, judge: Judge, first_BHWC: ByteArray, *, mask: bool) -> Scored:
    """Reward rollouts by a judge that sees the episode's first frame and every imagined chunk end, as it is calibrated.

    With mask, every chunk end is judged, a row succeeds at the first success, and its length is cut there, so that
    nothing is learned from what it did afterwards. A row counts if its deciding verdict is no abstention.
    """
    ends = range(1, len(rollouts.frame_steps_F)) if mask else [len(rollouts.frame_steps_F) - 1]
    success = np.zeros(len(rollouts.length_B), bool)
    decided = np.zeros(len(rollouts.length_B), bool)
    length = rollouts.length_B.copy()
    frames_BFHWC = np.concatenate([first_BHWC[:, None], rollouts.frames_BFHWC[:, 1:]], axis=1)
    for end in ends:
        seen = replace(
            rollouts, frame_steps_F=rollouts.frame_steps_F[: end + 1], frames_BFHWC=frames_BFHWC[:, : end + 1]
        )
        now, sure, _ = outcomes_of(judge.judge(seen))
        first_time: BoolArray = now & ~success
        length[first_time] = np.minimum(length[first_time], rollouts.frame_steps_F[end])
        success |= now
        decided = sure | success
    return Scored(replace(rollouts, length_B=length), success.astype(np.float32), decided)


def train(
    trainer: GrpoTrainer[Any],
    sampler: Sampler,
    out: Path,
    *,
    parent: str,
    candidate_every: int,
    lesson: Lesson | None = None,
    state: Path | None = None,
    lineage: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    cancelled: Cancelled = never,
) -> Training:
    """Do the iterations that are left and write candidates out/iteration-NN; every rank of a learner runs this.

    Args:
        trainer: holds the policy, and what is done already.
        sampler: where groups come from.
        out: folder for the candidates; created.
        parent: id of the checkpoint that the policy started as.
        candidate_every: iterations between candidates; the last iteration is always one.
        lesson: recorded episodes that come before the first iteration.
        state: state file, written after every iteration.
        lineage: world model, judge, audit and data of this run, for the manifests.
        progress: called after every iteration with imagined_reward and what the update did.
        cancelled: asked before every iteration.

    Raises:
        CancelledError: cancelled; the state file has the last whole iteration.
    """
    total = trainer.config.iterations
    if lesson is not None and not trainer.updates:
        report = trainer.begin_with(lesson.batch(trainer.policy), lesson.epochs)
        progress(ProgressEvent("recorded", 1, 1, report.to_metrics()))
    while trainer.updates < total:
        if cancelled():
            raise CancelledError(f"GRPO cancelled after {trainer.updates} of {total} iterations")
        batch, record = _sampled(trainer, sampler)
        if batch is None:  # nothing to learn from this time: every group was all success or all failure
            trainer.updates += 1
            record |= {"trajectories": 0.0, "groups": 0.0}
        else:
            record |= trainer.update(batch).to_metrics()
        trainer.history.append(record)
        progress(ProgressEvent("grpo", trainer.updates, total, record))
        if trainer.updates % candidate_every == 0 or trainer.updates == total:
            _keep(trainer, out, parent, lineage or {})
        if state is not None:
            trainer.save(state)
    return Training(tuple(candidates_in(out, trainer.history)), tuple(trainer.history))


def left_by(out: Path, state: Path) -> Training:
    """Return what a run has done so far, going by its state file; nothing where there is none."""
    history = read_values(state)["history"] if state.exists() else []
    return Training(tuple(candidates_in(out, history)), tuple(history))


def _sampled(trainer: GrpoTrainer[LearningPolicy], sampler: Sampler) -> tuple[Scored | None, dict[str, Any]]:
    """Sample until there are enough informative groups (or rounds are spent); None if there is none to learn from."""
    config, kept, rewards, abstained = trainer.config, [], [], []
    waiting = trainer.waiting()
    found = 0 if waiting is None else len(np.unique(waiting.rollouts.group_B))
    for round_number in range(config.max_rounds):
        scored = sampler(trainer.policy, trainer.rng)
        unique = (trainer.updates * config.max_rounds + round_number) * 10_000
        scored = replace(
            scored,
            rollouts=replace(scored.rollouts, group_B=scored.rollouts.group_B + unique),
        )
        rewards.append(scored.reward_B[scored.use_B])
        abstained.append(~scored.use_B)
        kept.append(trainer.informative(scored))
        found += len(np.unique(kept[-1].rollouts.group_B))
        if config.target_groups is None or found >= config.target_groups:
            break
    batch = kept[0]
    for more in kept[1:]:
        batch = join_scored(batch, more)
    record: dict[str, Any] = {
        "iteration": trainer.updates + 1,
        "imagined_reward": float(np.concatenate(rewards).mean()) if sum(map(len, rewards)) else float("nan"),
        "abstained": float(np.concatenate(abstained).mean()),
    }
    return batch if len(batch.reward_B) or waiting is not None else None, record


def _keep(trainer: GrpoTrainer[Any], out: Path, parent: str, lineage: Mapping[str, Any]) -> None:
    made_from = {
        "stage": "grpo",
        "grpo": trainer.config.model_dump(),
        "iteration": trainer.updates,
        "recorded": trainer.recorded,
        "imagined_reward": trainer.history[-1]["imagined_reward"],
    }
    folder = out / f"iteration-{trainer.updates:02d}"
    trainer.export(folder, parents=(parent,), lineage=made_from | dict(lineage))


def candidates_in(out: Path, history: Sequence[Mapping[str, Any]]) -> list[TrainedCandidate]:
    """Find the candidates that a run left, as far as its history goes."""
    found = []
    for folder in sorted(out.glob("iteration-*")):
        iteration = int(folder.name.removeprefix("iteration-"))
        if iteration <= len(history):
            reward = float(history[iteration - 1]["imagined_reward"])
            found.append(TrainedCandidate(iteration, folder, read_manifest(folder).id, reward))
    return found

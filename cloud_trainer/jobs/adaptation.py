"""Test-time training: its budget, and an anchor to what the policy did elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cloud_trainer.practice.train import Anchor
from cloud_trainer.world_model.compact.data import Clips
from gymnast_core.policies.trainable import LearningPolicy, load_trainable


def iterations_within(rollouts: int | None, most: int, rollouts_each: int) -> int:
    """Return how many iterations a rollout budget allows: those that begin before it is used up, at most `most`."""
    return most if rollouts is None else min(most, max(1, -(-rollouts // rollouts_each)))


def frame_anchor(base: LearningPolicy, clips: Clips, *, weight: float, frames: int = 96) -> Anchor:
    """Return a loss that keeps a policy where it was on recorded frames from elsewhere.

    Rehearsal by reinforcement alone holds nothing where the policy already succeeds: those groups have no advantage
    and are left out. Real frames need no world model to be believed.

    Args:
        base: the policy as it was; not trained.
        clips: recorded elsewhere; frames at chunk starts are used, where a policy looks.
        weight: of the loss, per token.
        frames: drawn for each optimiser step.

    Returns:
        weight times the policy's own divergence from the base: for tokens the mean KL(base || policy) at temperature 1.

    Source:
        Li & Hoiem, "Learning without Forgetting", 2016, section 3: the old model's outputs as targets.
    """
    steps = np.arange(0, clips.actions_NTA.shape[1], base.chunk_length)
    row, column = np.nonzero(steps < clips.length_N[:, None])
    images_NHWC = base.training_frames(clips.frames_NTHWC[row, steps[column]])
    texts = [clips.instructions[n] for n in row]

    def loss(policy: LearningPolicy, rng: np.random.Generator) -> torch.Tensor:
        rows = rng.integers(0, len(texts), frames)
        return weight * policy.divergence(base, images_NHWC[rows], [texts[row] for row in rows])

    return loss


def anchored(parent: Path, clips: Clips, weight: float, device: str = "cpu") -> Anchor:
    """Make the anchor to a checkpoint, in whichever process the learner is."""
    return frame_anchor(load_trainable(parent, device=device), clips, weight=weight)

"""A policy learns to act in other looks and words as it does in the recorded ones: distilled from itself.

What it should do in an edited picture is known without anybody doing it: what it does in the picture as recorded. So
recorded frames are enough, of successes and failures alike, and neither world model nor judge is asked.

Source:
    Hansen & Wang, "Generalization in Reinforcement Learning by Soft Data Augmentation", 2021, and Fan et al., SECANT,
    2021: learn without strong augmentation first, then clone that policy under it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.practice.instructions import reworded
from cloud_trainer.practice.looks import another_look
from cloud_trainer.progress import Cancelled, never
from cloud_trainer.training import Descent, ModelTrainer
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World
from gymnast_core.jobs.augment import AugmentChoices
from gymnast_core.policies.trainable import LearningPolicy
from gymnast_core.types import Asked, ByteArray


def asked_in(clips: Clips, policy: LearningPolicy) -> Asked:
    """Return recorded frames at chunk starts, where a policy looks, as it trains on them, and their instructions."""
    steps = np.arange(0, clips.actions_NTA.shape[1], policy.chunk_length)
    row, column = np.nonzero(steps < clips.length_N[:, None])
    return policy.training_frames(clips.frames_NTHWC[row, steps[column]]), [clips.instructions[n] for n in row]


def asked_in_dreams(
    world: World, starts: Sequence[StartState], policy: LearningPolicy, *, seed: int, cancelled: Cancelled = never
) -> Asked:
    """Return the same of one imagined episode of the policy itself from each start, sampled.

    Raises:
        CancelledError: cancelled.
    """
    rng = np.random.default_rng(seed)
    rollouts = imagine_from(world, starts, policy, seed=seed, rng=rng, cancelled=cancelled)
    frames = rollouts.frames_BFHWC[:, :-1]  # at an episode's end nobody asks
    texts = [text for text in rollouts.instructions for _ in range(frames.shape[1])]
    return policy.training_frames(frames.reshape(-1, *frames.shape[2:])), texts


class AugmentTrainer(ModelTrainer):
    """One run over fixed frames.

    Attributes:
        policy: what is trained.

    Args:
        policy: a copy of `teacher` at first.
        teacher: the policy as it was; not trained.
        images_NHWC: (N, H, W, 3) uint8, as the policy's training_frames gives them.
        instructions: N strings.
        config: how.
        seed: of batches, looks and words.
    """

    stage, title, reported = "augment", "learning other looks and words", 20

    def __init__(
        self, policy: LearningPolicy, teacher: LearningPolicy, images_NHWC: ByteArray, instructions: Sequence[str],
        config: AugmentChoices, *, seed: int,
    ) -> None:  # fmt: skip
        self.policy, self.config = policy, config
        self._teacher, self._images_NHWC, self._texts = teacher, images_NHWC, list(instructions)
        self._known = sorted(set(instructions))
        self._rng = np.random.default_rng(seed)
        descent = Descent(config.steps, config.learning_rate, 1e-4, warmup=20)
        super().__init__(policy.network, descent, {"policy": policy.network}, {"batches": self._rng})

    def loss(self) -> Tensor:
        """How far the policy, shown a batch edited, is from the teacher, shown it as recorded."""
        rows = self._rng.integers(0, len(self._texts), self.config.batch_size)
        plain = round(self.config.plain_share * len(rows))
        frames, texts = self._images_NHWC[rows], [self._said(row) for row in rows]
        looks = np.concatenate([frames[:plain], another_look(frames[plain:], self._rng)])
        words = texts[:plain] + [reworded(text, self._known, self._rng) for text in texts[plain:]]
        return self.policy.divergence(self._teacher, frames, texts, edited=(looks, words))

    def _said(self, row: int) -> str:
        """An instruction: the frame's own, or any other as often."""
        own = self._rng.random() < 0.5
        return self._texts[row] if own else self._known[int(self._rng.integers(len(self._known)))]

"""Plans from words and a picture: what every planner gives, and takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from gymnast_core.spec import RobotSpec
from gymnast_core.types import ByteArray, FloatArray, IntArray, RolloutBatch


@dataclass(frozen=True)
class VideoPlans:
    """B plans: how it should look, and the actions that inverse dynamics reads off it.

    Attributes:
        instructions: B strings.
        frame_steps_F: (F,) int64, the control step of each frame; the first is 0, what is seen now.
        frames_BFHWC: (B, F, H, W, 3) uint8.
        actions_BTA: (B, T, 7) float32, within an arm's limits.
        planner: id of what made them.
    """

    instructions: tuple[str, ...]
    frame_steps_F: IntArray
    frames_BFHWC: ByteArray
    actions_BTA: FloatArray
    planner: str

    @staticmethod
    def joined(parts: Sequence[VideoPlans]) -> VideoPlans:
        """Put plans of one planner behind each other."""
        return replace(
            parts[0], instructions=tuple(text for part in parts for text in part.instructions),
            frames_BFHWC=np.concatenate([part.frames_BFHWC for part in parts]),
            actions_BTA=np.concatenate([part.actions_BTA for part in parts]),
        )  # fmt: skip

    def as_rollouts(self) -> RolloutBatch:
        """Return them as a judge looks at them."""
        rows, steps = self.actions_BTA.shape[:2]
        return RolloutBatch(
            instructions=self.instructions, frame_steps_F=self.frame_steps_F, frames_BFHWC=self.frames_BFHWC,
            actions_BTA=self.actions_BTA, log_probs_BTA=np.zeros_like(self.actions_BTA),
            length_B=np.full(rows, steps, np.int64), policy_version=self.planner, group_B=np.arange(rows),
        )  # fmt: skip


class Planner(Protocol):
    """Makes plans; whatever stands behind it, a seed repeats them."""

    @property
    def version(self) -> str:
        """Id of its checkpoint."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures it plans from and draws."""
        ...

    @property
    def steps(self) -> int:
        """T, control steps of a plan."""
        ...

    @property
    def robot(self) -> RobotSpec:
        """The arm whose actions it reads."""
        ...

    def plan(self, frames_BHWC: ByteArray, instructions: Sequence[str], seeds: Sequence[tuple[int, ...]]) -> VideoPlans:
        """Plan from what is seen.

        Args:
            frames_BHWC: (B, image_size, image_size, 3) uint8.
            instructions: B strings.
            seeds: B tuples; a row's plan depends on its own alone.

        Raises:
            CheckpointError: its weights lead to frames or actions that are not finite.
        """
        ...

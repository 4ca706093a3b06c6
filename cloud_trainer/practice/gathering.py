"""A batch of episodes while it runs: what a judge and a learner need of the steps so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.types import BoolArray, ByteArray, FloatArray, IntArray, RolloutBatch, StepResult, Trace


class Gathering:
    """Gathers a rollout of B rows step by step.

    Attributes:
        instructions: of the rows.
        length_B: (B,) int64, steps of each row until it ended.
        done_B: (B,) bool, rows that ended.

    Args:
        instructions: of the rows.
        first_BHWC: (B, H, W, 3) uint8, the frames that the episodes begin with.
    """

    def __init__(self, instructions: Sequence[str], first_BHWC: ByteArray) -> None:
        self.instructions = tuple(instructions)
        self.length_B: IntArray = np.zeros(len(self.instructions), np.int64)
        self.done_B: BoolArray = np.zeros(len(self.instructions), bool)
        self._frames, self._steps_F = [first_BHWC], [0]
        self._actions: list[FloatArray] = []

    @property
    def steps(self) -> int:
        """Steps so far."""
        return len(self._actions)

    def add(self, result: StepResult) -> BoolArray:
        """Take one step; returns (B,) which rows ended in it."""
        self._actions.append(result.commanded_BA)
        self.length_B = self.length_B + ~self.done_B
        ended_B = result.done_B & ~self.done_B
        self.done_B = result.done_B.copy()
        return ended_B

    def look(self, frames_BHWC: ByteArray) -> None:
        """Keep the frames after the steps so far."""
        self._frames.append(frames_BHWC)
        self._steps_F.append(self.steps)

    def rollouts(
        self,
        version: str,
        *,
        last_BHWC: ByteArray | None = None,
        log_probs_BTA: FloatArray | None = None,
        group_B: IntArray | None = None,
        trace: Trace | None = None,
    ) -> RolloutBatch:
        """Return what was gathered.

        Args:
            version: of the policy.
            last_BHWC: the frames of now; with them only the first and these are shown.
            log_probs_BTA: of the actions; None is 0.
            group_B: (B,) group of each row; None is each row its own.
            trace: of the policy.
        """
        rows = len(self.instructions)
        now = last_BHWC is not None
        frames = [self._frames[0], last_BHWC] if last_BHWC is not None else self._frames
        actions_BTA = np.stack(self._actions, axis=1) if self._actions else np.zeros((rows, 1, 7), np.float32)
        return RolloutBatch(
            instructions=self.instructions,
            frame_steps_F=np.array([0, max(1, self.steps)] if now else self._steps_F, np.int64),
            frames_BFHWC=np.stack(frames, axis=1),
            actions_BTA=actions_BTA,
            log_probs_BTA=np.zeros_like(actions_BTA) if log_probs_BTA is None else log_probs_BTA,
            length_B=self.length_B,
            policy_version=version,
            group_B=np.arange(rows) if group_B is None else group_B,
            trace=trace or {},
        )

"""Plans of an arm that is commanded every tick, and how one gives way to the next.

Source:
    Black, Galliker, Levine, "Real-Time Execution of Action Chunking Flow Policies", arXiv 2506.07339, eq. 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gymnast_core.policy import Committed
from gymnast_core.types import ACTION_DIM, FloatArray

GRIPPER = ACTION_DIM - 1
"""The gripper is a switch: it follows the newest plan, unblended and unbounded."""


@dataclass
class Plan:
    """Actions for ticks start .. start + K - 1.

    Attributes:
        start: its first tick.
        actions_BKA: (B, K, 7).
        version: of the policy that made it.
    """

    start: int
    actions_BKA: FloatArray
    version: str

    def at(self, tick: int) -> FloatArray | None:
        """Return a tick's (B, 7) actions, None where it has none."""
        index = tick - self.start
        return self.actions_BKA[:, index] if 0 <= index < self.actions_BKA.shape[1] else None


def committed_by(plan: Plan, tick: int, rows: int, *, delay: int, horizon: int) -> Committed:
    """Return what a plan commits the arm to from a tick on.

    Args:
        plan: in force.
        tick: at which the next inference begins.
        rows: B.
        delay: ticks it is expected to take; what is executed meanwhile is frozen.
        horizon: last ticks of the new chunk, which are its alone.
    """
    length = plan.actions_BKA.shape[1]
    actions_BKA, weight_K = np.zeros((rows, length, ACTION_DIM), np.float32), np.zeros(length, np.float32)
    for index in range(length):
        planned_BA = plan.at(tick + index)
        if planned_BA is None:
            break
        actions_BKA[:, index] = planned_BA
        weight_K[index] = soft_mask(index, delay=delay, horizon=horizon, length=length)
    return Committed(actions_BKA, weight_K)


def blend(old: Plan, new: Plan, tick: int, *, horizon: int) -> None:
    """Mix the old plan into the new one over the ticks both cover, in place."""
    length = new.actions_BKA.shape[1]
    delay = tick - new.start
    for index in range(delay, length):
        old_BA = old.at(new.start + index)
        if old_BA is None:
            return
        weight = soft_mask(index, delay=delay, horizon=horizon, length=length)
        mixed_BA = weight * old_BA + (1 - weight) * new.actions_BKA[:, index]
        new.actions_BKA[:, index, :GRIPPER] = mixed_BA[:, :GRIPPER]


def soft_mask(index: int, *, delay: int, horizon: int, length: int) -> float:
    """Weight of the old plan at an index of the new chunk.

    Args:
        index: 0 .. length - 1.
        delay: d, ticks already executed; their weight is 1.
        horizon: s, the last s indices are the new plan's alone.
        length: H.

    Source:
        arXiv 2506.07339, eq. 5: c (e^c - 1) / (e - 1) with c = (H - s - i) / (H - s - d + 1).
    """
    if index < delay:
        return 1.0
    if index >= length - horizon:
        return 0.0
    c = (length - horizon - index) / (length - horizon - delay + 1)
    return c * (math.exp(c) - 1) / (math.e - 1)

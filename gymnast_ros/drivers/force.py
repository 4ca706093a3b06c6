"""Does the arm press harder than it should? A bound below the one at which the gate stops everything."""

from __future__ import annotations

import numpy as np

from gymnast_core.spec import JOINT_NAMES
from gymnast_ros.drivers.reading import Array


class ForceWatch:
    """Counts control steps with too much effort, one after the other.

    Args:
        limit_J: (6,) most effort of each joint, in the unit of joint_states.effort; infinite bounds nothing.
        steps: as many in a row are too many; a single knock is none.
    """

    def __init__(self, limit_J: Array, steps: int) -> None:
        self._limit_J, self._steps = limit_J, steps
        self._over_J = np.zeros(len(limit_J), np.int64)

    def reset(self) -> None:
        """A new episode begins."""
        self._over_J[:] = 0

    def note(self, effort_J: Array | None) -> str:
        """Take in a step's efforts; returns what is wrong, or an empty string."""
        if effort_J is None:
            return ""
        over_J = ~(np.abs(effort_J) <= self._limit_J)  # what is no number is too much
        self._over_J = np.where(over_J, self._over_J + 1, 0)
        pressing = int(np.argmax(self._over_J))
        if self._over_J[pressing] < self._steps:
            return ""
        return (
            f"over-force: {JOINT_NAMES[pressing]} {effort_J[pressing]:.0f} beyond {self._limit_J[pressing]:.0f} for "
            f"{self._over_J[pressing]} steps"
        )

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
        at_once_J: (6,) where one step is too many.
    """

    def __init__(self, limit_J: Array, steps: int, at_once_J: Array) -> None:
        self._limit_J, self._steps, self._at_once_J = limit_J, steps, at_once_J
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
        knocked_J = np.abs(effort_J) > self._at_once_J
        pressing = int(np.argmax(np.where(knocked_J, self._steps, self._over_J)))
        if self._over_J[pressing] < self._steps and not knocked_J[pressing]:
            return ""
        return (
            f"over-force: {JOINT_NAMES[pressing]} {effort_J[pressing]:.0f} beyond {self._limit_J[pressing]:.0f} for "
            f"{self._over_J[pressing]} steps"
        )

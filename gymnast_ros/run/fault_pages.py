"""Calls a person when the arm's episodes end by faults: over-force at once, any other fault when it does not pass."""

from __future__ import annotations

from gymnast_core.paging import Pager
from gymnast_ros.run.plan import MOTOR_FAULT, OVER_FORCE, EpisodeResult

IN_A_ROW = 3
"""Episodes cut by a fault of the arm, one after the other."""
_FAULTS = ("fault", "refused", "arm_lost", "policy_fault")
"""What passes with its cause, or does not. A motor that failed is the arm's own to report."""


class FaultPages:
    """Looks at every episode of one arm. Not thread safe.

    Args:
        pager: takes the calls.
    """

    def __init__(self, pager: Pager) -> None:
        self._pager, self._in_a_row = pager, 0

    def note(self, row: EpisodeResult) -> None:
        """Take in how an episode went."""
        if row.truncated_reason == OVER_FORCE:
            self._pager.page(OVER_FORCE, f"{row.detail}; the episode ended, look at what it pressed on",
                             instruction=row.instruction, episode=row.episode_id)  # fmt: skip
        if row.truncated_reason not in _FAULTS:
            self._in_a_row = self._in_a_row if row.truncated_reason == MOTOR_FAULT else 0
            return
        self._in_a_row += 1
        if self._in_a_row == IN_A_ROW:
            self._pager.page("arm_fault", f"{IN_A_ROW} episodes in a row ended by {row.truncated_reason}: {row.detail}",
                             instruction=row.instruction, episode=row.episode_id)  # fmt: skip

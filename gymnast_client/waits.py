"""How long to wait after a failure: tenacity's random exponential wait, for one call and for loops without an end."""

from __future__ import annotations

import tenacity

FIRST_S, LONGEST_S = 0.1, 5.0


def wait_strategy(first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> tenacity.wait.wait_base:
    """Return waits that double up to a limit, at random so that a fleet does not knock in step."""
    return tenacity.wait_random_exponential(multiplier=first_s, max=longest_s, min=first_s / 2)


class Waits:
    """The waits of a loop that no single call is: streams that end and begin again.

    Args:
        first_s: the first one.
        longest_s: the limit.
    """

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._strategy = wait_strategy(first_s, longest_s)
        self._state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})

    def next_s(self) -> float:
        """How long to wait after one more failure."""
        wait_s = float(self._strategy(self._state))
        self._state.attempt_number += 1
        return wait_s

    def reset(self) -> None:
        """It worked."""
        self._state.attempt_number = 1

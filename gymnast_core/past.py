"""The last steps of an episode, as a policy that learns within it looks back at them."""

from __future__ import annotations

from collections import deque

import numpy as np

from gymnast_core.types import ACTION_DIM, PAST_STEPS, PROPRIO_DIM, FloatArray, Past


def no_past(rows: int) -> Past:
    """Return what B rows have at an episode's start."""
    return Past(
        np.zeros((rows, PAST_STEPS, PROPRIO_DIM), np.float32), np.zeros((rows, PAST_STEPS, ACTION_DIM), np.float32),
        np.zeros((rows, PAST_STEPS), bool),
    )  # fmt: skip


def past_at(proprio_TP: FloatArray, actions_TA: FloatArray, step: int) -> Past:
    """Return what one recorded episode (B = 1) has behind it at a step.

    Args:
        proprio_TP: (T+1, 7).
        actions_TA: (T, 7).
        step: 0 to T.
    """
    past, first = no_past(1), max(0, step - PAST_STEPS)
    if count := step - first:
        past.proprio_BHP[0, -count:] = proprio_TP[first:step]
        past.actions_BHA[0, -count:] = actions_TA[first:step]
        past.valid_BH[0, -count:] = True
    return past


class Remembering:
    """Collects the past of a batch of running episodes, step by step."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._proprio: deque[FloatArray] = deque(maxlen=PAST_STEPS)
        self._actions: deque[FloatArray] = deque(maxlen=PAST_STEPS)

    def add(self, proprio_BP: FloatArray, commanded_BA: FloatArray) -> None:
        """Take in one step: where the arms were, and what they were commanded there."""
        self._proprio.append(proprio_BP)
        self._actions.append(commanded_BA)

    def past(self) -> Past:
        """Return the last steps."""
        past = no_past(self._rows)
        if count := len(self._actions):
            past.proprio_BHP[:, -count:] = np.stack(self._proprio, axis=1)
            past.actions_BHA[:, -count:] = np.stack(self._actions, axis=1)
            past.valid_BH[:, -count:] = True
        return past

"""How many tries a practised skill has before a person is called."""

from __future__ import annotations

import math

CALLS_BY_LUCK = 2.0
"""Calls in 100 episodes that a skill's bad luck may cause, where nobody says how many tries it has."""
LEAST_TRIES, MOST_TRIES = 3, 20
USUAL_SUCCESS, USUAL_EPISODES = 0.3, 10
"""What is believed of a skill before it was practised, as if it had been in so many episodes."""


def tries_for(successes: int, episodes: int) -> int:
    """Return how many tries a skill has: the fewest by which luck alone calls at most twice in 100 episodes.

    With success p and k tries a turn of the skill takes (1 - q^k) / p episodes, q = 1 - p, and ends in a call with
    probability q^k; so q^k <= c / (100 p + c) keeps c calls in 100 episodes.

    Args:
        successes: of the skill so far; episodes after which the other one could begin.
        episodes: of the skill so far.
    """
    success = (successes + USUAL_SUCCESS * USUAL_EPISODES) / (episodes + USUAL_EPISODES)
    if success >= 1:
        return LEAST_TRIES
    fewest = math.log(CALLS_BY_LUCK / (100 * success + CALLS_BY_LUCK)) / math.log1p(-success)
    return min(MOST_TRIES, max(LEAST_TRIES, math.ceil(fewest)))

"""Which start states a run of the demo uses for what; see gymnast_core.seeds."""

from __future__ import annotations

from gymnast_core.seeds import take

ROUNDS_PER_RUN = 10
COLLECTED, CHOSEN = 400, 100
"""Start states of a round, at most."""


def evaluation_seeds(run: int, count: int) -> range:
    """Start states that are only ever reported."""
    return take("evaluate", run, count)


def choosing_seeds(run: int, round_number: int, count: int) -> range:
    """Start states by which a round's candidate is chosen."""
    return take("demo choose", run, count, after=round_number % ROUNDS_PER_RUN * CHOSEN)


def collecting_seeds(run: int, round_number: int, count: int) -> range:
    """Start states that are trained on."""
    return take("demo collect", run, count, after=round_number % ROUNDS_PER_RUN * COLLECTED)

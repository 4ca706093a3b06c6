"""Which start states a run uses for what: ranges that never touch each other, or those of another run."""

from __future__ import annotations

from gymnast_core.errors import ConfigError
from gymnast_ros.sim.tasks import CHOOSING_SEEDS, EVALUATION_SEEDS, TRAINING_SEEDS

SEEDS_PER_RUN = 1000
"""Every --seed owns a range this long for evaluating and for choosing."""
COLLECT_FROM = 600_000
"""Pretraining uses training seeds below this; runs collect above it, 400 per round."""
ROUNDS_PER_RUN = 10


def evaluation_seeds(run: int, count: int) -> range:
    """Start states that are only ever reported."""
    return _range(EVALUATION_SEEDS.start + run * SEEDS_PER_RUN, count, SEEDS_PER_RUN)


def choosing_seeds(run: int, round_number: int, count: int) -> range:
    """Start states by which a round's candidate is chosen."""
    size = SEEDS_PER_RUN // ROUNDS_PER_RUN
    return _range(CHOOSING_SEEDS.start + run * SEEDS_PER_RUN + round_number % ROUNDS_PER_RUN * size, count, size)


def collecting_seeds(run: int, round_number: int, count: int) -> range:
    """Start states that are trained on."""
    size = 400
    first = TRAINING_SEEDS.start + COLLECT_FROM + (run * ROUNDS_PER_RUN + round_number % ROUNDS_PER_RUN) * size
    return _range(first, count, size)


def _range(first: int, count: int, most: int) -> range:
    if count > most:
        raise ConfigError(f"{count} start states asked for; a run has {most} of this purpose")
    return range(first, first + count)

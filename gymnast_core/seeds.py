"""Which use takes which start states: one table, so that no two uses ever share one, whatever --seed is.

What is trained on, what checkpoints are chosen by and what is only reported lie in millions of their own. A use has a
block for each seed of its user. The first blocks lie where they always did; those of larger seeds lie far beyond, each
use in a region of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from gymnast_core.errors import ConfigError

TRAINING_SEEDS = range(0, 1_000_000)
"""Seeds of episodes that anything may be trained on."""
CHOOSING_SEEDS = range(1_000_000, 2_000_000)
"""Seeds of episodes that checkpoints, thresholds and settings are chosen with."""
EVALUATION_SEEDS = range(2_000_000, 3_000_000)
"""Seeds of episodes that are only ever reported: never trained on, never chosen with."""

FAR = 10**12
"""Length of a use's far region."""


@dataclass(frozen=True)
class Use:
    """Start states for one purpose of one user.

    Attributes:
        first: of the block of seed 0.
        each: start states of one seed.
        near: so many seeds have their blocks behind each other from `first`.
    """

    first: int
    each: int
    near: int = 1


USES = {
    "pretrain": Use(0, 600_000),
    "demo collect": Use(600_000, 4_000, 25),
    "loop collect": Use(700_000, 15_000, 13),
    "collect": Use(900_000, 70_000),
    "adaptation": Use(970_000, 1_000, 20),
    "demo choose": Use(1_000_000, 1_000, 1_000),
    "evaluate": Use(2_000_000, 1_000, 500),
    "loop evaluate": Use(2_500_000, 15_000, 20),
    "canary": Use(2_950_000, 1_000, 20),
    "trial": Use(2_980_000, 10_000, 1),
    "practise": Use(990_000, 10_000, 1),
    "gate": Use(2_990_000, 10_000, 1),
}
"""Who uses what; the order counts: it names the far regions, so new uses go to the end."""


def block(use: str, seed: int = 0) -> range:
    """Return the start states of a use under a seed of its user; no other use or seed has one of them.

    Raises:
        ConfigError: the seed is negative or beyond what start states there are.
    """
    known = USES[use]
    most = FAR // known.each
    if not 0 <= seed < most:
        raise ConfigError(f"seed must be 0..{most - 1} ({use}: each seed owns {known.each} start states), got {seed}")
    first = known.first if seed < known.near else FAR * (1 + list(USES).index(use))
    first += seed * known.each
    return range(first, first + known.each)


def take(use: str, seed: int, count: int, *, after: int = 0) -> range:
    """Return `count` start states of a block, those after the first `after`.

    Raises:
        ConfigError: the block has not that many left.
    """
    own = block(use, seed)
    if after + count > len(own):
        raise ConfigError(
            f"{use}: {count} start states asked for, {max(0, len(own) - after)} of {len(own)} are left for seed "
            f"{seed}; choose another"
        )
    return own[after : after + count]

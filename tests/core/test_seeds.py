"""No two uses share a start state, whatever their seeds; small seeds keep the start states they always had."""

from __future__ import annotations

import itertools

import pytest

from gymnast_core.errors import ConfigError
from gymnast_core.seeds import CHOOSING_SEEDS, EVALUATION_SEEDS, TRAINING_SEEDS, USES, block, take

SEEDS = (*range(30), 498, 499, 500, 999, 1000, 99_999)
MEANT = {
    "pretrain": TRAINING_SEEDS, "demo collect": TRAINING_SEEDS, "loop collect": TRAINING_SEEDS,
    "collect": TRAINING_SEEDS, "adaptation": TRAINING_SEEDS, "demo choose": CHOOSING_SEEDS,
    "evaluate": EVALUATION_SEEDS, "loop evaluate": EVALUATION_SEEDS, "canary": EVALUATION_SEEDS,
    "trial": EVALUATION_SEEDS, "practise": TRAINING_SEEDS, "gate": EVALUATION_SEEDS,
}  # fmt: skip


def test_no_two_blocks_touch():
    blocks = sorted((block(use, seed) for use in USES for seed in SEEDS), key=lambda own: own.start)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(blocks))
    assert blocks[-1].stop < 2**53, "a parameter of a node holds it"


def test_every_use_lies_in_the_million_it_is_meant_for():
    assert MEANT.keys() == USES.keys()
    for use, meant in MEANT.items():
        for seed in range(USES[use].near):
            assert meant.start <= block(use, seed).start < block(use, seed).stop <= meant.stop, (use, seed)


def test_small_seeds_keep_their_start_states():
    assert [block(use).start for use in ("demo collect", "loop collect", "collect", "adaptation")] == [
        600_000, 700_000, 900_000, 970_000,
    ]  # fmt: skip
    assert (block("loop collect", 2).start, block("canary", 3).start) == (730_000, 2_953_000)


def test_what_is_not_there_is_refused():
    assert take("adaptation", 1, 3, after=997) == range(971_997, 972_000)
    with pytest.raises(ConfigError, match=r"4 start states asked for, 3 of 1000 are left for seed 1; choose another"):
        take("adaptation", 1, 4, after=997)
    with pytest.raises(ConfigError, match="seed must be 0"):
        block("collect", -1)

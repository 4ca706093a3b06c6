"""Intervals, paired difference and McNemar against numbers worked by hand, and coverage by simulation."""

import math

import numpy as np
import pytest

from gymnast_core.errors import ContractError
from gymnast_core.evaluation.statistics import (
    PairCounts,
    bootstrap_difference,
    independent_difference,
    mcnemar_exact,
    paired_difference,
    pearson,
    wilson_interval,
)


def test_wilson_interval_of_8_in_10_matches_the_formula_by_hand():
    # z = 1.959964, z^2 = 3.841459: centre (8 + 1.920729) / 13.841459 = .716740,
    # half 1.959964 / 13.841459 * sqrt(1.6 + .960365) = .141600 * 1.600114 = .226577
    interval = wilson_interval(8, 10)
    assert interval.mean == 0.8
    assert interval.low == pytest.approx(0.490163, abs=2e-6)
    assert interval.high == pytest.approx(0.943317, abs=2e-6)


def test_wilson_interval_of_none_starts_at_zero_and_of_all_ends_at_one():
    # no success of n: high = z^2 / (n + z^2) = 3.841459 / 13.841459
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(0, 10).high == pytest.approx(0.277533, abs=1e-6)
    assert wilson_interval(10, 10).high == 1.0
    assert wilson_interval(10, 10).low == pytest.approx(1 - 0.277533, abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ContractError, match="impossible"):
        wilson_interval(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(ContractError, match="confidence"):
        wilson_interval(3, 5, confidence=confidence)


def test_pairs_are_counted_by_who_won():
    before = [True, False, False, True, True]
    after = [True, True, False, False, False]
    assert PairCounts.of(before, after) == PairCounts(wins=1, losses=2, both=1, neither=1)


def test_unpaired_outcomes_are_refused():
    with pytest.raises(ContractError, match="same start states"):
        PairCounts.of([True, False], [True])
    with pytest.raises(ContractError, match="no pairs"):
        PairCounts.of([], [])


def test_paired_difference_matches_newcombe_method_10_by_hand():
    # 50 pairs, 20 both, 12 wins, 2 losses, 16 neither: after 32/50 = .64, before 22/50 = .44, difference .20.
    # Published for method 10 of this table: .0562 to .3292.
    # numerator 20*16 - 12*2 = 296, minus n/2 = 271; root (32*18*22*28) = sqrt(354816) = 595.664; phi .454955.
    difference = paired_difference(PairCounts(wins=12, losses=2, both=20, neither=16))
    assert difference.mean == pytest.approx(0.20)
    assert difference.low == pytest.approx(0.0562, abs=5e-5)
    assert difference.high == pytest.approx(0.3292, abs=5e-5)


def test_independent_difference_matches_the_published_example_of_newcombe():
    # method 10, 48/80 against 56/70: difference .2000 of 56/70 - 48/80, published interval .0524 to .3339
    difference = independent_difference(48, 80, 56, 70)
    assert difference.mean == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_paired_difference_is_antisymmetric():
    forward = paired_difference(PairCounts(wins=9, losses=4, both=11, neither=6))
    backward = paired_difference(PairCounts(wins=4, losses=9, both=11, neither=6))
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))


def test_paired_difference_without_discordant_pairs_still_has_width():
    same = paired_difference(PairCounts(wins=0, losses=0, both=10, neither=0))
    assert same.mean == 0.0
    assert same.low < -0.2
    assert same.high > 0.2


@pytest.mark.parametrize(("before", "after"), [(0.3, 0.3), (0.62, 0.95), (0.05, 0.1)])
def test_paired_interval_covers_the_true_difference_about_95_percent_of_the_time(before, after):
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(2000):
        start_easy = rng.random(100)  # the same start state is easy or hard for both
        interval = paired_difference(PairCounts.of(start_easy < before, 0.5 * start_easy + 0.5 * rng.random(100) < 0.5))
        truth = 0.5 - before
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / 2000 <= 0.985, (before, after, covered)


def test_bootstrap_agrees_with_the_normal_approximation_on_a_known_case():
    # 400 differences: 200 of 1, 200 of 0: mean .5, sd .5, standard error .025, 95 % half width .049
    interval = bootstrap_difference(np.zeros(400), np.arange(400) % 2, rng=np.random.default_rng(0))
    assert interval.mean == 0.5
    assert interval.low == pytest.approx(0.451, abs=0.004)
    assert interval.high == pytest.approx(0.549, abs=0.004)


def test_bootstrap_is_reproducible_from_its_generator():
    draws = [bootstrap_difference([0, 1, 0], [1, 1, 0], rng=np.random.default_rng(3), resamples=200) for _ in "ab"]
    assert draws[0] == draws[1]


def test_mcnemar_of_9_wins_and_1_loss_is_22_in_1024():
    # 2 * (C(10,0) + C(10,1)) / 2^10 = 22 / 1024
    assert mcnemar_exact(PairCounts(wins=9, losses=1, both=40, neither=50)) == pytest.approx(22 / 1024)
    assert mcnemar_exact(PairCounts(wins=1, losses=9, both=0, neither=0)) == pytest.approx(22 / 1024)


def test_mcnemar_of_an_even_split_or_of_no_discordant_pair_is_one():
    assert mcnemar_exact(PairCounts(wins=4, losses=4, both=1, neither=1)) == 1.0
    assert mcnemar_exact(PairCounts(wins=0, losses=0, both=5, neither=5)) == 1.0


def test_mcnemar_stays_finite_for_thousands_of_pairs():
    assert 0 < mcnemar_exact(PairCounts(wins=1600, losses=1400, both=0, neither=0)) < 0.001


def test_pearson_is_one_on_a_line_and_nan_on_a_constant():
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert math.isnan(pearson([1, 1, 1], [0, 1, 2]))
    assert math.isnan(pearson([1], [1]))

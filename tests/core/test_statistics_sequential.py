"""The sequential test: capital by hand, error rates under peeking after every pair, intervals that always hold."""

import math

import numpy as np
import pytest

from benchmarks.sequential import simulate_guard
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.evaluation.sequential import (
    ALL_TASKS,
    STAKE_SHARES,
    STAKES,
    Decision,
    HarmRule,
    SequentialRule,
    confidence_sequence,
    log_capital,
)
from gymnast_core.evaluation.statistics import PairCounts


def counts_of(wins: int, losses: int, ties: int = 0) -> PairCounts:
    return PairCounts(wins=wins, losses=losses, both=ties, neither=0)


def test_capital_after_two_wins_and_a_loss_is_the_mean_over_stakes_of_the_product():
    by_hand = sum(share * (1 + s) ** 2 * (1 - s) for s, share in zip(STAKES, STAKE_SHARES, strict=True))
    assert float(log_capital(2, 0, 1)) == pytest.approx(math.log(by_hand))


def test_ties_neither_win_nor_lose_capital_against_no_difference():
    assert float(log_capital(3, 50, 1)) == pytest.approx(float(log_capital(3, 0, 1)))


def test_capital_is_a_fair_game_when_the_difference_is_exactly_the_hypothesis():
    # E[capital after one pair] = 1 for P(win) = .35, P(tie) = .3, P(loss) = .35 against m = 0, and likewise for m = .2
    for m, (p_win, p_tie, p_loss) in {0.0: (0.35, 0.3, 0.35), 0.2: (0.45, 0.3, 0.25)}.items():
        capital = np.exp([log_capital(1, 0, 0, m), log_capital(0, 1, 0, m), log_capital(0, 0, 1, m)])
        assert float(capital @ np.array([p_win, p_tie, p_loss])) == pytest.approx(1.0)


def test_capital_never_turns_negative_whatever_comes():
    assert np.isfinite(log_capital(np.array([0, 500]), 0, np.array([500, 0]))).all()


def test_shares_are_a_distribution():
    assert STAKE_SHARES.sum() == pytest.approx(1.0)
    assert (STAKES < 1).all()


def test_clear_wins_promote_and_clear_losses_roll_back():
    rule = SequentialRule()
    assert rule.decide(counts_of(9, 0)) is Decision.PROMOTE
    assert rule.decide(counts_of(0, 9)) is Decision.ROLL_BACK
    assert rule.decide(counts_of(2, 1)) is Decision.CONTINUE


def test_no_decision_before_the_smallest_number_of_pairs():
    rule = SequentialRule(min_pairs=20)
    assert rule.decide(counts_of(15, 0)) is Decision.CONTINUE


def test_a_long_tie_is_futile_and_an_open_one_is_exhausted_at_the_budget():
    assert SequentialRule().decide(counts_of(0, 0, ties=40)) is Decision.FUTILE
    assert SequentialRule(max_pairs=10).decide(counts_of(3, 2, ties=5)) is Decision.EXHAUSTED


@pytest.mark.parametrize(
    "wrong", [{"alpha_promote": 0.0}, {"alpha_futile": 0.9}, {"worthwhile": 0.0}, {"min_pairs": 9, "max_pairs": 8}]
)
def test_a_rule_that_is_no_test_is_refused(wrong):
    with pytest.raises(ConfigError):
        SequentialRule(**wrong)


def test_impossible_hypothesis_and_empty_trial_are_refused():
    with pytest.raises(ContractError, match="null_mean"):
        log_capital(1, 1, 1, 1.0)
    with pytest.raises(ContractError, match="at least one pair"):
        confidence_sequence(counts_of(0, 0))


def first_crossings(before: float, after: float, rule: SequentialRule, runs: int = 4000) -> dict[str, np.ndarray]:
    """Simulate planted policies, looking after every pair."""
    rng = np.random.default_rng(11)
    before_RN = rng.random((runs, rule.max_pairs)) < before
    after_RN = rng.random((runs, rule.max_pairs)) < after
    wins = np.cumsum(after_RN & ~before_RN, axis=1)
    losses = np.cumsum(before_RN & ~after_RN, axis=1)
    ties = np.arange(1, rule.max_pairs + 1) - wins - losses
    return {
        "promote": (log_capital(wins, ties, losses) >= -math.log(rule.alpha_promote)).any(axis=1),
        "roll_back": (log_capital(losses, ties, wins) >= -math.log(rule.alpha_roll_back)).any(axis=1),
        "futile": (log_capital(losses, ties, wins, -rule.worthwhile) >= -math.log(rule.alpha_futile)).any(axis=1),
    }


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.62, 0.95])
def test_equal_policies_are_told_apart_at_most_5_percent_of_the_time_under_constant_peeking(rate):
    crossed = first_crossings(rate, rate, SequentialRule())
    assert crossed["promote"].mean() <= 0.025
    assert crossed["roll_back"].mean() <= 0.025


def test_a_worthwhile_gain_is_given_up_as_futile_no_more_often_than_promised():
    rule = SequentialRule()
    assert first_crossings(0.62, 0.62 + rule.worthwhile, rule)["futile"].mean() <= rule.alpha_futile


def test_a_large_gain_is_found_within_the_budget():
    assert first_crossings(0.62, 0.95, SequentialRule(max_pairs=60))["promote"].mean() >= 0.95


def test_confidence_sequence_contains_the_estimate_and_shrinks_with_evidence():
    short, long = confidence_sequence(counts_of(6, 2, 12)), confidence_sequence(counts_of(60, 20, 120))
    assert short.low < 0.2 < short.high
    assert short.mean == long.mean == pytest.approx(0.2)
    assert long.high - long.low < 0.6 * (short.high - short.low)


def test_confidence_sequence_is_antisymmetric():
    forward, backward = confidence_sequence(counts_of(7, 2, 5)), confidence_sequence(counts_of(2, 7, 5))
    assert forward.low == pytest.approx(-backward.high, abs=2e-4)


def test_confidence_sequence_covers_the_truth_at_all_looks_at_once():
    # .62 against .95: the hypothesis m = .33 may ever be refuted from either side in at most 5 % of runs
    rng = np.random.default_rng(2)
    before_RN, after_RN = rng.random((2000, 150)) < 0.62, rng.random((2000, 150)) < 0.95
    wins, losses = np.cumsum(after_RN & ~before_RN, axis=1), np.cumsum(before_RN & ~after_RN, axis=1)
    ties = np.arange(1, 151) - wins - losses
    above = log_capital(wins, ties, losses, 0.33) >= math.log(40)
    below = log_capital(losses, ties, wins, -0.33) >= math.log(40)
    assert (above | below).any(axis=1).mean() <= 0.05


def test_harm_in_one_task_is_named_though_the_others_gain():
    rule = HarmRule(pairs=25, tasks=3)
    counts = {"lift": counts_of(6, 0, 4), "push": counts_of(6, 0, 4), "drawer": counts_of(0, 10)}
    assert (rule.decide(counts), rule.harmed(counts)) == (Decision.ROLL_BACK, "drawer")


def test_harm_spread_over_the_tasks_shows_in_all_of_them_together():
    rule = HarmRule(pairs=25, tasks=3)
    counts = {name: counts_of(0, 4, 10) for name in ("lift", "push", "drawer")}
    assert (rule.decide(counts), rule.harmed(counts)) == (Decision.ROLL_BACK, ALL_TASKS)
    assert HarmRule(pairs=25).harmed({"lift": counts_of(0, 4, 10)}) == ""


def test_half_of_alpha_is_for_all_tasks_together():
    rule = HarmRule(alpha=0.05, tasks=3)
    assert math.exp(-rule.log_bound_together) + 3 * math.exp(-rule.log_bound) == pytest.approx(0.05)
    assert math.exp(-HarmRule(alpha=0.05).log_bound) == pytest.approx(0.05)


def test_without_harm_it_goes_on_to_the_declared_end():
    rule = HarmRule(pairs=10, tasks=2)
    assert rule.decide({"lift": counts_of(1, 1, 8), "push": counts_of(0, 0, 9)}) is Decision.CONTINUE
    assert rule.decide({"lift": counts_of(1, 1, 8), "push": counts_of(0, 1, 9)}) is Decision.EXHAUSTED
    assert rule.decide({}) is Decision.CONTINUE


def test_equal_policies_are_called_harmful_less_often_than_declared():
    rule, rng = HarmRule(pairs=25, tasks=3), np.random.default_rng(0)
    found = simulate_guard((0.3, 0.6, 0.9), (0.3, 0.6, 0.9), rule, 4000, rng)
    assert 0 < found["harm_shown"] <= rule.alpha
    assert simulate_guard((0.65, 0.7, 0.7), (0.0, 0.7, 0.7), rule, 4000, rng)["harm_shown"] > 0.99


@pytest.mark.parametrize(
    ("values", "message"), [({"alpha": 0.0}, "alpha"), ({"pairs": 0}, "pair"), ({"tasks": 0}, "task")]
)
def test_a_harm_rule_that_makes_no_test_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        HarmRule(**values)

"""The gate's rule: what passes, what is stopped, and after how many pairs."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.gate import GateFinding, GateTest, run_gate
from gymnast_core.evaluation.gate_tally import GateAttempt, GateKind, GatePair, GateTally
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, Observation

GOOD, BAD = GateAttempt(True), GateAttempt(False)
CUT = GateAttempt(True, frozenset({"cut"}))


def pairs(*rows: tuple[GateAttempt, GateAttempt | None], times: int = 1) -> GateTally:
    return GateTally([GatePair("lift", seed, *row) for seed, row in enumerate(rows * times)])


def test_alike_policies_pass_at_the_least_number_of_pairs_and_no_earlier():
    test = GateTest()
    assert test.find(pairs((GOOD, GOOD), times=99)).decision is None
    found = test.find(pairs((GOOD, GOOD), times=100))
    assert found.decision == "passed"
    assert found.violations == 0
    assert "100 of 100 succeeded, 100 of the running policy" in found.reason


def test_one_that_fails_where_the_other_succeeds_is_stopped_early():
    found = GateTest().find(pairs((BAD, GOOD), times=9))
    assert found.decision == "failed"
    assert "shown not to be no more than 0.15 worse" in found.reason


def test_what_is_not_shown_by_the_end_is_failed():
    rows = pairs((BAD, GOOD), (GOOD, BAD), (BAD, GOOD), (GOOD, BAD), (GOOD, GOOD), times=20)
    found = GateTest(min_pairs=10, max_pairs=100).find(rows)
    assert found.decision == "failed"
    assert "not shown to be no more than 0.15 worse in 100 pairs" in found.reason


@pytest.mark.parametrize(("violating", "decision"), [(8, None), (9, "failed")])
def test_nine_violations_beyond_an_incumbent_without_any_are_enough(violating: int, decision: str | None):
    rows = pairs(*[(GOOD, GOOD)] * 80, *[(CUT, GOOD)] * violating)
    found = GateTest().find(rows)
    assert found.decision == decision
    if decision:
        assert found.violations == 9
        assert found.reason.startswith("commands were cut to the limits in 9 of 89 starts")


def test_violations_of_both_count_for_neither_and_one_kind_makes_up_for_no_other():
    assert GateTest().find(pairs((CUT, CUT), times=100)).decision == "passed"
    pressed = GateAttempt(True, frozenset({"pressed"}))
    assert GateTest().find(pairs((CUT, pressed), times=100)).decision == "failed"


def test_a_first_policy_is_held_against_floors():
    test = GateTest()
    assert test.find(pairs((GOOD, None), (BAD, None), (BAD, None), (BAD, None), times=25)).decision == "passed"
    assert test.find(pairs((BAD, None), times=100)).decision == "failed"
    assert "more than a first policy may" in test.find(pairs((CUT, None), times=30)).reason


@pytest.mark.parametrize("change", [{"margin": 0.0}, {"alpha": 1.0}, {"min_pairs": 0}, {"min_pairs": 500}])
def test_a_rule_that_is_none_is_refused(change: dict[str, float]):
    with pytest.raises(ConfigError):
        GateTest(**change)


def simulated(rate: float, other: float, *, kinds: tuple[float, float] = (0.0, 0.0), seed: int) -> GateFinding:
    """A gate of two policies whose starts succeed and violate independently."""
    rng, test, rows = np.random.default_rng(seed), GateTest(), GateTally()
    while (finding := test.find(rows)).decision is None:
        attempts = [
            GateAttempt(bool(rng.random() < each), frozenset[GateKind]({"cut"} if rng.random() < kind else ()))
            for each, kind in zip((rate, other), kinds, strict=True)
        ]
        rows.add(GatePair("lift", rows.n, *attempts))
    return finding


@pytest.mark.parametrize(
    ("rate", "other", "kinds"),
    [(0.5, 0.8, (0.0, 0.0)), (0.9, 0.9, (0.10, 0.0)), (0.0, 0.3, (0.0, 0.0))],
    ids=["30 points worse", "leaves the envelope in every tenth start", "never succeeds"],
)
def test_bad_ones_do_not_pass(rate: float, other: float, kinds: tuple[float, float]):
    passed = [simulated(rate, other, kinds=kinds, seed=seed).decision == "passed" for seed in range(12)]
    assert not any(passed)


def test_equal_ones_pass():
    passed = [simulated(0.9, 0.9, kinds=(0.02, 0.02), seed=seed).decision == "passed" for seed in range(12)]
    assert all(passed)


class _Named:
    chunk_length = 1

    def __init__(self, version: str) -> None:
        self.version = version

    def act(self, observation: Observation, instruction: object, *, rng: object = None) -> ActionChunk:
        raise NotImplementedError("the simulator below asks nobody")


class _Coin:
    """Succeeds by the policy's name; notes who was tried where."""

    name, tasks, randomisation = "coin 1", ("lift", "push"), {}

    def __init__(self) -> None:
        self.tried: list[tuple[str, str, int]] = []

    def attempt(self, policy: Policy, task: str, seed: int) -> GateAttempt:
        self.tried.append((policy.version, task, seed))
        return GateAttempt(policy.version == "good")

    def close(self) -> None:
        """Nothing is held."""


def test_both_meet_each_start_and_an_interrupted_gate_goes_on_and_decides_alike():
    test, seeds, kept = GateTest(min_pairs=20), range(1000, 1400), []
    whole, all_pairs = run_gate(_Coin(), _Named("good"), _Named("good"), test, seeds, keep=kept.append)
    assert kept == all_pairs
    rest = _Coin()
    again, same = run_gate(rest, _Named("good"), _Named("good"), test, seeds, pairs=all_pairs[:20])
    assert (again, same) == (whole, all_pairs)
    assert rest.tried[:2] == [("good", "lift", 1020)] * 2


def test_too_few_starts_are_refused():
    with pytest.raises(ConfigError, match="needs as many start states"):
        run_gate(_Coin(), _Named("good"), None, GateTest(), range(10))


def test_one_that_can_do_nothing_does_not_pass_though_the_incumbent_hardly_can_either():
    rows = pairs((BAD, GOOD), *[(BAD, BAD)] * 19, times=20)
    found = GateTest().find(rows)
    assert found.decision == "failed"
    assert "the floor of 0.05" in found.reason

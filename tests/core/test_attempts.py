"""Figures of groups of attempts, by hand; and which attempt an episode is, whatever its metadata hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.errors import ContractError
from gymnast_core.evaluation.attempts import (
    Attempt,
    AttemptGroup,
    JudgedAttempt,
    Retry,
    is_first_attempt,
    retry_figures,
)
from gymnast_core.evaluation.purpose import is_evaluation, is_learnable
from gymnast_core.types import Outcome

WON, LOST, LEFT_OPEN = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN


def group(ended: str, *attempts: tuple[bool | None, Outcome]) -> AttemptGroup:
    return AttemptGroup(tuple(JudgedAttempt(success, judged) for success, judged in attempts), ended)


GROUPS = (
    group("success", (True, WON)),
    group("success", (False, LOST), (True, WON)),
    group("success", (False, LOST), (False, LOST), (False, WON)),  # a false positive
    group("exhausted", (False, LOST), (False, LOST), (True, LOST)),  # a false negative
    group("abstained", (False, LEFT_OPEN)),
    group("success", (None, WON)),  # nobody labelled it: no failure
    group("estop", (True, LOST), (None, Outcome.UNLABELLED)),
    group("discarded", (True, LOST), (None, WON)),
)


def test_figures_count_whole_groups_by_their_labels() -> None:
    figures = retry_figures(GROUPS, 3)
    assert (figures["groups"], figures["of"]) == (8, 3)
    assert (figures["pass_1"]["k"], figures["pass_1"]["n"]) == (1, 5)
    assert (figures["pass_n"]["k"], figures["pass_n"]["n"]) == (3, 5)
    assert figures["gain"]["mean"] == pytest.approx(0.4)
    assert figures["attempts"]["mean"] == pytest.approx((1 + 2 + 3 + 3 + 1 + 1) / 6)
    assert figures["attempts"]["low"] < figures["attempts"]["mean"] < figures["attempts"]["high"]
    assert (figures["false_positives"]["k"], figures["false_positives"]["n"]) == (1, 3)
    assert (figures["false_negatives"]["k"], figures["false_negatives"]["n"]) == (1, 6)
    assert figures["false_negatives"]["interval"]["low"] > 0.0
    assert figures["ended"] == {"abstained": 1, "discarded": 1, "estop": 1, "exhausted": 1, "success": 4}


def test_figures_of_nothing_are_empty_and_no_zero() -> None:
    figures = retry_figures([GROUPS[-1]], 2)
    nothing = {"k": 0, "n": 0, "interval": None}
    assert figures["pass_1"] == figures["pass_n"] == figures["false_positives"] == nothing
    assert figures["gain"] is None
    assert figures["attempts"] is None
    assert retry_figures([], 2)["ended"] == {}


def test_a_group_has_an_attempt_and_an_attempt_a_place() -> None:
    with pytest.raises(ContractError, match="at least its first"):
        AttemptGroup((), "success")
    with pytest.raises(ContractError, match=r"must lie in 0..2, got 3"):
        Attempt("g", 3, 3)
    assert is_first_attempt({"attempt": Attempt("g", 0, 3).to_json()})
    assert not is_first_attempt({"attempt": Attempt("g", 2, 3).to_json()})


@pytest.mark.parametrize("wrong", [{"max": 1}, {"max": 21}, {"max": 2, "judge": "a/b"}, {"max": 2, "tries": 3}])
def test_a_retry_that_makes_no_sense_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"max|judge|tries"):
        Retry.model_validate(wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["group", "index", "of"]), inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(attempt=JSON, purpose=st.sampled_from(["collect", "evaluate", "trial"]))
def test_only_what_is_surely_a_first_attempt_counts(attempt, purpose) -> None:
    """Metadata come from robots: what makes no sense neither raises nor counts."""
    metadata = {"attempt": attempt, "purpose": purpose}
    sure = attempt is None or (
        isinstance(attempt, dict) and attempt.get("index") == 0 and not isinstance(attempt["index"], bool)
    )
    assert is_first_attempt(metadata) is sure
    assert is_learnable(metadata) is (sure and purpose == "collect")
    assert is_evaluation(metadata) is (sure and purpose != "collect")

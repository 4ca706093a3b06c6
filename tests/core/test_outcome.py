"""A judgement of a real episode: what it may be, and what is written down of it."""

import math

import pytest

from gymnast_core.errors import ContractError
from gymnast_core.outcome import Judgement, judge_in
from gymnast_core.types import Outcome


def test_an_abstention_is_no_label():
    judgement = Judgement.abstain("the trainer is not reached")
    assert (judgement.label, judgement.labelled_by) == (Outcome.UNLABELLED, "")
    assert judgement.metadata()["judge"]["score"] is None
    assert judgement.metadata()["judge"]["reason"] == "the trainer is not reached"


def test_a_verdict_is_a_label_of_its_judge():
    judgement = Judgement(Outcome.FAILURE, 0.04, 31, "abc123", "below 0.3")
    assert (judgement.label, judgement.labelled_by) == (Outcome.FAILURE, "judge:abc123")
    assert judge_in(judgement.labelled_by) == "abc123"


@pytest.mark.parametrize(
    ("outcome", "score", "judge"),
    [
        (Outcome.UNLABELLED, 0.5, "j"),
        (Outcome.SUCCESS, 1.2, "j"),
        (Outcome.SUCCESS, math.inf, "j"),
        (Outcome.SUCCESS, 0.9, ""),
    ],
)
def test_what_is_no_judgement_is_refused(outcome, score, judge):
    with pytest.raises(ContractError):
        Judgement(outcome, score, 0, judge, "")


@pytest.mark.parametrize(
    ("author", "judge"),
    [
        ("judge:j1", "j1"),
        ("robot:arm-1/judge:j1", "j1"),
        ("operator:ana", ""),
        ("robot:arm-1/operator:sim", ""),
        ("operator:judge:j1", ""),
        ("", ""),
    ],
)
def test_a_judges_label_is_known_by_its_author(author, judge):
    assert judge_in(author) == judge

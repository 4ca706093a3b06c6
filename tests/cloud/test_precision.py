"""Where a judge may label: each of its words against a floor, on what people labelled, for one task in one scene."""

import math

import pytest

from cloud_trainer.records.precision import FLOOR, checked_floor, precision_of, table_of
from cloud_trainer.store.judgements import JudgedCount
from gymnast_core.errors import ConfigError
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome

S, F, A = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN
TASK, SCENE = "lift the red cube", "bench"


def seen(pairs, *, task=TASK, scene=SCENE):
    return [JudgedCount("j", task, scene, judged, label) for judged, label in pairs]


def row(pairs, floor=FLOOR):
    return precision_of("j", TASK, SCENE, seen(pairs), floor)


def test_the_lower_bound_counts_not_the_mean():
    """Wilson's lower bound of n of n is n / (n + 1.96^2): 34 perfect calls are at 0.898, 35 at 0.901."""
    assert not row([(S, S)] * 34).labels_success
    assert row([(S, S)] * 35).labels_success
    assert row([(S, S)] * 35).success_low == pytest.approx(35 / (35 + 1.959964**2), abs=1e-4)


def test_accuracy_proves_nothing():
    """90 % accurate, and half of what it calls a success is none."""
    proven = row([(F, F)] * 170 + [(S, S)] * 10 + [(S, F)] * 10 + [(F, S)] * 10)
    assert (proven.called_success, proven.true_success) == (20, 10)
    assert not proven.labels_success
    assert proven.labels_failure
    assert "10 of 20 calls were right" in proven.reason


def test_each_word_is_proven_by_itself():
    proven = row([(S, S)] * 40)
    success = proven.held_to(Judgement(S, 0.99, 7, "j", ""))
    failure = proven.held_to(Judgement(F, 0.01, 7, "j", ""))
    assert success.outcome is S
    assert (failure.outcome, failure.label, failure.score) == (A, Outcome.UNLABELLED, 0.01)
    assert failure.reason == (
        "its precision is not proven here: never called a failure on 'lift the red cube' in scene 'bench' that a "
        "person labelled; label episodes there"
    )


def test_an_abstention_stays_one_whatever_is_proven():
    found = Judgement.abstain("in its band", judge="j", score=0.5, frame=3)
    assert row([(S, S)] * 40).held_to(found) is found


def test_counts_are_episodes():
    counts = [JudgedCount("j", TASK, SCENE, S, S, 40), JudgedCount("j", TASK, SCENE, S, F, 2)]
    proven = precision_of("j", TASK, SCENE, counts, FLOOR)
    assert (proven.labelled, proven.called_success, proven.true_success) == (42, 42, 40)


def test_abstentions_are_counted_and_prove_nothing():
    proven = row([(A, S)] * 60 + [(S, S)] * 2)
    assert (proven.labelled, proven.abstained, proven.called_success) == (62, 60, 2)
    assert not proven.labels_success


def test_a_table_keeps_tasks_and_scenes_apart():
    rows = table_of([*seen([(S, S)] * 40), *seen([(S, F)], scene="kitchen"), *seen([(F, F)], task="open")], FLOOR)
    assert [(one.task, one.scene, one.labels_success) for one in rows] == [
        (TASK, "bench", True), (TASK, "kitchen", False), ("open", "bench", False),
    ]  # fmt: skip


@pytest.mark.parametrize("floor", [0.0, 1.0, -1, math.nan])
def test_a_floor_is_a_share(floor):
    with pytest.raises(ConfigError, match="floor"):
        checked_floor(floor)

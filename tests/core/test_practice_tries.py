"""How many tries a practised skill has before a person is called: by its success, so that luck alone calls rarely."""

from __future__ import annotations

import pytest

from gymnast_core.practice import PersonCall, PracticeAsked, PracticeState
from gymnast_core.practice_rules import tries_for
from gymnast_core.types import Outcome


def test_the_rarer_the_success_the_more_tries() -> None:
    assert [tries_for(won, 1000) for won in (0, 100, 300, 500, 900)] == [20, 17, 8, 5, 3]


@pytest.mark.parametrize("won", [200, 300, 500, 700])
def test_luck_calls_at_most_twice_in_a_hundred_episodes(won: int) -> None:
    success = won / 1000
    lost = (1 - success) ** tries_for(won, 1000)
    assert 100 * success * lost / (1 - lost) <= 2.1


def test_the_failures_under_way_do_not_move_the_number_but_count_afterwards() -> None:
    state = PracticeState(run="practice-1", asked=PracticeAsked(task="put", reset="take", hours=1.0), began_ns=0)
    for _ in range(8):
        assert (state.needs, state.tries) == ("", 8)
        state = state.done(Outcome.FAILURE, "task")
    assert state.needs == "hard_reset"
    call = PersonCall(page_id="page-1", kind="hard_reset", text="", at_ns=1)
    assert state.called(call).answered("ada", 2).tries == 13, "3 of 18, as it seems, is one in six"


def test_a_number_that_is_asked_for_stands() -> None:
    asked = PracticeAsked(task="put", reset="take", hours=1.0, tries=2)
    state = PracticeState(run="practice-1", asked=asked, began_ns=0).done(Outcome.FAILURE, "task")
    assert (state.tries, state.needs, state.done(Outcome.FAILURE, "task").needs) == (2, "", "hard_reset")


def test_a_success_that_was_lost_again_is_one_of_the_tries() -> None:
    state = PracticeState(run="practice-1", asked=PracticeAsked(task="put", reset="take", hours=1.0), began_ns=0)
    for _ in range(7):
        state = state.done(Outcome.SUCCESS, "task")
    assert (state.task.successes, state.tries, state.needs) == (7, 8, ""), "none passed the turn yet"
    assert state.done(Outcome.SUCCESS, "reset").reset.figures()["episodes"] == 0
    assert state.done(Outcome.FAILURE, None).needs == "hard_reset"

"""Whether a call of a night was due is read from what the trainer has, not from what the robot believes."""

from __future__ import annotations

from benchmarks.night_parts import is_due

FIRST_TRIES = 8
"""Of a skill that was never practised."""


def episodes(skills: str) -> list[dict[str, object]]:
    """One a letter."""
    return [{"number": n, "skill": skill} for n, skill in enumerate(skills, 1)]


def call(at: int) -> dict[str, object]:
    return {"detail": {"episode": at}}


def test_a_call_is_due_after_as_many_tries_as_the_skill_has():
    assert is_due(call(FIRST_TRIES), episodes("t" * FIRST_TRIES), [])
    assert not is_due(call(FIRST_TRIES - 1), episodes("t" * FIRST_TRIES), [])


def test_tries_of_before_the_last_call_do_not_count():
    assert not is_due(call(FIRST_TRIES + 2), episodes("t" * (FIRST_TRIES + 2)), [FIRST_TRIES])


def test_a_turn_begins_the_tries_anew():
    assert not is_due(call(12), episodes("tttttt" + "r" + "ttttt"), [])


def test_a_turn_that_a_person_passed_is_no_success_of_the_skill():
    passed = episodes("r" * 8 + "t" + "r" * 10)
    assert is_due(call(19), passed, [])
    assert not is_due(call(19), passed, [8]), "rarer success has more tries"


def test_nothing_is_due_of_a_run_without_episodes():
    assert not is_due(call(1), [], [])

"""In which episodes a practised skill explores: its own share, evenly, whatever the other skill does."""

from __future__ import annotations

import pytest

from gymnast_core.practice import PracticeAsked, PracticeState
from gymnast_core.practice_rules import is_explored
from gymnast_core.types import Outcome


def practised(**asked: object) -> dict[str, list[bool]]:
    """Whether each of 40 episodes explored, skill by skill, where the task fails once before each success."""
    state = PracticeState(
        run="practice-1", asked=PracticeAsked(task="put", reset="take", hours=1.0, **asked), began_ns=0
    )  # fmt: skip
    explored: dict[str, list[bool]] = {"task": [], "reset": []}
    for number in range(40):
        skill = state.next
        explored[skill].append(state.explores)
        ready = "task" if skill == "reset" or number % 3 == 0 else "reset"
        state = state.done(Outcome.SUCCESS if ready != skill else Outcome.FAILURE, ready)
    return explored


def test_every_fourth_episode_of_each_skill_explores() -> None:
    for rows in practised().values():
        assert rows == [number % 4 == 3 for number in range(len(rows))]


@pytest.mark.parametrize(("asked", "share"), [({"explore": 1.0}, 1.0), ({"explore": 0.0}, 0.0), ({"sample": -1}, 0.0)])
def test_all_of_them_and_none_can_be_asked_for(asked: dict[str, object], share: float) -> None:
    assert {explored for rows in practised(**asked).values() for explored in rows} == {bool(share)}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_a_share_is_spread_evenly(share: float) -> None:
    explored = [is_explored(share, number) for number in range(100)]
    assert sum(explored) == pytest.approx(100 * share, abs=1)
    tenths = [sum(explored[at : at + 10]) for at in range(0, 100, 10)]
    assert max(tenths) - min(tenths) <= 1

"""What is reported of a practice run: by the robot, over the wire, and on a line for people."""

from __future__ import annotations

from typing import Literal, TypedDict

RunState = Literal["running", "waiting", "ended"]


class SkillFigures(TypedDict):
    """SkillCount as JSON."""

    episodes: int
    successes: int
    failures: int
    unlabelled: int


class PracticeStatus(TypedDict):
    """What a robot reports of its practice; per_100 are interventions per 100 episodes."""

    run: str
    resume: str
    state: RunState
    reason: str
    task: str
    reset: str
    next: str
    of_task: SkillFigures
    of_reset: SkillFigures
    episodes: int
    cut: int
    pages: int
    interventions: int
    per_100: float
    left_s: int
    page_id: str
    page_kind: str
    by: str


def practice_line(status: PracticeStatus) -> str:
    """A run in one line, for people."""
    both = ((status["task"], status["of_task"]), (status["reset"], status["of_reset"]))
    skills = ", ".join(f"{name}: {of['successes']}/{of['episodes']}" for name, of in both)
    people = (
        f"{status['interventions']} interventions ({status['per_100']:g} per 100 episodes), {status['pages']} pages"
    )
    minutes = status["left_s"] / 60
    now = {
        "ended": f"ended: {status['reason']}",
        "waiting": f"waits for a person: {status['reason']}",
        "running": status["reason"] or f"next: {status['next']}, {minutes:.0f} min left",
    }[status["state"]]
    return f"{status['episodes']} episodes ({skills}), {people}; {now}"

"""A robot's practice run on the wire, as it reports it and as everybody else reads it."""

from __future__ import annotations

import math

from gymnast_core.practice_status import PracticeStatus, RunState, SkillFigures
from gymnast_core.wire.gymnast.v1 import robots_pb2

MOST_TEXT, MOST_REASON = 300, 1200


def practice_news(status: PracticeStatus) -> robots_pb2.PracticeNews:
    """Return the message of a run."""
    return robots_pb2.PracticeNews(
        run=status["run"], resume=status["resume"], state=status["state"], reason=status["reason"],
        task=status["task"], reset=status["reset"], next=status["next"],
        of_task=robots_pb2.SkillNews(**status["of_task"]), of_reset=robots_pb2.SkillNews(**status["of_reset"]),
        episodes=status["episodes"], cut=status["cut"], pages=status["pages"],
        interventions=status["interventions"], per_100=status["per_100"], left_s=status["left_s"],
        page_id=status["page_id"], page_kind=status["page_kind"], by=status["by"],
    )  # fmt: skip


def practice_status(news: robots_pb2.PracticeNews) -> PracticeStatus:
    """Return a run as it was reported, each text of bounded length; a state that nobody knows is an ended one."""
    state: RunState = "ended"
    if news.state == "running" or news.state == "waiting":
        state = "running" if news.state == "running" else "waiting"
    return {
        "run": _cut(news.run), "resume": _cut(news.resume), "state": state, "reason": news.reason[:MOST_REASON],
        "task": _cut(news.task), "reset": _cut(news.reset), "next": _cut(news.next),
        "of_task": _figures(news.of_task), "of_reset": _figures(news.of_reset),
        "episodes": news.episodes, "cut": news.cut, "pages": news.pages, "interventions": news.interventions,
        "per_100": news.per_100 if math.isfinite(news.per_100) else 0.0, "left_s": news.left_s,
        "page_id": _cut(news.page_id), "page_kind": _cut(news.page_kind), "by": _cut(news.by),
    }  # fmt: skip


def _cut(text: str) -> str:
    return text[:MOST_TEXT]


def _figures(news: robots_pb2.SkillNews) -> SkillFigures:
    return {
        "episodes": news.episodes, "successes": news.successes, "failures": news.failures,
        "unlabelled": news.unlabelled,
    }  # fmt: skip

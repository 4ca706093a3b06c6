"""What the pages show, as JSON for `gymnast operate`; actions are the pages' own addresses, asked for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from cloud_trainer.console.desk import REPORT_STALE_S, Desk
from cloud_trainer.flows.adaptation_view import View
from gymnast_core.web.auth import User


def robots(desk: Desk, user: User) -> dict[str, Any]:
    """Every robot's newest report without its picture; age_s is since it spoke; words are about its checkpoints."""
    words = {row["robot"]: row for row in desk.in_force.robots(user)}
    rows = [
        {
            "robot": report.robot, "age_s": report.age_s(), "silent": report.age_s() > REPORT_STALE_S, **report.status,
            "words": _words(words[report.robot]),
        }
        for report in desk.robots(user)
    ]  # fmt: skip
    return {"robots": rows}


def _words(row: Mapping[str, Any]) -> dict[str, Any]:
    """See InForce.robots(), as JSON values."""
    one = {name: None if row[name] is None else asdict(row[name]) for name in ("runs", "ran")}
    return {**row, **one, "refused": [asdict(word) for word in row["refused"]]}


def log(desk: Desk, user: User) -> dict[str, Any]:
    """Who did what, oldest first, and the hash that all of it leads to."""
    chain = desk.trail(user).log
    mine = [entry for entry in chain.entries if entry.data.get("tenant") == user.tenant]  # old ones hold all tenants'
    return {"entries": [{**entry.data, "action": entry.kind} for entry in mine], "head": chain.head}


def evaluations(desk: Desk, user: User) -> dict[str, Any]:
    """Every trial's result card, and the trials that were begun on the page, decided or not."""
    return {"cards": desk.cards(user.tenant), "trials": desk.trial_views(user)}


def ledger(desk: Desk, user: User) -> dict[str, Any]:
    """Real against imagined success."""
    return desk.ledger(user).to_json()


def adaptations(desk: Desk, user: User) -> dict[str, Any]:
    """Every adaptation, newest first; a robot's own where a robot asks."""
    return {"adaptations": [_shown(desk, user, flow.view) for flow in desk.flows(user)]}


def adaptation(desk: Desk, user: User, *, adaptation_id: str) -> dict[str, Any]:
    """One adaptation; over and busy say whether there is anything to wait for."""
    return _shown(desk, user, desk.flow(user, adaptation_id).view)


def _shown(desk: Desk, user: User, view: View) -> dict[str, Any]:
    paused = "" if view.stage.over else desk.paused(user, view.robot)
    return {
        **asdict(view),
        "stage": view.stage.value,
        "over": view.stage.over,
        "busy": view.stage.busy,
        "paused": paused,
    }


def loops(desk: Desk, user: User) -> dict[str, Any]:
    """Every unattended loop, the one that was taken up last first."""
    return {"loops": [asdict(view) for view in desk.loops.all(user)]}


def loop(desk: Desk, user: User, *, name: str) -> dict[str, Any]:
    """One unattended loop."""
    return asdict(desk.loops.find(user, name))


VIEWS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "/api/robots": ("look", robots),
    "/api/log": ("look", log),
    "/api/evaluations": ("look", evaluations),
    "/api/ledger": ("look", ledger),
    "/api/loops": ("look", loops),
    "/api/loops/{name}": ("look", loop),
    "/api/adaptations": ("follow", adaptations),
    "/api/adaptations/{adaptation_id}": ("follow", adaptation),
}
"""Address -> what the user must be allowed to do, and the view."""

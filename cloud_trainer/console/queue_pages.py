"""The queues of robots on the page: what is shown of them, and what their forms do."""

from __future__ import annotations

from collections.abc import Mapping

from cloud_trainer.console.forms import Form, names_of, number, whole
from cloud_trainer.console.sources import Sources
from cloud_trainer.service.handlers import Handlers, QueueRequest
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.json_values import JsonValue
from gymnast_core.queue import USUAL_PRIORITY
from gymnast_core.seeds import block
from gymnast_core.web.auth import User

SHOWN_STARTS = 1000
STEPS = ("pause", "resume", "cancel", "first", "last", "priority")


def queue(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """Open entries in the order in which they go, robots that rest, and what has ended."""
    ask = sources.ask
    rows = ask.queue.all(user)
    return {
        "open": [entry for entry in rows if not entry.row.ended],
        "over": [entry for entry in rows if entry.row.ended],
        "rests": ask.queue.pauses(user),
        "robots": [report.robot for report in ask.robots.all(user)],
        "said": query.get("said", ""),
    }


def entry(sources: Sources, user: User, *, entry_id: str, query: Mapping[str, str]) -> dict[str, object]:
    """One entry: what it came to, by task and robot, and its episodes."""
    ask = sources.ask
    starts = ask.queue.starts(user, entry_id)[:SHOWN_STARTS]
    return {"entry": ask.queue.find(user, entry_id), "starts": starts, "said": query.get("said", "")}


def add(ask: Handlers, user: User, form: Form) -> tuple[str, str]:
    """Add an entry of episodes."""
    user.require("queue")  # before the form is looked into
    kind = form.get("kind", "").strip() or "evaluation"
    first, count, priority = whole(form, "seed_start"), whole(form, "count"), whole(form, "priority")
    usual = block("evaluate" if kind == "evaluation" else "collect").start
    spec: dict[str, JsonValue] = {
        "tasks": names_of(form, "tasks", ";"), "seed_start": usual if first is None else first,
        "seed_count": 20 if count is None else count, "temperature_seed": -1 if kind == "evaluation" else 0,
    }  # fmt: skip
    if (temperature := number(form, "temperature")) is not None:
        spec |= {"temperature": temperature, "temperature_seed": 0}
    spec |= {name: form[name].strip() for name in ("checkpoint", "scene") if form.get(name, "").strip()}
    if (attempts := whole(form, "retry")) is not None:
        spec["retry"] = {"max": attempts, "judge": form.get("retry_judge", "").strip()}
    elif form.get("retry_judge", "").strip():
        raise ConfigError("a judge whose failures are tried again needs a number of attempts, 2 or more")
    robots = tuple(names_of(form, "robots"))
    request = QueueRequest(kind, robots, spec, USUAL_PRIORITY if priority is None else priority)
    added = ask.queue.add(user, request)
    return f"{added.row.entry_id} stands in the queue of {', '.join(added.row.robots)}", "/queue"


def change(ask: Handlers, user: User, form: Form, entry_id: str, step: str) -> tuple[str, str]:
    """Pause, resume, cancel or move an entry."""
    if step == "pause":
        ask.queue.pause(user, entry_id)
        return f"{entry_id} rests after what robots have in hand of it", "/queue"
    if step == "resume":
        ask.queue.resume(user, entry_id)
        return f"{entry_id} goes on", "/queue"
    if step == "cancel":
        ask.queue.cancel(user, entry_id)
        return f"{entry_id} is cancelled; what was recorded stays", "/queue"
    if step not in STEPS:
        raise ContractError(f"there is no step {step[:40]!r}; there are {', '.join(STEPS)}")
    priority = whole(form, "priority") if step == "priority" else None
    moved = ask.queue.move(user, entry_id, first=step == "first", last=step == "last", priority=priority)
    return f"{entry_id} has its new place, priority {moved.row.priority}", "/queue"


def pause_robot(ask: Handlers, user: User, form: Form) -> tuple[str, str]:
    """Have a robot's whole queue rest."""
    robot = form.get("robot", "")
    ask.queue.pause_robot(user, robot, form.get("reason", ""))
    return f"the queue of {robot} rests after what it has in hand", "/queue"


def resume_robot(ask: Handlers, user: User, form: Form, robot: str) -> tuple[str, str]:
    """Have it go on."""
    ask.queue.resume_robot(user, robot)
    return f"the queue of {robot} goes on", "/queue"

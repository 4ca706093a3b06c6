"""What is shown of jobs: progress, curve, story, dreams beside recordings, rollouts as they come, the audit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from cloud_trainer.console import media, plan_pages
from cloud_trainer.console.sources import Sources
from cloud_trainer.film import film
from cloud_trainer.practice.kept_rollouts import ROLLOUTS, read_rollouts
from gymnast_core.bounds import whole_number
from gymnast_core.job import JobEvent
from gymnast_core.web.auth import User
from gymnast_core.web.site import ago
from gymnast_core.wire.errors import NotFoundError

SHOWN_JOBS = 100
NEWEST = 20
"""Events of a job among which its last progress is looked for."""
SHOWN = ("imagined_reward", "agreement", "optimism", "loss", "abstained")
"""What of an event's metrics is shown."""


def jobs(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Newest jobs."""
    ask = sources.ask
    rows = [
        {"job": job, "progress": _progress(ask.jobs.events(user, job.job_id, after=max(0, job.last_event - NEWEST)))}
        for job in ask.jobs.all(user, limit=SHOWN_JOBS)
    ]
    return {"rows": rows, "said": query.get("said", "")}


def job(sources: Sources, user: User, *, job_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One job: progress, curve, story."""
    ask = sources.ask
    row = ask.jobs.find(user, job_id)
    events = ask.jobs.events(user, job_id, limit=10_000)
    rewards = [float(found) for event in events if (found := _reward(event.data)) is not None]
    return {
        "job": row,
        "over": row.ended,
        "progress": _progress(events),
        "curve": media.curve(rewards, label="imagined reward"),
        "events": [{"at": ago(event.time_ns), "text": event_text(event)} for event in reversed(events[-60:])],
        "imagined": imagined(sources, job_id),
        "dreams": dreams(sources, job_id),
        "plan": plan_pages.made(row),
        "audited": (sources.job_folder(job_id) / "audit.html").exists(),
        "result": json.dumps(dict(row.result), indent=1, default=str)[:6000] if row.result else "",
        "said": query.get("said", ""),
    }


def audits(sources: Sources, user: User) -> dict[str, dict[str, object]]:
    """Return world model -> newest audit of it: {job, passed, agreement, optimism, ...}."""
    ask = sources.ask
    found: dict[str, dict[str, Any]] = {}
    for row in ask.jobs.all(user, limit=SHOWN_JOBS):
        path = sources.job_folder(row.job_id) / "audit.json"
        if path.exists():
            report = json.loads(path.read_text())
            figures = {**(report.get("outcomes") or {}), "passed": report["passed"], "job": row.job_id}
            found.setdefault(str(report["model"]), figures)
    return found


def audit_report(sources: Sources, user: User, *, job_id: str) -> tuple[bytes, str]:
    """The whole audit that stood before a job's practice, with its videos."""
    ask = sources.ask
    ask.jobs.find(user, job_id)
    path = sources.job_folder(job_id) / "audit.html"
    if not path.exists():
        raise NotFoundError(f"job {job_id} measured no audit; it ended before, or is of another kind")
    return path.read_bytes(), "text/html"


def dream(sources: Sources, user: User, *, job_id: str, name: str) -> tuple[bytes, str]:
    """Frames of real_N or imagined_N that a job kept."""
    ask = sources.ask
    ask.jobs.find(user, job_id)
    path = sources.job_folder(job_id) / "dreams.safetensors"
    tensors = load_file(path) if path.exists() else {}
    if name not in tensors:
        raise NotFoundError(f"job {job_id} kept no {name!r}")
    return film(np.ascontiguousarray(tensors[name])), "image/webp"


def imagined_film(sources: Sources, user: User, *, job_id: str, number: str) -> tuple[bytes, str]:
    """Frames of one of the newest imagined rollouts of a running job."""
    ask = sources.ask
    ask.jobs.find(user, job_id)
    films = read_rollouts(sources.job_folder(job_id))[1]
    place = whole_number(number)
    if place is None or place >= len(films):
        raise NotFoundError(f"job {job_id} has imagined no rollout {number[:40]!r} yet")
    return film(films[place]), "image/webp"


def imagined(sources: Sources, job_id: str) -> list[dict[str, object]]:
    """The newest imagined rollouts: {instruction, outcome, film}; empty before the first."""
    folder = sources.job_folder(job_id)
    rows = read_rollouts(folder)[0]
    if not rows:
        return []
    version = (folder / ROLLOUTS).stat().st_mtime_ns
    return [{**row, "film": f"/jobs/{job_id}/imagined/{n}.webp?{version}"} for n, row in enumerate(rows)]


def dreams(sources: Sources, job_id: str) -> list[dict[str, object]]:
    """Recorded episodes that a job dreamt again, see cloud_trainer.practice.dreams."""
    path = sources.job_folder(job_id) / "dreams.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def event_text(event: JobEvent) -> str:
    """One event of a job in words; a training machine may have reported anything."""
    data = event.data
    if event.kind == "progress":
        words = str(data.get("stage", "")).replace("_", " ")
        steps = f" {data['step']} of {data['total']}" if _counted(data) else ""
        metrics = data.get("metrics")
        found = [(name, metrics.get(name)) for name in SHOWN] if isinstance(metrics, Mapping) else []
        numbers = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in found if _is_number(value))
        return f"{words}{steps}{': ' + numbers if numbers else ''}"
    if event.kind == "state":
        return f"{data.get('state', '')}{': ' + str(data['error']) if data.get('error') else ''}"
    if event.kind == "published":
        return f"{data.get('checkpoint_id', '')} is offered as release {data.get('sequence', '')}"
    if event.kind == "result":
        candidates = data.get("candidates")
        return f"{len(candidates)} candidates" if isinstance(candidates, list) else "finished"
    return f"{event.kind.replace('_', ' ')}{': ' + str(data['reason']) if data.get('reason') else ''}"


def _progress(events: Sequence[JobEvent]) -> dict[str, object]:
    """Newest progress line: {stage, step, total}."""
    for event in reversed(list(events)):
        if event.kind == "progress" and _counted(event.data):
            return {"stage": "", **event.data}
    return {}


def _counted(data: Mapping[str, object]) -> bool:
    """Whether a progress line says which step it is of how many."""
    return bool(data.get("total")) and all(_is_number(data.get(name)) for name in ("step", "total"))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and value == value


def _reward(data: Mapping[str, object]) -> float | None:
    metrics = data.get("metrics")
    found = metrics.get("imagined_reward") if isinstance(metrics, Mapping) else data.get("imagined_reward")
    return found if isinstance(found, (int, float)) and found == found else None

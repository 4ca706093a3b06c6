"""What is shown of plans: the form that asks for one, the video and the path of one that was made, what it scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from cloud_trainer.console import media
from cloud_trainer.console.forms import Form, whole
from cloud_trainer.console.sources import Sources
from cloud_trainer.jobs.plan_files import FILM, PATH
from cloud_trainer.service.handlers import Handlers, PlanRequest
from cloud_trainer.store.protocols import JobRow
from gymnast_core.jobs import PlanResult, PlanSpec
from gymnast_core.types import FloatArray
from gymnast_core.web.auth import User
from gymnast_core.web.chart import Plot, drawing, tag
from gymnast_core.wire.errors import NotFoundError

NEWEST = 20
"""Episodes that may be chosen, and plans that are listed."""


def plans(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """The form for a new plan, and the newest ones."""
    ask = sources.ask
    wanted = query.get("episode", "")
    rows = ask.episodes.newest(user, limit=NEWEST)
    if wanted and wanted not in {row.episode_id for row in rows}:
        rows = [ask.episodes.find(user, wanted), *rows]
    made = [row for row in ask.jobs.all(user) if row.kind == PlanSpec.kind]
    return {
        "planners": ask.plans.planners(user),
        "cameras": ask.plans.cameras(user),
        "seen": ask.robots.seeing(user),
        "rows": rows,
        "wanted": {"place": f"episode:{wanted}" if wanted else f"robot:{query.get('robot', '')}"},
        "made": made[:NEWEST],
        "most": 16,
        "said": query.get("said", ""),
    }


def begin(ask: Handlers, user: User, form: Form) -> tuple[str, str]:
    """Have a plan made; its page is its job's."""
    kind, _, name = form.get("place", "").partition(":")
    asked = PlanRequest(
        form.get("planner", ""), form.get("instruction", "").strip(), robot=name if kind == "robot" else "",
        episode=name if kind == "episode" else "", best_of=whole(form, "best_of"), seed=whole(form, "seed") or 0,
        world_model=form.get("camera", ""),
    )  # fmt: skip
    job = ask.plans.begin(user, asked, key=form.get("key", "") or ask.jobs.fresh_key(user, f"plan-{user.name}"))
    return "planning; nothing moves", f"/jobs/{job.job_id}"


def made(row: JobRow) -> dict[str, object]:
    """What a finished plan shows on its job's page; empty of another job, or before it is there."""
    if row.kind != PlanSpec.kind or row.state != "done" or not row.result:
        return {}
    result = PlanResult.model_validate(row.result)
    actions_TA = np.array(result.actions, np.float32)
    return {
        "planner": result.planner, "judge": result.judge, "frames": len(result.frame_steps),
        "scores": result.scores, "best": result.best, "instruction": row.spec.get("instruction", ""),
        "begins": row.spec.get("robot") or row.spec.get("episode", ""),
        "path": path(actions_TA), "plot": media.action_plot(actions_TA), "no_path": result.no_path,
        "camera": result.camera,
    }  # fmt: skip


def film(sources: Sources, user: User, *, job_id: str) -> tuple[bytes, str]:
    """Frames of the plan that a job kept."""
    missing = f"job {job_id} has drawn no plan; it ended before, or is of another kind"
    return _kept(sources, user, job_id, FILM, missing), "image/webp"


def path_picture(sources: Sources, user: User, *, job_id: str) -> tuple[bytes, str]:
    """The gripper's path in the camera's picture, which a job kept."""
    return _kept(sources, user, job_id, PATH, f"job {job_id} has drawn no path into a picture"), "image/png"


def _kept(sources: Sources, user: User, job_id: str, name: str, missing: str) -> bytes:
    sources.ask.jobs.find(user, job_id)
    there = sources.job_folder(job_id) / name
    if not there.exists():
        raise NotFoundError(missing)
    return there.read_bytes()


def path(actions_TA: FloatArray) -> Markup:
    """Return where the gripper would go, from where it is now: seen from above, and its height over the steps.

    Args:
        actions_TA: (T, 7), of which the first three are metres a step: forwards, to the left, up.
    """
    way = np.concatenate([np.zeros((1, 3)), np.cumsum(actions_TA[:, :3], axis=0)]) * 1000
    reach = max(20.0, float(np.abs(way).max()) * 1.1)
    above = Plot(40, 300, 20, 280, first=reach, last=-reach, low=-reach, high=reach)  # y grows to the left
    side = Plot(350, 610, 20, 280, last=len(actions_TA), low=-reach, high=reach)
    parts = [plot.rule(value, f"{value:.0f}", class_="grid") for plot in (above, side) for value in (-reach, 0, reach)]
    parts += [above.line(way[:, 1].tolist(), way[:, 0].tolist(), tag("title", "path from above"), class_="line c0")]
    parts += [side.line(range(len(way)), way[:, 2].tolist(), tag("title", "height"), class_="line c1")]
    opens = actions_TA[:, 6] > 0.5
    for step in np.flatnonzero(opens[1:] != opens[:-1]) + 1:  # where the gripper changes
        parts.append(above.dot(way[step, 1], way[step, 0], r=5, class_="dot"))
        parts.append(side.dot(int(step), way[step, 2], r=5, class_="dot"))
    parts.append(above.dot(0, 0, r=3, class_="dot"))
    parts += [Plot.text(40, 302, "from above, mm: up is forwards", class_="tick")]
    parts += [Plot.text(350, 302, "height over the steps, mm", class_="tick")]
    return tag(
        "div", drawing(640, 310, parts, label=f"path of the gripper over {len(actions_TA)} steps"), class_="scroll"
    )

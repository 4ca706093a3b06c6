"""What each page shows: functions from the desk to the values of a template, and the pictures pages refer to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloud_trainer.console import job_pages, media
from cloud_trainer.console.checkpoints import RefusedError
from cloud_trainer.console.desk import REPORT_STALE_S, Desk
from cloud_trainer.film import MOST_FRAMES, STRIP_LIMIT, film
from gymnast_core.bounds import whole_number
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.web.auth import User


def robots(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Every robot, and what is being adapted."""
    weights = {row["robot"]: row for row in desk.in_force.robots(user)}
    open_flows = {flow.view.robot: flow.view for flow in desk.flows(user) if not flow.view.stage.over}
    rows = [
        {
            "report": report,
            "silent": report.age_s() > REPORT_STALE_S,
            "stale": report.frame_age_s() > REPORT_STALE_S,
            "flow": open_flows.get(report.robot),
            "weights": weights[report.robot],
        }
        for report in desk.robots(user)
    ]
    return {"rows": rows, "said": query.get("said", "")}


def episodes(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Newest episodes, filtered."""
    before = whole_number(query.get("before", ""))
    wanted = {name: query.get(name, "") for name in ("outcome", "robot", "text")}
    rows = desk.episodes(user, before=before, **wanted)
    return {"rows": rows, "wanted": wanted, "said": query.get("said", ""), "robots": desk.robots(user)}


def episode(desk: Desk, user: User, *, episode_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One episode: film, actions, labels, what was made with it."""
    row = desk.episode(user, episode_id)
    graph = desk.trail(user).graph
    known = row.episode_id in graph
    labels = [node.payload for node in graph.affected_by_role(episode_id, "labels")] if known else []
    made = graph.affected(episode_id) if known else []
    plot, problem, frames = "", "", 0
    try:
        content = desk.catalogue(user).read(row, cameras=())
        plot, frames = media.action_plot(content.actions_TA), content.steps + 1
    except GymnastError as error:
        problem = str(error)
    return {
        "row": row,
        "labels": labels,
        "touched": [node for node in made if node.kind in ("policy", "world_model", "judge")],
        "plot": plot,
        "frames": frames,
        "problem": problem,
        "said": query.get("said", ""),
    }


def checkpoints(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Every checkpoint, newest first."""
    running: dict[str, list[str]] = {}
    for report in desk.robots(user):
        running.setdefault(str(report.status.get("policy_version", "")), []).append(report.robot)
    rows = [
        {"id": name, "known": known, "running": running.get(name, [])}
        for name, known in desk.checkpoints.all(user).items()
    ]
    return {"rows": rows, "said": query.get("said", "")}


def checkpoint(desk: Desk, user: User, *, checkpoint_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One checkpoint: where it comes from, what was measured, what may be done with it."""
    known, trail = desk.checkpoints.find(user, checkpoint_id), desk.trail(user)
    why = trail.explain(checkpoint_id)
    links = {row["id"]: f"/checkpoints/{row['id']}" for row in why["checkpoints"] if row["kind"] != "external"}
    releases = [release for release in desk.meta.releases(user.tenant) if release.checkpoint_id == checkpoint_id]
    return {
        "id": checkpoint_id,
        "known": known,
        "manifest": known.manifest,
        "why": why,
        "graph": media.lineage_graph(trail.graph.why(checkpoint_id), links),
        "releases": releases,
        "cards": desk.cards(user.tenant, checkpoint_id),
        "won": desk.checkpoints.has_won(user.tenant, checkpoint_id),
        "robots": desk.robots(user),
        "on_robots": desk.in_force.of_checkpoint(user, checkpoint_id),
        "most_pairs": SequentialRule().max_pairs,
        "said": query.get("said", ""),
    }


def world_models(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """World models with their audits, the ledger of real against imagined, dreams beside recordings."""
    audited, ledger = job_pages.audits(desk, user), desk.ledger(user)
    rows = [
        {"id": name, "known": known, "audit": audited.get(name, {})}
        for name, known in desk.checkpoints.all(user).items()
        if known.manifest.kind == "world_model"
    ]
    dreamt = ((job.job_id, job_pages.dreams(desk, job.job_id)) for job in desk.jobs.list(user.tenant))
    dream_job, dreams = next((found for found in dreamt if found[1]), ("", []))
    return {
        "rows": rows,
        "overall": ledger.calibration(),
        "by_task": ledger.by_task(),
        "trend": ledger.trend(),
        "dream_job": dream_job,
        "dreams": dreams,
        "said": query.get("said", ""),
    }


def evaluations(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Result cards of every trial, and those that have none yet."""
    open_ones = [view for view in desk.trial_views(user) if not view["card"]]
    return {"cards": desk.cards(user.tenant), "trials": open_ones, "said": query.get("said", "")}


def evaluation(desk: Desk, user: User, *, trial_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One result card."""
    card = next((card for card in desk.cards(user.tenant) if card.get("trial_id") == trial_id), None)
    if card is None:
        raise RefusedError(f"there is no decided trial {trial_id!r}; cards appear when a trial is decided")
    return {"card": card, "pair_films": _telling_pair(card), "said": query.get("said", "")}


def _telling_pair(card: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded pair to watch first: one where the two differed, if there is any; empty without recordings."""
    filmed = [pair for pair in card["pairs"] if len(pair["episodes"]) == 2 and all(pair["episodes"])]
    pair = next((pair for pair in filmed if pair["candidate"] != pair["incumbent"]), filmed[0] if filmed else None)
    if pair is None:
        return {}
    candidate, incumbent = pair["episodes"] if pair["candidate_first"] else reversed(pair["episodes"])
    outcomes = ["success" if pair[name] else "failure" for name in ("candidate", "incumbent")]
    return {"title": f"Pair {pair['pair'] + 1}", "candidate": candidate, "incumbent": incumbent, "outcomes": outcomes}


def adaptations(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """All adaptations, and the form for a new one."""
    return {
        "flows": [flow.view for flow in desk.flows(user)],
        "robots": desk.robots(user),
        "robot": query.get("robot", ""),
        "said": query.get("said", ""),
    }


def adaptation(desk: Desk, user: User, *, adaptation_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One adaptation: where it is and what can be decided now."""
    flow = desk.flow(user, adaptation_id)
    view = flow.view
    pictures = {path.stem for path in flow.folder.glob("*.webp")}
    rewards = [float(row.get("imagined_reward", 0)) for row in view.iterations]
    return {
        "flow": view,
        "paused": "" if view.stage.over else desk.paused(user, view.robot),
        "modes": desk.adaptations.modes(user.tenant),
        "price_per_hour": desk.adaptations.price_per_hour(user.tenant),
        "imagined": job_pages.imagined(desk, view.job) if view.job else [],
        "pictures": pictures,
        "curve": media.curve(rewards, label="imagined reward"),
        "said": query.get("said", ""),
    }


def loops(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Unattended loops: success over rounds with intervals, audit of the world model and judge of each round."""
    shown: list[dict[str, Any]] = []
    for view in desk.loops.all(user):
        history = view.history
        if not history:
            shown.append({"view": view, "history": None})
            continue
        counts = [history["before"], *(row.get("after") or row["before"] for row in history["rounds"])]
        rates = [wilson_interval(int(count["successes"]), int(count["n"])) for count in counts]
        shown.append({"view": view, "history": history, "rates": rates, "chart": media.rounds_chart(rates)})
    robots = [report.robot for report in desk.robots(user)]
    return {"loops": shown, "robots": robots, "said": query.get("said", "")}


def log(desk: Desk, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Who did what, newest first."""
    chain = desk.trail(user).log
    mine = [entry for entry in chain.entries if entry.data.get("tenant") == user.tenant]  # old ones hold all tenants'
    hidden = ("by", "role", "tenant", "at_ns")
    rows = [
        {"entry": entry, "details": {name: value for name, value in entry.data.items() if name not in hidden}}
        for entry in reversed(mine[-300:])
    ]
    return {"rows": rows, "head": chain.head, "said": query.get("said", "")}


def robot_frame(desk: Desk, user: User, *, robot: str) -> tuple[bytes, str]:
    """The newest camera image of a robot."""
    frame = desk.robot(user, robot).frame
    return frame, "image/webp" if frame[8:12] == b"WEBP" else "image/jpeg"


def episode_film(desk: Desk, user: User, *, episode_id: str) -> tuple[bytes, str]:
    """All frames of an episode's first camera."""
    row = desk.episode(user, episode_id)
    try:
        frames_FHWC = desk.catalogue(user).film(row, MOST_FRAMES, STRIP_LIMIT)
    except CorruptError as error:
        raise RefusedError(str(error)) from error
    return film(frames_FHWC), "image/webp"


def adaptation_picture(desk: Desk, user: User, *, adaptation_id: str, name: str) -> tuple[bytes, str]:
    """A file the engine left: start, old, new."""
    path = desk.flow(user, adaptation_id).folder / f"{name}.webp"
    if name not in ("start", "old", "new") or not path.exists():
        raise RefusedError(f"there is no picture {name!r} yet")
    return path.read_bytes(), "image/webp"


Make = Callable[..., dict[str, Any]]
PAGES: dict[str, tuple[Make, str]] = {
    "/": (robots, "robots.html"),
    "/episodes": (episodes, "episodes.html"),
    "/episodes/{episode_id}": (episode, "episode.html"),
    "/jobs": (job_pages.jobs, "jobs.html"),
    "/jobs/{job_id}": (job_pages.job, "job.html"),
    "/checkpoints": (checkpoints, "checkpoints.html"),
    "/checkpoints/{checkpoint_id}": (checkpoint, "checkpoint.html"),
    "/world-models": (world_models, "world_models.html"),
    "/evaluations": (evaluations, "evaluations.html"),
    "/evaluations/{trial_id}": (evaluation, "evaluation.html"),
    "/adapt": (adaptations, "adaptations.html"),
    "/adapt/{adaptation_id}": (adaptation, "adaptation.html"),
    "/loop": (loops, "loops.html"),
    "/log": (log, "log.html"),
}
PICTURES: dict[str, Callable[..., tuple[bytes, str]]] = {
    "/robots/{robot}/frame": robot_frame,
    "/episodes/{episode_id}/film.webp": episode_film,
    "/adapt/{adaptation_id}/{name}.webp": adaptation_picture,
    "/jobs/{job_id}/dreams/{name}.webp": job_pages.dream,
    "/jobs/{job_id}/imagined/{number}.webp": job_pages.imagined_film,
    "/jobs/{job_id}/audit": job_pages.audit_report,
}

"""What each page shows: functions from the handlers to the values of a template, and the pictures pages refer to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from cloud_trainer.console import call_pages, job_pages, labelling, media, plan_pages, queue_pages
from cloud_trainer.console.sources import Sources
from cloud_trainer.film import MOST_FRAMES, STRIP_LIMIT, film
from cloud_trainer.records.trail import MADE
from cloud_trainer.service.handlers import REPORT_STALE_S
from cloud_trainer.service.in_force import on_robots
from gymnast_core.bounds import whole_number
from gymnast_core.errors import CorruptError, GymnastError, NotPossibleError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.recorded_attempts import attempt_of
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.web.auth import User

EPISODES_PER_PAGE = 60
MOST_RELEASES = 1000


def robots(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """Every robot, and what is being adapted."""
    ask = sources.ask
    weights = {row.robot: row for row in ask.robots.in_force(user)}
    under_way = [flow.view for flow in reversed(ask.adaptations.all(user)) if not flow.view.stage.over]
    rows = [
        {
            "report": report,
            "silent": report.age_s() > REPORT_STALE_S,
            "stale": report.frame_age_s() > REPORT_STALE_S,
            "flows": [view for view in under_way if view.robot == report.robot],
            "behind": ask.adaptations.behind(user, report.robot),
            "weights": weights[report.robot],
        }
        for report in ask.robots.all(user)
    ]
    return {"rows": rows, "calls": len(ask.pages.all(user, every=False)), "said": query.get("said", "")}


def episodes(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Newest episodes, filtered."""
    ask = sources.ask
    before = whole_number(query.get("before", ""))
    wanted = {name: query.get(name, "") for name in ("outcome", "robot", "text")}
    rows = ask.episodes.newest(user, before=before or 0, limit=EPISODES_PER_PAGE, **wanted)
    tried = {row.episode_id: attempt for row in rows if (attempt := attempt_of(row.metadata)) is not None}
    return {
        "rows": rows,
        "wanted": wanted,
        "tried": tried,
        "said": query.get("said", ""),
        "robots": ask.robots.all(user),
    }


def episode(sources: Sources, user: User, *, episode_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One episode: film, actions, labels, what was made with it."""
    ask = sources.ask
    row = ask.episodes.find(user, episode_id)
    labels, made = ask.episodes.story(user, episode_id)
    plot, problem, frames = "", "", 0
    try:
        content = ask.episodes.files(user).read(row, cameras=())
        plot, frames = media.action_plot(content.actions_TA), content.steps + 1
    except GymnastError as error:
        problem = str(error)
    return {
        "row": row,
        "tried": attempt_of(row.metadata),
        "labels": labels,
        "judgements": ask.judging.of(user, episode_id),
        "touched": [node for node in made if node.kind in MADE],
        "plot": plot,
        "frames": frames,
        "problem": problem,
        "said": query.get("said", ""),
    }


def checkpoints(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """Every checkpoint, newest first."""
    ask = sources.ask
    running: dict[str, list[str]] = {}
    for report in ask.robots.all(user):
        running.setdefault(str(report.status.get("policy_version", "")), []).append(report.robot)
    rows = [
        {"id": name, "known": known, "running": running.get(name, [])}
        for name, known in ask.checkpoints.all(user).items()
    ]
    return {"rows": rows, "said": query.get("said", "")}


def checkpoint(sources: Sources, user: User, *, checkpoint_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """One checkpoint: where it comes from, what was measured, what may be done with it."""
    ask = sources.ask
    known, why = ask.checkpoints.find(user, checkpoint_id), ask.log.why(user, checkpoint_id)
    links = {row["id"]: f"/checkpoints/{row['id']}" for row in why["checkpoints"] if row["kind"] != "external"}
    releases = ask.checkpoints.releases(user, limit=MOST_RELEASES)
    own, robots = [row for row in releases if row.checkpoint_id == checkpoint_id], ask.robots.all(user)
    return {
        "id": checkpoint_id,
        "known": known,
        "manifest": known.manifest,
        "why": why,
        "graph": media.lineage_graph(ask.log.lineage(user, checkpoint_id), links),
        "releases": own,
        "overridden": [row for row in (json.loads(row.payload) for row in own) if row.get("override")],
        "gates": ask.gates.of(user, checkpoint_id),
        "gaps": ask.checkpoints.gaps(user, checkpoint_id, ()),
        "notes": {row.robot: row.status.get("weights", {}).get("gate", {}) for row in robots},
        "cards": ask.trials.cards(user, checkpoint_id),
        "won": ask.checkpoints.has_won(user, checkpoint_id),
        "robots": robots,
        "on_robots": on_robots(ask.robots.in_force(user), checkpoint_id),
        "most_pairs": SequentialRule().max_pairs,
        "said": query.get("said", ""),
    }


def world_models(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """World models with their audits, the ledger of real against imagined, dreams beside recordings."""
    ask = sources.ask
    audited, ledger = job_pages.audits(sources, user), ask.log.ledger(user)
    rows = [
        {"id": name, "known": known, "audit": audited.get(name, {})}
        for name, known in ask.checkpoints.all(user).items()
        if known.manifest.kind == "world_model"
    ]
    dreamt = (
        (job.job_id, job_pages.dreams(sources, job.job_id)) for job in ask.jobs.all(user, limit=job_pages.SHOWN_JOBS)
    )
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


def evaluations(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """Result cards of every trial, and those that have none yet."""
    ask = sources.ask
    open_ones = [view for view in ask.trials.all(user) if not view["card"]]
    return {
        "cards": ask.trials.cards(user),
        "trials": open_ones,
        "retried": ask.episodes.retried(user),
        "said": query.get("said", ""),
    }


def evaluation(sources: Sources, user: User, *, trial_id: str, query: Mapping[str, str]) -> dict[str, object]:
    """One result card."""
    ask = sources.ask
    card = ask.trials.card(user, trial_id)
    return {"card": card, "pair_films": _telling_pair(card), "said": query.get("said", "")}


def _telling_pair(card: ResultCard) -> dict[str, object]:
    """The recorded pair to watch first: one where the two differed, if there is any; empty without recordings."""
    filmed = [pair for pair in card["pairs"] if len(pair["episodes"]) == 2 and all(pair["episodes"])]
    pair = next((pair for pair in filmed if pair["candidate"] != pair["incumbent"]), filmed[0] if filmed else None)
    if pair is None:
        return {}
    candidate, incumbent = pair["episodes"] if pair["candidate_first"] else reversed(pair["episodes"])
    outcomes = ["success" if pair[name] else "failure" for name in ("candidate", "incumbent")]
    return {"title": f"Pair {pair['pair'] + 1}", "candidate": candidate, "incumbent": incumbent, "outcomes": outcomes}


def adaptations(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, Any]:
    """All adaptations, and the form for a new one."""
    ask = sources.ask
    return {
        "flows": [flow.view for flow in ask.adaptations.all(user)],
        "robots": [(report.robot, ask.adaptations.behind(user, report.robot)) for report in ask.robots.all(user)],
        "robot": query.get("robot", ""),
        "said": query.get("said", ""),
    }


def adaptation(sources: Sources, user: User, *, adaptation_id: str, query: Mapping[str, str]) -> dict[str, object]:
    """One adaptation: where it is and what can be decided now."""
    ask = sources.ask
    flow = ask.adaptations.find(user, adaptation_id)
    view = flow.view
    pictures = {path.stem for path in flow.folder.glob("*.webp")}
    rewards = [float(row.get("imagined_reward", 0)) for row in view.iterations]
    return {
        "flow": view,
        "paused": ask.adaptations.paused(user, flow),
        "modes": ask.adaptations.modes(user),
        "price_per_hour": ask.adaptations.price_per_hour(user),
        "imagined": job_pages.imagined(sources, view.job) if view.job else [],
        "pictures": pictures,
        "curve": media.curve(rewards, label="imagined reward"),
        "said": query.get("said", ""),
    }


def loops(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """Unattended loops: success over rounds with intervals, audit of the world model and judge of each round."""
    shown: list[dict[str, object]] = []
    for view in sources.ask.loops.all(user):
        history = view.history
        if not history:
            shown.append({"view": view, "history": None})
            continue
        counts = [history["before"], *(row.get("after") or row["before"] for row in history["rounds"])]
        rates = [wilson_interval(int(count["successes"]), int(count["n"])) for count in counts]
        shown.append({"view": view, "history": history, "rates": rates, "chart": media.rounds_chart(rates)})
    robots = [report.robot for report in sources.ask.robots.all(user)]
    return {"loops": shown, "robots": robots, "said": query.get("said", "")}


def log(sources: Sources, user: User, *, query: Mapping[str, str]) -> dict[str, object]:
    """Who did what, newest first."""
    ask = sources.ask
    mine, head = ask.log.entries(user)
    hidden = ("by", "role", "tenant", "at_ns")
    rows = [
        {
            "entry": entry,
            "details": {name: value for name, value in entry.data.items() if name not in hidden and value != {}},
        }
        for entry in reversed(mine[-300:])
    ]
    return {"rows": rows, "head": head, "said": query.get("said", "")}


def robot_frame(sources: Sources, user: User, *, robot: str) -> tuple[bytes, str]:
    """The newest camera image of a robot."""
    ask = sources.ask
    frame = ask.robots.frame(user, robot).frame
    return frame, "image/webp" if frame[8:12] == b"WEBP" else "image/jpeg"


def episode_film(sources: Sources, user: User, *, episode_id: str) -> tuple[bytes, str]:
    """All frames of an episode's first camera."""
    ask = sources.ask
    row = ask.episodes.find(user, episode_id)
    try:
        frames_FHWC = ask.episodes.files(user).film(row, MOST_FRAMES, STRIP_LIMIT)
    except CorruptError as error:
        raise NotPossibleError(str(error)) from error
    return film(frames_FHWC), "image/webp"


def adaptation_picture(sources: Sources, user: User, *, adaptation_id: str, name: str) -> tuple[bytes, str]:
    """A file the engine left: start, old, new."""
    ask = sources.ask
    return ask.adaptations.picture(user, adaptation_id, name).read_bytes(), "image/webp"


Make = Callable[..., dict[str, object]]
PAGES: dict[str, tuple[Make, str]] = {
    "/": (robots, "robots.html"),
    "/episodes": (episodes, "episodes.html"),
    "/episodes/{episode_id}": (episode, "episode.html"),
    "/labelling": (labelling.queue, "labelling.html"),
    "/plans": (plan_pages.plans, "plans.html"),
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
    "/queue": (queue_pages.queue, "queue.html"),
    "/queue/{entry_id}": (queue_pages.entry, "queue_entry.html"),
    "/calls": (call_pages.calls, "calls.html"),
    "/log": (log, "log.html"),
}
PICTURES: dict[str, Callable[..., tuple[bytes, str]]] = {
    "/robots/{robot}/frame": robot_frame,
    "/episodes/{episode_id}/film.webp": episode_film,
    "/adapt/{adaptation_id}/{name}.webp": adaptation_picture,
    "/jobs/{job_id}/dreams/{name}.webp": job_pages.dream,
    "/jobs/{job_id}/imagined/{number}.webp": job_pages.imagined_film,
    "/jobs/{job_id}/plan.webp": plan_pages.film,
    "/jobs/{job_id}/path.png": plan_pages.path_picture,
    "/jobs/{job_id}/audit": job_pages.audit_report,
}

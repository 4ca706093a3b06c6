"""What the forms of the pages do: a form's fields to a handler's call, and its answer in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cloud_trainer.console import plan_pages, queue_pages
from cloud_trainer.console.forms import (
    Form,
    budget,
    loop_config,
    names_of,
    revision,
    scene_request,
    trial_request,
    whole,
)
from cloud_trainer.flows.loop_view import named
from cloud_trainer.records.trail import MADE
from cloud_trainer.service.handlers import Handlers
from gymnast_core.errors import ContractError
from gymnast_core.records.gate_record import GateRun
from gymnast_core.records.release import EVERY_ROBOT
from gymnast_core.web.auth import User

Said = tuple[str, str]
"""What to say, and which page to go to."""
STEPS = ("collect", "train", "reuse", "approve", "reject", "cancel")
_NEXT = {
    "collect": "collecting real episodes in this scene",
    "train": "training has begun; it ends within one iteration of the budget",
    "reuse": "imagining the kept adapter from this very frame",
    "approve": "approved; the canary decides on the arm",
    "reject": "rejected; the robot keeps what it runs",
    "cancel": "cancelled; the robot keeps what it runs",
}


def label(ask: Handlers, user: User, form: Form, episode_id: str) -> Said:
    """Set or correct a label; checkpoints made with another label are named."""
    set_to = form.get("outcome", "")
    found = ask.episodes.label(user, episode_id, set_to)
    said = f"{episode_id} is now {set_to}" if found.changed else f"{episode_id} is labelled {set_to} by you already"
    if found.made:
        said += (
            f" (was {found.was}). {len(found.made)} checkpoints were made with the old label and say so on their "
            f"pages: {', '.join(found.made[:3])}{' ...' if len(found.made) > 3 else ''}"
        )
    return said, f"/episodes/{episode_id}"


def settle(ask: Handlers, user: User, form: Form, episode_id: str) -> Said:
    """Label an episode of the queue, and go on with the next one."""
    said, _ = label(ask, user, form, episode_id)
    return said, "/labelling"


def retract(ask: Handlers, user: User, form: Form, episode_id: str) -> Said:
    """Withdraw an episode; what was made with it cannot be promoted any more."""
    touched = ask.episodes.retract(user, episode_id, form.get("reason", ""))
    blocked = [node.id for node in touched if node.kind in MADE]
    said = f"{episode_id} is withdrawn; nothing was made with it yet"
    if blocked:
        names = ", ".join(blocked[:4])
        said = f"{episode_id} is withdrawn; promotion of {len(blocked)} checkpoints is blocked: {names}"
    return said, f"/episodes/{episode_id}"


def cancel_job(ask: Handlers, user: User, form: Form, job_id: str) -> Said:
    """Ask a job to stop."""
    row = ask.jobs.cancel(user, job_id)
    said = f"{job_id} stops after its current iteration; what is finished is kept"
    if row.ended:
        said = f"{job_id} had ended already ({row.state}); nothing to cancel, what it made is kept"
    return said, f"/jobs/{job_id}"


def publish(ask: Handlers, user: User, form: Form, checkpoint_id: str, how: str) -> Said:
    """Offer, promote, gate or take back a checkpoint."""
    robots, there, override = names_of(form, "robots"), f"/checkpoints/{checkpoint_id}", form.get("override", "")
    if how == "gate":
        return _gating(ask.gates.begin(user, checkpoint_id, robots), ""), "/jobs"
    if how == "rollback":
        release, _ = ask.checkpoints.roll_back(user, checkpoint_id, robots, form.get("reason", ""), override=override)
        whom = _whom(release.robots)
        return f"{checkpoint_id} runs again on {whom} from the next episode on (release {release.sequence})", there
    if how == "promote":
        if not override.strip() and ask.checkpoints.gaps(user, checkpoint_id, robots):
            user.require("promote")
            said = _gating(ask.gates.begin(user, checkpoint_id, robots), "; promote it again once it has passed")
            return said, "/jobs"
        release, _ = ask.checkpoints.promote(user, checkpoint_id, robots, override=override)
        when = f"from the next episode on, once checked there (release {release.sequence})"
        return f"{checkpoint_id} runs on {_whom(robots)} {when}", there
    if how == "publish":
        return _offer(ask, user, checkpoint_id, robots, override)
    raise ContractError(f"there is no action {how!r} for checkpoints")


def _offer(ask: Handlers, user: User, checkpoint_id: str, robots: Sequence[str], override: str) -> Said:
    """Offer a checkpoint, at once or when it has passed the gate that a robot asks for."""
    there = f"/checkpoints/{checkpoint_id}"
    if override.strip():
        release, _ = ask.checkpoints.offer(user, checkpoint_id, robots, override=override)
        return f"{checkpoint_id} is offered to {_whom(robots)} as release {release.sequence}, past its gate", there
    begun, signed = ask.gates.offer(user, checkpoint_id, robots)
    offered = ""
    if signed is not None:
        offered = f"{checkpoint_id} is offered to {_whom(signed[0].robots)} as release {signed[0].sequence}"
    gating = _gating(begun, "; it is offered once it has passed") if begun else ""
    return "; ".join(filter(None, (offered, gating))), "/jobs" if begun else there


def _gating(begun: Sequence[GateRun], then: str) -> str:
    """Say which gates run first."""
    if not begun:
        return "it needs no gate: every robot named would take it in"
    whom = ", ".join(f"{one.job_id} for {', '.join(one.robots)}" for one in begun)
    return f"the gate runs first, as job {whom}{then}"


def try_out(ask: Handlers, user: User, form: Form, checkpoint_id: str) -> Said:
    """Begin a blinded trial."""
    view = ask.trials.begin(user, trial_request(form, checkpoint_id))
    return f"{view['trial_id']} has begun; its card appears when it is decided", "/evaluations"


def stop_trial(ask: Handlers, user: User, form: Form, trial_id: str) -> Said:
    """End a trial."""
    ask.trials.stop(user, trial_id)
    return f"{trial_id} ends after the run at hand; nothing is concluded from it", "/evaluations"


def adapt(ask: Handlers, user: User, form: Form) -> Said:
    """Begin an adaptation."""
    flow = ask.adaptations.begin(user, scene_request(form))
    return "capturing the scene", f"/adapt/{flow.view.adaptation_id}"


def adapt_step(ask: Handlers, user: User, form: Form, adaptation_id: str, step: str) -> Said:
    """Decide on one."""
    flows, place = ask.adaptations, (user, adaptation_id, revision(form))
    steps: dict[str, Callable[[], Any]] = {
        "collect": lambda: flows.collect(*place, episodes=whole(form, "episodes")),
        "train": lambda: flows.train(*place, **budget(form)),
        "reuse": lambda: flows.reuse(*place, adapter=form.get("adapter", "")),
        "approve": lambda: flows.approve(*place),
        "reject": lambda: flows.reject(*place),
        "cancel": lambda: flows.cancel(user, adaptation_id),
    }
    if step not in steps:
        raise ContractError(f"there is no step {step[:40]!r}; there are {', '.join(STEPS)}")
    steps[step]()
    return _NEXT[step], f"/adapt/{adaptation_id}"


def drop_adapter(ask: Handlers, user: User, form: Form, robot: str, checkpoint_id: str) -> Said:
    """Have a robot's base drive again in the scene of an adapter."""
    ask.robots.drop_adapter(user, robot, checkpoint_id)
    return f"{checkpoint_id} is detached; the base of {robot} drives there from the next episode on", "/"


def begin_loop(ask: Handlers, user: User, form: Form) -> Said:
    """Begin an unattended loop, or go on with it."""
    user.require("loop")  # before the form is looked into
    view = ask.loops.begin(user, loop_config(form))
    return f"loop {view.name} runs on {named(view.robots)}", "/loop"


def stop_loop(ask: Handlers, user: User, form: Form, name: str) -> Said:
    """End one."""
    return f"loop {ask.loops.stop(user, name).name} ends after what it does now", "/loop"


def answer_call(ask: Handlers, user: User, form: Form, page_id: str) -> Said:
    """Look after a call for a person."""
    page = ask.pages.acknowledge(user, page_id, form.get("note", "").strip())
    whose = "you look after it" if page.acknowledged_by == user.name else f"{page.acknowledged_by} answered it already"
    return f"{page.kind.replace('_', ' ')}{f' on {page.robot}' if page.robot else ''}: {whose}", "/calls"


def test_receivers(ask: Handlers, user: User, form: Form) -> Said:
    """Send a message through every receiver."""
    tried = ask.pages.test(user)
    failed = [f"{one.receiver} failed: {one.error}" for one in tried if one.error]
    reached = [one.receiver for one in tried if not one.error]
    return "; ".join([*([f"delivered to {', '.join(reached)}"] if reached else []), *failed]), "/calls"


ACTIONS: dict[str, Callable[..., Said]] = {
    "/episodes/{episode_id}/label": label,
    "/labelling/{episode_id}": settle,
    "/episodes/{episode_id}/retract": retract,
    "/jobs/{job_id}/cancel": cancel_job,
    "/plans": plan_pages.begin,
    "/checkpoints/{checkpoint_id}/try": try_out,
    "/checkpoints/{checkpoint_id}/{how}": publish,
    "/evaluations/{trial_id}/stop": stop_trial,
    "/queue": queue_pages.add,
    "/queue/robots": queue_pages.pause_robot,
    "/queue/robots/{robot}/resume": queue_pages.resume_robot,
    "/queue/{entry_id}/{step}": queue_pages.change,
    "/loop": begin_loop,
    "/loop/{name}/stop": stop_loop,
    "/calls/test": test_receivers,
    "/calls/{page_id}": answer_call,
    "/robots/{robot}/adapters/{checkpoint_id}/drop": drop_adapter,
    "/adapt": adapt,
    "/adapt/{adaptation_id}/{step}": adapt_step,
}
"""Address -> action, in the order in which they are looked up."""


def _whom(robots: Sequence[str]) -> str:
    return "all robots" if not robots or EVERY_ROBOT in robots else ", ".join(robots)

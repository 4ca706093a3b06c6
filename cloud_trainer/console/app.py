"""The operator's page of a trainer: thin routes to the desk."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from cloud_trainer.console import api, pages
from cloud_trainer.console.checkpoints import NotWonError, RefusedError
from cloud_trainer.console.desk import Desk, loop_request, scene_request
from cloud_trainer.flows.adaptation_engine import FlowError
from gymnast_core.bounds import whole_number
from gymnast_core.errors import ContractError
from gymnast_core.evaluation.trial import TrialError
from gymnast_core.records.lineage import ProvenanceError
from gymnast_core.web.auth import Gate, User
from gymnast_core.web.site import Site, Statuses
from gymnast_core.wire.errors import NotFoundError
from gymnast_core.wire.identity import Peer

STATUSES: Statuses = (
    (NotFoundError, 404),
    (NotWonError, 412),
    (RefusedError, 409),
    (FlowError, 409),
    (TrialError, 409),
    (ProvenanceError, 412),
)
NAMES = (
    ("/", "Robots"),
    ("/adapt", "Adapt"),
    ("/episodes", "Episodes"),
    ("/jobs", "Jobs"),
    ("/checkpoints", "Checkpoints"),
    ("/world-models", "World models"),
    ("/evaluations", "Evaluations"),
    ("/loop", "Loop"),
    ("/log", "Log"),
)


def create_app(
    desk: Desk, gate: Gate, *, certified: Callable[[bytes], Peer | None] = lambda certificate: None, poll_s: float = 0.4
) -> FastAPI:
    """Return the console as an ASGI application.

    Args:
        desk: what is shown and done.
        gate: who may.
        certified: returns whom a verified client certificate names, if it still counts.
        poll_s: how often open pages are checked for news.
    """
    templates = Path(__file__).parent / "templates"
    site = Site(gate, templates, server="trainer", pages=NAMES, statuses=STATUSES, certified=certified)
    app = site.app(desk.version, poll_s=poll_s)
    _add_pages(app, site, desk)
    _add_actions(app, site, desk)
    return app


def _add_pages(app: FastAPI, site: Site, desk: Desk) -> None:
    def shown(make: Callable[..., Mapping[str, Any]], template: str) -> Callable[..., HTMLResponse]:
        def page(request: Request, user: Annotated[User, Depends(site.user_of)]) -> HTMLResponse:
            user.require("look")
            context = make(desk, user, **request.path_params, query=dict(request.query_params))
            here = "/" + request.url.path.split("/")[1]
            body = site.render(template, user=user, here=here, version=desk.version(user, request.url.path), **context)
            return HTMLResponse(body)

        return page

    for address, (make, template) in pages.PAGES.items():
        app.get(address)(shown(make, template))

    def pictured(make: Callable[..., tuple[bytes, str]]) -> Callable[..., Response]:
        def picture(request: Request, user: Annotated[User, Depends(site.user_of)]) -> Response:
            user.require("look")
            data, kind = make(desk, user, **request.path_params)
            return Response(data, media_type=kind)

        return picture

    for address, make_picture in pages.PICTURES.items():
        app.get(address)(pictured(make_picture))

    def told(action: str, view: Callable[..., dict[str, Any]]) -> Callable[..., JSONResponse]:
        def answer(request: Request, user: Annotated[User, Depends(site.user_of)]) -> JSONResponse:
            user.require(action)
            return JSONResponse(view(desk, user, **request.path_params))

        return answer

    for address, (action, view) in api.VIEWS.items():
        app.get(address)(told(action, view))

    @app.get("/checkpoints/{checkpoint_id}/lineage.json")
    def lineage(checkpoint_id: str, user: Annotated[User, Depends(site.user_of)]) -> Response:
        user.require("look")
        return Response(desk.trail(user).lineage_json(checkpoint_id), media_type="application/json")


def _add_actions(app: FastAPI, site: Site, desk: Desk) -> None:
    def label(user: User, form: Mapping[str, str], episode_id: str) -> tuple[str, str]:
        return desk.label(user, episode_id, form.get("outcome", "")), f"/episodes/{episode_id}"

    def retract(user: User, form: Mapping[str, str], episode_id: str) -> tuple[str, str]:
        return desk.retract(user, episode_id, form.get("reason", "")), f"/episodes/{episode_id}"

    def cancel(user: User, form: Mapping[str, str], job_id: str) -> tuple[str, str]:
        return desk.cancel_job(user, job_id), f"/jobs/{job_id}"

    def publish(user: User, form: Mapping[str, str], checkpoint_id: str, how: str) -> tuple[str, str]:
        robots = [name.strip() for name in form.get("robots", "").split(",") if name.strip()]
        if how == "rollback":
            said = desk.checkpoints.roll_back(user, checkpoint_id, robots, form.get("reason", ""))
        elif how in ("publish", "promote"):
            said = desk.checkpoints.publish(user, checkpoint_id, robots, promote=how == "promote")
        else:
            raise ContractError(f"there is no action {how!r} for checkpoints")
        return said, f"/checkpoints/{checkpoint_id}"

    def try_out(user: User, form: Mapping[str, str], checkpoint_id: str) -> tuple[str, str]:
        trial_id = desk.try_out(user, checkpoint_id, form)
        return f"{trial_id} has begun; its card appears when it is decided", "/evaluations"

    def stop_trial(user: User, form: Mapping[str, str], trial_id: str) -> tuple[str, str]:
        return desk.stop_trial(user, trial_id), "/evaluations"

    def adapt(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        return "capturing the scene", f"/adapt/{desk.adapt(user, scene_request(form))}"

    def adapt_step(user: User, form: Mapping[str, str], adaptation_id: str, step: str) -> tuple[str, str]:
        found = whole_number(form.get("revision", ""))
        revision = -1 if found is None else found
        values = {name: value for name, value in form.items() if name != "revision"}
        return desk.adapt_step(user, adaptation_id, step, revision, values), f"/adapt/{adaptation_id}"

    def begin_loop(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        user.require("loop")  # before the form is looked into
        view = desk.loops.begin(user, loop_request(form))
        return f"loop {view.name} runs on {view.robot}", "/loop"

    def stop_loop(user: User, form: Mapping[str, str], name: str) -> tuple[str, str]:
        return f"loop {desk.loops.stop(user, name).name} ends after what it does now", "/loop"

    site.act(app, "/loop", begin_loop)
    site.act(app, "/loop/{name}/stop", stop_loop)
    site.act(app, "/episodes/{episode_id}/label", label)
    site.act(app, "/episodes/{episode_id}/retract", retract)
    site.act(app, "/jobs/{job_id}/cancel", cancel)
    site.act(app, "/checkpoints/{checkpoint_id}/try", try_out)
    site.act(app, "/checkpoints/{checkpoint_id}/{how}", publish)
    site.act(app, "/evaluations/{trial_id}/stop", stop_trial)
    site.act(app, "/adapt", adapt)
    site.act(app, "/adapt/{adaptation_id}/{step}", adapt_step)

"""The operator's page of a trainer: thin routes to the handlers that the wire reaches, too."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from cloud_trainer.console import pages
from cloud_trainer.console.actions import ACTIONS, Said
from cloud_trainer.console.recordings import add_recordings
from cloud_trainer.console.sources import Sources
from cloud_trainer.service.handlers import Handlers
from gymnast_core.errors import NotPossibleError, NotTrustedError
from gymnast_core.records.lineage import ProvenanceError
from gymnast_core.web.auth import Gate, User
from gymnast_core.web.site import Site, Statuses
from gymnast_core.wire.errors import NotFoundError
from gymnast_core.wire.identity import Peer

STATUSES: Statuses = (
    (NotFoundError, 404),
    (NotTrustedError, 412),
    (NotPossibleError, 409),
    (ProvenanceError, 412),
)
NAMES = (
    ("/", "Robots"),
    ("/adapt", "Adapt"),
    ("/episodes", "Episodes"),
    ("/labelling", "Labelling"),
    ("/plans", "Plans"),
    ("/jobs", "Jobs"),
    ("/checkpoints", "Checkpoints"),
    ("/world-models", "World models"),
    ("/evaluations", "Evaluations"),
    ("/loop", "Loop"),
    ("/queue", "Queue"),
    ("/calls", "Calls"),
    ("/log", "Log"),
)


def create_app(
    sources: Sources,
    gate: Gate,
    *,
    certified: Callable[[bytes], Peer | None] = lambda certificate: None,
    poll_s: float = 0.4,
) -> FastAPI:
    """Return the console as an ASGI application.

    Args:
        sources: what is shown; its handlers do what is done.
        gate: decides what a session may do.
        certified: returns the user that a verified client certificate names, if it still counts.
        poll_s: how often open pages are checked for news.
    """
    templates = Path(__file__).parent / "templates"
    site = Site(gate, templates, server="trainer", pages=NAMES, statuses=STATUSES, certified=certified)
    app = site.app(sources.version, poll_s=poll_s)
    _add_pages(app, site, sources)
    _add_actions(app, site, sources.ask)
    add_recordings(app, site, sources)
    return app


def _add_pages(app: FastAPI, site: Site, sources: Sources) -> None:
    def shown(make: Callable[..., Mapping[str, object]], template: str) -> Callable[..., HTMLResponse]:
        def page(request: Request, user: Annotated[User, Depends(site.user_of)]) -> HTMLResponse:
            user.require("look")
            version = sources.version(user, request.url.path)  # first: what changes meanwhile is then seen as news
            query = {**request.query_params, "said": site.said(request, user)}
            context = make(sources, user, **request.path_params, query=query)
            here = "/" + request.url.path.split("/")[1]
            return HTMLResponse(site.render(template, user=user, here=here, version=version, **context))

        return page

    for address, (make, template) in pages.PAGES.items():
        app.get(address)(shown(make, template))

    def pictured(make: Callable[..., tuple[bytes, str]]) -> Callable[..., Response]:
        def picture(request: Request, user: Annotated[User, Depends(site.user_of)]) -> Response:
            user.require("look")
            data, kind = make(sources, user, **request.path_params)
            return Response(data, media_type=kind)

        return picture

    for address, make_picture in pages.PICTURES.items():
        app.get(address)(pictured(make_picture))

    @app.get("/checkpoints/{checkpoint_id}/lineage.json")
    def lineage(checkpoint_id: str, user: Annotated[User, Depends(site.user_of)]) -> Response:
        user.require("look")
        return Response(sources.ask.log.lineage_json(user, checkpoint_id), media_type="application/json")


def _add_actions(app: FastAPI, site: Site, ask: Handlers) -> None:
    def done(action: Callable[..., Said]) -> Callable[..., Said]:
        return lambda user, form, **parts: action(ask, user, form, **parts)

    for address, action in ACTIONS.items():
        site.act(app, address, done(action))

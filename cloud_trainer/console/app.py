"""The operator's page: thin routes to the desk. Every page works without script; script adds live updates.

Source:
    Server-sent events: WHATWG HTML, section 9.2. Cookies are SameSite=Strict and posts must come from this origin.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from cloud_trainer.console import pages
from cloud_trainer.console.auth import SESSION_S, ForbiddenError, Gate, LoginError, User
from cloud_trainer.console.checkpoints import RefusedError
from cloud_trainer.console.desk import Desk
from cloud_trainer.jobs.scene_adaptation import FlowError
from gymnast_core.errors import ConfigError, ContractError, GymnastError, StorageError
from gymnast_core.provenance import ProvenanceError
from gymnast_core.trial import TrialError
from gymnast_core.wire.errors import NotFoundError

COOKIE = "gymnast_session"
STATIC = Path(__file__).parent / "static"
STATUS: tuple[tuple[type[GymnastError], int], ...] = (
    (LoginError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (RefusedError, 409),
    (FlowError, 409),
    (TrialError, 409),
    (ProvenanceError, 409),
    (ConfigError, 422),
    (ContractError, 422),
    (StorageError, 500),
)
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(desk: Desk, gate: Gate, *, poll_s: float = 0.4) -> FastAPI:
    """Return the console as an ASGI application.

    Args:
        desk: what is shown and done.
        gate: who may.
        poll_s: how often open pages are checked for news.
    """
    app = FastAPI(title="Gymnast console", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.stopping = threading.Event()
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    def current(request: Request) -> User:
        return user_of(request, gate)

    _add_guards(app)
    _add_login(app, gate)
    _add_live(app, desk, current, poll_s)
    _add_pages(app, desk, current)
    _add_actions(app, desk, current)
    return app


def user_of(request: Request, gate: Gate) -> User:
    """Return who asks: by client certificate, by bearer token, else by session cookie.

    Raises:
        LoginError: nobody, or nobody any more.
    """
    certified = request.scope.get("gymnast_peer")
    if certified is not None:
        return User(certified.name, certified.role, certified.tenant)
    bearer = request.headers.get("authorization", "")
    if bearer.startswith("Bearer "):
        return gate.user_of_token(bearer.removeprefix("Bearer "))
    return gate.user_of_session(request.cookies.get(COOKIE, ""))


def _add_guards(app: FastAPI) -> None:
    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Any]) -> Response:
        origin = request.headers.get("origin")
        if request.method == "POST" and origin and urlsplit(origin).netloc != request.headers.get("host"):
            return PlainTextResponse("this request came from another site; nothing was done", 403)
        response: Response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(GymnastError)
    async def explain(request: Request, error: Exception) -> Response:
        status = next((code for kind, code in STATUS if isinstance(error, kind)), 400)
        if wants_json(request):
            return JSONResponse({"error": str(error), "kind": type(error).__name__}, status)
        if status == 401:
            there = quote(request.url.path) if request.method == "GET" else "/"
            return RedirectResponse(f"/login?next={there}&said={quote(str(error))}", 303)
        return HTMLResponse(pages.render("error.html", status=status, message=str(error), user=None), status)


def wants_json(request: Request) -> bool:
    """Whether the caller is a script."""
    return "application/json" in request.headers.get("accept", "")


def _add_login(app: FastAPI, gate: Gate) -> None:
    @app.get("/login")
    def login_page(next: str = "/", said: str = "") -> HTMLResponse:
        return HTMLResponse(pages.render("login.html", next=_local(next), said=said, user=None))

    @app.post("/login")
    def login(request: Request, token: Annotated[str, Form()], next: Annotated[str, Form()] = "/") -> Response:
        user = gate.user_of_token(token)
        response = RedirectResponse(_local(next), 303)
        secure = request.url.scheme == "https"
        cookie = gate.open_session(user)
        response.set_cookie(COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
        return response

    @app.post("/logout")
    def logout() -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response


def _local(path: str) -> str:
    """Only addresses of this site."""
    return path if path.startswith("/") and not path.startswith("//") and "\\" not in path else "/"


def _add_live(app: FastAPI, desk: Desk, current: Callable[[Request], User], poll_s: float) -> None:
    @app.get("/events")
    async def events(request: Request) -> StreamingResponse:
        current(request).require("look")

        async def stream() -> AsyncIterator[str]:
            known, quiet = "", 0.0
            yield "retry: 1000\n\n"
            while not app.state.stopping.is_set() and not await request.is_disconnected():
                version = await run_in_threadpool(desk.version)
                if version != known or quiet > 10:
                    known, quiet = version, 0.0
                    yield f"data: {version}\n\n"
                quiet += poll_s
                await asyncio.sleep(poll_s)

        return StreamingResponse(stream(), media_type="text/event-stream")


def _add_pages(app: FastAPI, desk: Desk, current: Callable[[Request], User]) -> None:
    def shown(make: Callable[..., Mapping[str, Any]], template: str) -> Callable[..., HTMLResponse]:
        def page(request: Request, user: Annotated[User, Depends(current)]) -> HTMLResponse:
            user.require("look")
            context = make(desk, user, **request.path_params, query=dict(request.query_params))
            here = "/" + request.url.path.split("/")[1]
            body = pages.render(template, user=user, here=here, version=desk.version(), **context)
            return HTMLResponse(body)

        return page

    for address, (make, template) in pages.PAGES.items():
        app.get(address)(shown(make, template))

    def pictured(make: Callable[..., tuple[bytes, str]]) -> Callable[..., Response]:
        def picture(request: Request, user: Annotated[User, Depends(current)]) -> Response:
            user.require("look")
            data, kind = make(desk, user, **request.path_params)
            return Response(data, media_type=kind)

        return picture

    for address, make_picture in pages.PICTURES.items():
        app.get(address)(pictured(make_picture))

    @app.get("/checkpoints/{checkpoint_id}/lineage.json")
    def lineage(checkpoint_id: str, user: Annotated[User, Depends(current)]) -> Response:
        user.require("look")
        return Response(json.dumps(pages.lineage_json(desk, checkpoint_id)), media_type="application/json")


def _add_actions(app: FastAPI, desk: Desk, current: Callable[[Request], User]) -> None:
    def act(address: str, do: Callable[..., tuple[str, str]]) -> None:
        async def action(request: Request, user: Annotated[User, Depends(current)]) -> Response:
            form = {name: str(value) for name, value in (await request.form()).items()}
            said, there = await run_in_threadpool(do, user, form, **request.path_params)
            if wants_json(request):
                return JSONResponse({"said": said, "go": there})
            return RedirectResponse(f"{there}?said={quote(said)}", 303)

        app.post(address)(action)

    def label(user: User, form: Mapping[str, str], episode_id: str) -> tuple[str, str]:
        return desk.label(user, episode_id, form.get("outcome", "")), f"/episodes/{episode_id}"

    def retract(user: User, form: Mapping[str, str], episode_id: str) -> tuple[str, str]:
        return desk.retract(user, episode_id, form.get("reason", "")), f"/episodes/{episode_id}"

    def cancel(user: User, form: Mapping[str, str], job_id: str) -> tuple[str, str]:
        return desk.cancel_job(user, job_id), f"/jobs/{job_id}"

    def publish(user: User, form: Mapping[str, str], checkpoint_id: str, how: str) -> tuple[str, str]:
        robots = [name.strip() for name in form.get("robots", "").split(",") if name.strip()]
        if how == "rollback":
            said = desk.checkpoints.roll_back(user, checkpoint_id, form.get("reason", ""))
        elif how in ("publish", "promote"):
            said = desk.checkpoints.publish(user, checkpoint_id, robots, promote=how == "promote")
        else:
            raise ContractError(f"there is no action {how!r} for checkpoints")
        return said, f"/checkpoints/{checkpoint_id}"

    def adapt(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        adaptation_id = desk.adapt(user, form.get("robot", ""), form.get("instruction", ""))
        return "capturing the scene", f"/adapt/{adaptation_id}"

    def adapt_step(user: User, form: Mapping[str, str], adaptation_id: str, step: str) -> tuple[str, str]:
        revision = int(form["revision"]) if form.get("revision", "").isdigit() else -1
        values = {name: value for name, value in form.items() if name != "revision"}
        return desk.adapt_step(user, adaptation_id, step, revision, values), f"/adapt/{adaptation_id}"

    act("/episodes/{episode_id}/label", label)
    act("/episodes/{episode_id}/retract", retract)
    act("/jobs/{job_id}/cancel", cancel)
    act("/checkpoints/{checkpoint_id}/{how}", publish)
    act("/adapt", adapt)
    act("/adapt/{adaptation_id}/{step}", adapt_step)

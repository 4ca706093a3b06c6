"""What every page of ours is built on: login, roles, guards, live updates, actions. Works without script.

Source:
    Server-sent events: WHATWG HTML, section 9.2. Cookies are SameSite=Strict and posts must come from this origin.
"""

import asyncio
import datetime
import hmac
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gymnast_core.bounds import whole_number
from gymnast_core.errors import ConfigError, ContractError, GymnastError, StorageError
from gymnast_core.web.auth import SESSION_S, Gate, LoginError, User
from gymnast_core.web.guesses import TooManyGuessesError
from gymnast_core.wire.errors import NotPermittedError, RevokedError
from gymnast_core.wire.identity import Peer

_HERE = Path(__file__).parent
_NS = 1_000_000_000
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FORM_BYTES = 256 * 1024
Statuses = tuple[tuple[type[GymnastError], int], ...]
STATUSES: Statuses = (
    (LoginError, 401),
    (NotPermittedError, 403),
    (RevokedError, 403),
    (TooManyGuessesError, 429),
    (ConfigError, 422),
    (ContractError, 422),
    (StorageError, 500),
)
"""Error -> HTTP status, for every site."""

Do = Callable[..., tuple[str, str]]
"""An action: gets the user, the form's fields and the address's parts; returns what to show and where to go."""


class Site:
    """One site: its templates, its gate, what its errors mean.

    Args:
        gate: decides which users may come in.
        certified: returns the user that a verified client certificate names, if it still counts.
        templates: folder of the site's own; the common ones (base, login, error, parts) are found beside them.
        server: what to call the other side in messages: "trainer", "robot".
        pages: (address, name) of the pages in the header.
        statuses: further errors and their HTTP status, asked before STATUSES.
    """

    def __init__(
        self, gate: Gate, templates: Path, *, server: str, pages: Sequence[tuple[str, str]], statuses: Statuses = (),
        certified: Callable[[bytes], Peer | None] = lambda certificate: None,
    ) -> None:  # fmt: skip
        self.gate, self._statuses, self._certified = gate, (*statuses, *STATUSES), certified
        self._seal_key = secrets.token_bytes(32)
        self._cookie = f"gymnast_{server}_session"  # browsers do not distinguish the ports of one machine
        self._environment = Environment(
            loader=FileSystemLoader([templates, _HERE / "templates"]), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.filters.update(ago=ago, since=since, moment=moment, percent=percent, size=size)
        self._environment.globals.update(server=server, pages=tuple(pages))

    def said(self, request: Request, user: User | None = None) -> str:
        """Return what an action answered before it led here; empty for words that somebody else wrote into a link.

        Args:
            request: for a page.
            user: that asks.
        """
        said, seal = (request.query_params.get(name, "") for name in ("said", "seal"))
        return said if hmac.compare_digest(seal.encode(), self._seal(said, user).encode()) else ""

    def _sealed(self, said: str, user: User | None = None) -> str:
        return f"said={quote(said)}&seal={self._seal(said, user)}"

    def _seal(self, said: str, user: User | None) -> str:
        whose = ["", ""] if user is None else [user.tenant, user.name]
        return hmac.digest(self._seal_key, json.dumps([*whose, said]).encode(), "sha256").hex()

    def render(self, template: str, **context: object) -> str:
        """Fill one template."""
        return self._environment.get_template(template).render(**{"here": "", "version": "", "said": "", **context})

    def app(self, version: Callable[[User, str], str], *, poll_s: float = 0.4) -> FastAPI:
        """Return an application with login, guards and live updates; pages and actions are added to it.

        Args:
            version: of what a user sees at an address; changes whenever that might.
            poll_s: how often open pages are checked for news.
        """
        app = FastAPI(title="Gymnast", docs_url=None, redoc_url=None, openapi_url=None)
        app.state.stopping = threading.Event()
        app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
        self._add_guards(app)
        self._add_login(app)
        self._add_events(app, version, poll_s)
        return app

    def user_of(self, request: Request) -> User:
        """Return the user that asks: by client certificate, by bearer token, else by session cookie.

        Raises:
            LoginError: nobody, or nobody any more.
            RevokedError: the certificate was taken back.
        """
        certificate = request.scope.get("gymnast_certificate")
        if certificate and (peer := self._certified(certificate)) is not None:
            return User.of(peer)
        bearer = request.headers.get("authorization", "")
        if bearer.startswith("Bearer "):
            return self.gate.user_of_token(bearer.removeprefix("Bearer "), source=source_of(request))
        return self.gate.user_of_session(request.cookies.get(self._cookie, ""))

    async def goes_on(self, app: FastAPI, request: Request) -> bool:
        """Whether an open stream may: its reader is there and may still look, and the site is not stopping."""
        if app.state.stopping.is_set() or await request.is_disconnected():
            return False
        try:
            return self.user_of(request).may("look")
        except GymnastError:
            return False

    def act(self, app: FastAPI, address: str, do: Do) -> None:
        """Add an action: answered in place for script, by a redirect without."""

        async def action(request: Request, user: Annotated[User, Depends(self.user_of)]) -> Response:
            given = await request.form()
            form = {name: ",".join(map(str, given.getlist(name))) for name in given}  # of boxes: all that are ticked
            said, there = await run_in_threadpool(do, user, form, **request.path_params)
            if wants_json(request):
                return JSONResponse({"said": said, "go": there})
            return RedirectResponse(f"{there}?{self._sealed(said, user)}", 303)

        app.post(address)(action)

    def _add_guards(self, app: FastAPI) -> None:
        @app.middleware("http")
        async def guard(request: Request, call_next: Callable[[Request], Any]) -> Response:
            origin = request.headers.get("origin")
            if request.method == "POST" and origin and _host_of(origin) != request.headers.get("host"):
                return PlainTextResponse("this request came from another site; nothing was done", 403)
            if request.method == "POST" and not _fits(request.headers.get("content-length", "")):
                return PlainTextResponse(f"a form of 0 to {FORM_BYTES} bytes is read here; nothing was done", 413)
            response: Response = await call_next(request)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        @app.exception_handler(GymnastError)
        async def explain(request: Request, error: Exception) -> Response:
            status = next((code for kind, code in self._statuses if isinstance(error, kind)), 400)
            if wants_json(request):
                return JSONResponse({"error": str(error), "kind": type(error).__name__}, status)
            if status == 401:
                there = quote(request.url.path) if request.method == "GET" else "/"
                why = f"&{self._sealed(str(error))}" if self._cookie in request.cookies else ""
                return RedirectResponse(f"/login?next={there}{why}", 303)
            return HTMLResponse(self.render("error.html", status=status, message=str(error), user=None), status)

    def _add_login(self, app: FastAPI) -> None:
        @app.get("/login")
        def login_page(request: Request, next: str = "/") -> HTMLResponse:
            return HTMLResponse(self.render("login.html", next=_local(next), said=self.said(request), user=None))

        @app.post("/login")
        def login(request: Request, token: Annotated[str, Form()], next: Annotated[str, Form()] = "/") -> Response:
            self.gate.user_of_token(token, source=source_of(request))
            response = RedirectResponse(_local(next), 303)
            secure = request.url.scheme == "https"
            session = self.gate.open_session(token)
            response.set_cookie(
                self._cookie, session, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure
            )
            return response

        @app.post("/logout")
        def logout(request: Request) -> Response:
            self.gate.close_session(request.cookies.get(self._cookie, ""))
            response = RedirectResponse("/login", 303)
            response.delete_cookie(self._cookie)
            return response

    def _add_events(self, app: FastAPI, version: Callable[[User, str], str], poll_s: float) -> None:
        @app.get("/events")
        async def events(request: Request, at: str = "/") -> StreamingResponse:
            user = self.user_of(request)
            user.require("look")

            async def stream() -> AsyncIterator[str]:
                known, quiet = "", 0.0
                yield "retry: 1000\n\n"
                while await self.goes_on(app, request):
                    newest = await run_in_threadpool(version, user, at)
                    if newest != known or quiet > 10:
                        known, quiet = newest, 0.0
                        yield f"data: {newest}\n\n"
                    quiet += poll_s
                    await asyncio.sleep(poll_s)

            return StreamingResponse(stream(), media_type="text/event-stream")


def source_of(request: Request) -> str:
    """Return the address a request comes from."""
    return request.client.host if request.client else "this process"


def wants_json(request: Request) -> bool:
    """Whether the caller is a script."""
    return "application/json" in request.headers.get("accept", "")


def ago(at_ns: int) -> str:
    """Return how long ago a moment of the wall clock was, see since()."""
    return since((time.time_ns() - at_ns) / _NS)


def moment(at_ns: int) -> str:
    """Return a moment of the wall clock as the server's date and time."""
    return datetime.datetime.fromtimestamp(at_ns / _NS).isoformat(" ", "seconds")


def since(seconds: float) -> str:
    """Return '4 min ago' and the like."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{seconds / size:.0f} {unit} ago"
    return "just now" if seconds < 10 else f"{seconds:.0f} s ago"


def percent(value: float | None) -> str:
    """Return '62 %'; a dash for None."""
    return "–" if value is None else f"{100 * value:.0f} %"


def size(count: float) -> str:
    """Return '812 kB' and the like."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def _fits(length: str) -> bool:
    """Whether a form is of a known and sane size."""
    found = whole_number(length)
    return found is not None and found <= FORM_BYTES


def _host_of(origin: str) -> str:
    """Host and port of an origin; empty for one that cannot be read."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _local(path: str) -> str:
    """Only addresses of this site."""
    return path if path.startswith("/") and not path.startswith("//") and "\\" not in path else "/"

"""The page of one robot as an ASGI application, over whatever drives the robot."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from gymnast_core.errors import ContractError, GymnastError, StorageError
from gymnast_core.records.journal import Journal
from gymnast_core.web.auth import Gate, User
from gymnast_core.web.site import Site

TEMPLATES = Path(__file__).parent / "templates"
STALE_S = 15.0
FRAME_POLL_S = 0.1
BOUNDARY = "frame"


class NotNowError(GymnastError):
    """The robot understood and refused, or did not answer; the message names which."""


class PageRobot(Protocol):
    """What the page needs of a robot; every method may be called from any thread."""

    name: str
    model: str

    def status(self) -> Mapping[str, Any]:
        """What the page shows.

        {state, policy_version, instruction, estop, estop_reason, fault, motors_failed, done, total, successes, message,
        spool, link, gate, practice}.
        """
        ...

    def frame(self) -> tuple[int, float, bytes]:
        """Number, monotonic time and JPEG of the newest camera frame; 0 and b"" before the first."""
        ...

    def stop(self) -> str:
        """Stop the arm now.

        Raises:
            NotNowError: the gate did not answer.
        """
        ...

    def re_arm(self) -> str:
        """Let it move again.

        Raises:
            NotNowError: the gate refused, or did not answer.
        """
        ...

    def recover(self) -> str:
        """Have it recover from a motor fault.

        Raises:
            NotNowError: the arm refused, could not, or did not answer.
        """
        ...

    def go_on_practising(self, by: str) -> str:
        """A person has done what the practice run waits for.

        Raises:
            NotNowError: it waits for nobody, or the rollout node did not answer.
        """
        ...

    def stop_practice(self) -> str:
        """End what the rollout node runs after its present step.

        Raises:
            NotNowError: nothing runs, or the rollout node did not answer.
        """
        ...

    def label(self, label: str, by: str) -> str:
        """Label or discard the episode that waits for it.

        Raises:
            NotNowError: none waits, or the rollout node did not answer.
        """
        ...


def create_page(robot: PageRobot, gate: Gate, log: Journal, *, poll_s: float = 0.2) -> FastAPI:
    """Return the page.

    Args:
        robot: what is shown and driven.
        gate: decides what a session may do.
        log: gets every action.
        poll_s: how often open pages are checked for news.
    """
    site = Site(gate, TEMPLATES, server="robot", pages=(("/", robot.name),), statuses=((NotNowError, 409),))
    app = site.app(lambda user, at: _version(robot), poll_s=poll_s)
    _add_page(app, site, robot)
    _add_actions(app, site, robot, log)
    return app


def _version(robot: PageRobot) -> str:
    """Changes with everything the page shows but the moving picture."""
    number, at_s, _ = robot.frame()
    return f"{hash(repr(sorted(robot.status().items())))}.{number > 0}.{_stale(number, at_s)}"


def _stale(number: int, at_s: float) -> bool:
    return number == 0 or time.monotonic() - at_s > STALE_S


def _add_page(app: FastAPI, site: Site, robot: PageRobot) -> None:
    @app.get("/")
    def page(request: Request, user: Annotated[User, Depends(site.user_of)]) -> HTMLResponse:
        user.require("look")
        version = _version(robot)  # first: what changes meanwhile is then seen as news
        number, at_s, _ = robot.frame()
        context = {
            "robot": robot.name, "model": robot.model, "s": robot.status(), "seen": number > 0,
            "stale": _stale(number, at_s), "said": site.said(request, user),
        }  # fmt: skip
        return HTMLResponse(site.render("robot.html", user=user, here="/", version=version, **context))

    @app.get("/frame.jpg")
    def frame(user: Annotated[User, Depends(site.user_of)]) -> Response:
        user.require("look")
        return Response(robot.frame()[2], media_type="image/jpeg")

    @app.get("/camera")
    def camera(request: Request, user: Annotated[User, Depends(site.user_of)]) -> StreamingResponse:
        """Every new frame, as browsers show in an <img>: multipart/x-mixed-replace.

        A browser shows a part when it has seen the boundary behind it, so that goes out with the frame and not with
        the next one: the last picture of an episode would be missing for as long as the arm rests.
        """
        user.require("look")

        async def stream() -> AsyncIterator[bytes]:
            shown = -1
            yield f"--{BOUNDARY}\r\n".encode()
            while await site.goes_on(app, request):
                number, _, jpeg = robot.frame()
                if number != shown and jpeg:
                    shown = number
                    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    yield head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()
                await asyncio.sleep(FRAME_POLL_S)

        return StreamingResponse(stream(), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")


def _add_actions(app: FastAPI, site: Site, robot: PageRobot, log: Journal) -> None:
    def note(user: User, action: str, answer: str) -> None:
        log.append(action, {"answer": answer, "by": user.name, "role": user.role, "at_ns": time.time_ns()})

    def acted(user: User, action: str, do: Callable[[], object], answer: str) -> tuple[str, str]:
        """Written down before it is done; what then fails gets a second entry."""
        note(user, action, answer)
        try:
            do()
        except GymnastError as error:
            note(user, f"{action}: failed", str(error))
            raise
        return answer, "/"

    def stop(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        user.require("stop")
        answer = "the arm is stopped; re-arm it when it is safe to move"
        try:
            robot.stop()  # at once: the disk that keeps the log may be slow
        except GymnastError as error:
            note(user, "stop: failed", str(error))
            raise
        try:
            note(user, "stop", answer)
        except StorageError as error:  # the arm stands all the same
            return f"{answer} (not written down: {error})", "/"
        return answer, "/"

    def re_arm(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        user.require("re-arm")
        return acted(user, "re-arm", robot.re_arm, "the arm may move again")

    def recover(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        user.require("recover")
        return acted(user, "recover", robot.recover, "the arm stands at neutral again")

    def go_on(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        user.require("re-arm")
        said = "the practice goes on"
        return acted(user, "go on practising", lambda: robot.go_on_practising(f"operator:{user.name}"), said)

    def stop_practice(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        user.require("stop")
        return acted(user, "end the practice", robot.stop_practice, "the practice ends after the present step")

    def label(user: User, form: Mapping[str, str]) -> tuple[str, str]:
        user.require("label")
        wanted = form.get("label", "")
        if wanted not in ("success", "failure", "discard"):
            raise ContractError(f"{wanted!r} is no label; choose success, failure or discard")
        said = "the episode is thrown away" if wanted == "discard" else f"the episode is labelled {wanted}"
        return acted(user, f"label {wanted}", lambda: robot.label(wanted, f"operator:{user.name}"), said)

    site.act(app, "/stop", stop)
    site.act(app, "/re-arm", re_arm)
    site.act(app, "/recover", recover)
    site.act(app, "/go-on", go_on)
    site.act(app, "/stop-practice", stop_practice)
    site.act(app, "/label", label)

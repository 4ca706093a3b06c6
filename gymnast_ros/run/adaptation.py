"""Test-time training asked for at the robot: the trainer's own adaptation, begun and followed in the robot's name.

The trainer runs it as it runs one that an operator began on its page: it orders episodes of this robot, hence
take_orders. The call is the consent to those and to practice within the parameters; the candidate reaches the arm only
after a second call, an operator's word on the page, or with ttt_approve.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from gymnast_core.errors import GymnastError, TransientBridgeError
from gymnast_ros.run.log import Log
from gymnast_ros.uplink import ConsoleClient
from gymnast_ros.uplink.adaptation import Adaptation, Terms, View, begin

LOG = logging.getLogger(__name__)
KIND = "test_time_train"
CANCEL_S = 60.0
POLL_S = 0.5
BUDGET = ("minutes", "rollouts", "money", "mode")
ASKED = ("instruction", "scene", "seed", "world_model", "judge", "config")


class Values(Protocol):
    """Settings by name, as they are now."""

    def __getitem__(self, name: str, /) -> Any:
        """The present value."""
        ...


class AdaptationDesk:
    """Begins, follows and ends one adaptation at a time.

    Args:
        settings: values of ttt_*, robot_name and take_orders, by name.
        page: of the trainer, in this robot's own name.
        changed: called when status() has news.
        result: latches what became of a call.
        log: of the node.
    """

    def __init__(
        self, settings: Values, page: ConsoleClient, *, changed: Callable[[], None],
        result: Callable[[Mapping[str, Any]], None], log: Log,
    ) -> None:  # fmt: skip
        self._settings, self._page, self._log = settings, page, log
        self._changed, self._result = changed, result
        self._thread: threading.Thread | None = None
        self._busy = False
        self._stopped, self._approved = threading.Event(), threading.Event()
        self._cancelled = False
        self._view: View = {}

    def close(self) -> None:
        """Stop following; the adaptation waits at the trainer, and a call goes on with it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def status(self) -> dict[str, Any]:
        """What the bridge's status says of it; empty before the first."""
        view = self._view
        if not view:
            return {}
        iterations = view["iterations"]
        return {
            "id": view["adaptation_id"], "stage": view["stage"], "reason": view["reason"],
            "iterations": len(iterations), "rollouts": sum(int(row.get("rollouts", 0)) for row in iterations),
            "imagined_reward": iterations[-1]["imagined_reward"] if iterations else None,
            "pairs": len(view["canary"]), "candidate": view["candidate"], "next": _next(view) * self._busy,
        }  # fmt: skip

    def call(self) -> tuple[bool, str]:
        """Begin one, go on with the one that was begun here, or approve the one that waits at its preview."""
        if self._busy:
            if self._view.get("stage") != "preview":
                stage = self._view.get("stage", "beginning")
                return False, f"busy with {KIND} ({stage}); wait, or call cancel_{KIND}"
            self._approved.set()
            return True, f"approved {self._view['candidate']}; the canary decides on the arm"
        if reason := self._cannot():
            return False, reason
        self._stopped.clear()
        self._approved.clear()
        self._busy, self._cancelled, self._view = True, False, {}
        run_id = f"{KIND}-{uuid.uuid4().hex[:12]}"
        self._thread = threading.Thread(target=self._run, args=(run_id,), name=run_id, daemon=True)
        self._thread.start()
        return True, run_id

    def _cannot(self) -> str:
        """Why it is not possible now; empty when it is."""
        if not self._settings["take_orders"]:
            return (
                "this robot takes no orders, and its trainer orders the episodes and the canary; start it with "
                "`gymnast up --orders` (orders:=true)"
            )
        if not self._settings["ttt_instruction"].strip():
            return "ttt_instruction is empty; say what the arm shall do here"
        return ""

    def cancel(self) -> tuple[bool, str]:
        """End the one under way; returns whether there is one, and words."""
        if not self._busy:
            return False, f"no {KIND} is under way here"
        self._cancelled = True
        self._stopped.set()
        return True, "ending at the next whole iteration, pair or collection; the robot keeps what it runs"

    def _run(self, run_id: str) -> None:
        result: dict[str, Any] = {"run_id": run_id, "kind": KIND, "ok": False, "error": "", "kept": False}
        try:
            view = self._drive()
            result |= {"ok": True, "kept": view["stage"] == "kept", "adaptation": self.status()}
        except (GymnastError, OSError) as error:
            result["error"] = f"{type(error).__name__}: {error}"
            self._log.error(f"{KIND} failed run={run_id} error={error}")
        except Exception as error:  # nobody else would hear of it, and the service would stay busy
            result["error"] = f"{type(error).__name__}: {error}; the bridge's log has the rest"
            LOG.exception("test_time_train_failed run=%s", run_id)
        self._busy = False
        self._changed()
        self._result(result)

    def _drive(self) -> View:
        settings = self._settings
        form = {name: str(settings[f"ttt_{name}"]) for name in ASKED}
        known = self._begun_here() or begin(self._page, {**form, "robot": settings["robot_name"]})
        adaptation = Adaptation(self._page, known, tell=self._hear, stopped=self._stopped)
        terms = Terms(settings["ttt_collect"], {name: str(settings[f"ttt_{name}"]) for name in BUDGET})
        try:
            view = adaptation.drive(terms, approve=partial(self._approve, adaptation))
        except TransientBridgeError:
            raise  # it waits at the trainer
        except GymnastError:
            adaptation.cancel(CANCEL_S)
            raise
        if view["stage"] == "refused":
            adaptation.cancel(CANCEL_S)
            self._view = view
        elif self._cancelled:
            view = adaptation.cancel(CANCEL_S)
        return view

    def _begun_here(self) -> str:
        """The adaptation that this robot began and that is not over: of a bridge that was killed."""
        name = self._settings["robot_name"]
        views = self._page.get("/api/adaptations")["adaptations"]
        mine = [view for view in views if view["robot"] == view["started_by"] == name and not view["over"]]
        return str(mine[0]["adaptation_id"]) if mine else ""

    def _approve(self, adaptation: Adaptation, view: View) -> bool | None:
        """Wait for ttt_approve, a second call, or an operator's decision on the page."""
        while adaptation.view()["stage"] == "preview" and not self._stopped.is_set():
            if self._settings["ttt_approve"] or self._approved.wait(POLL_S):
                return True
        return None

    def _hear(self, view: View) -> None:
        if view["stage"] != self._view.get("stage"):
            self._log.info(f"{KIND} {view['adaptation_id']}: {view['stage']} {view['reason']}".rstrip())
        self._view = view
        self._changed()


def _next(view: View) -> str:
    """What to do now, for the status."""
    if view["stage"] != "preview":
        return ""
    return (
        f"old and new are on the trainer's page, /adapt/{view['adaptation_id']}; call {KIND} again to let "
        f"the candidate onto the arm for its canary, or cancel_{KIND}"
    )

"""Test-time training asked for at the robot: the trainer's own adaptation, begun and followed in the robot's name.

The trainer runs it as it runs one that an operator began on its page: it orders episodes of this robot, hence
take_orders. The call is the consent to those and to practice within the parameters; the candidate reaches the arm only
after a second call, an operator's word on the page, or with approve (or the parameter ttt_approve).
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gymnast_core.errors import ConfigError, GymnastError, TransientBridgeError
from gymnast_ros.run.codec import Failure, NothingToDoError, RobotBusyError
from gymnast_ros.run.dispatch import Began
from gymnast_ros.run.ports import Log, Values
from gymnast_ros.run.requests import CancelTrainHere, TrainHere
from gymnast_ros.uplink import ConsoleClient
from gymnast_ros.uplink.adaptation import Adaptation, Terms, View, begin

LOG = logging.getLogger(__name__)
KIND = "test_time_train"
CANCEL_S = 60.0
POLL_S = 0.5
BUDGET = ("minutes", "rollouts", "money", "mode")
ASKED = ("instruction", "scene", "seed", "world_model", "judge", "config")


class AdaptationDesk:
    """Begins, follows and ends one adaptation at a time.

    Args:
        settings: values of robot_name, take_orders and ttt_approve, by name.
        page: of the trainer, in this robot's own name.
        changed: called when status() has news.
        result: gets what became of a request, and why it did not end well.
        log: of the node.
    """

    def __init__(
        self, settings: Values, page: ConsoleClient, *, changed: Callable[[], None],
        result: Callable[[Mapping[str, Any], Failure | None], None], log: Log,
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

    def begin(self, asked: TrainHere) -> str | Began:
        """Begin one, go on with the one that was begun here, or approve the one that waits at its preview."""
        if self._busy:
            if self._view.get("stage") != "preview":
                stage = self._view.get("stage", "beginning")
                raise RobotBusyError(f"busy with {KIND} ({stage}); wait, or call cancel_{KIND}")
            self._approved.set()
            return f"approved {self._view['candidate']}; the canary decides on the arm"
        if not self._settings["take_orders"]:
            raise ConfigError(
                "this robot takes no orders, and its trainer orders the episodes and the canary; start it with "
                "`gymnast up --orders` (orders:=true)"
            )
        self._stopped.clear()
        self._approved.clear()
        self._busy, self._cancelled, self._view = True, False, {}
        run_id = f"{KIND}-{uuid.uuid4().hex[:12]}"
        self._thread = threading.Thread(target=self._run, args=(run_id, asked), name=run_id, daemon=True)
        self._thread.start()
        return Began(run_id)

    def cancel(self, asked: CancelTrainHere) -> str:
        """End the one under way."""
        if not self._busy:
            raise NothingToDoError(f"no {KIND} is under way here")
        self._cancelled = True
        self._stopped.set()
        return "ending at the next whole iteration, pair or collection; the robot keeps what it runs"

    def _run(self, run_id: str, asked: TrainHere) -> None:
        result: dict[str, Any] = {"run_id": run_id, "kind": KIND, "ok": False, "error": "", "kept": False}
        failure = None
        try:
            view = self._drive(asked)
            result |= {"ok": True, "kept": view["stage"] == "kept", "adaptation": self.status()}
        except (GymnastError, OSError) as error:
            failure = Failure.of(error)
            result["error"] = f"{failure.error}: {error}"
            self._log.error(f"{KIND} failed run={run_id} error={error}")
        except Exception as error:  # nobody else would hear of it, and the service would stay busy
            failure = Failure.of(error)
            result["error"] = f"{failure.error}: {error}; the bridge's log has the rest"
            LOG.exception("test_time_train_failed run=%s", run_id)
        self._busy = False
        self._changed()
        self._result(result, failure)

    def _drive(self, asked: TrainHere) -> View:
        values = {**asked.model_dump(), "config": json.dumps(asked.config)}
        form = {name: str(values[name]) for name in ASKED}
        known = self._begun_here() or begin(self._page, {**form, "robot": self._settings["robot_name"]})
        adaptation = Adaptation(self._page, known, tell=self._hear, stopped=self._stopped)
        terms = Terms(asked.collect, {name: str(values[name]) for name in BUDGET})
        try:
            view = adaptation.drive(terms, approve=partial(self._approve, adaptation, asked))
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

    def _approve(self, adaptation: Adaptation, asked: TrainHere, view: View) -> bool | None:
        """Wait for ttt_approve, a second call, or an operator's decision on the page."""
        while adaptation.view()["stage"] == "preview" and not self._stopped.is_set():
            if asked.approve or self._settings["ttt_approve"] or self._approved.wait(POLL_S):
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

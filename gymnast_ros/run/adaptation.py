"""Test-time training asked for at the robot: the trainer's own adaptation, begun and followed in the robot's name.

The trainer runs it as it runs one that an operator began on its page: it orders episodes of this robot, hence
take_orders. The call is the consent to those and to practice within the parameters; the candidate reaches the arm only
after a second call, an operator's word on the page, or with approve (or the parameter ttt_approve).
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gymnast_client import Adaptation, AdaptationsClient, AdaptationView, PracticeBudget, Terms
from gymnast_core.errors import ConfigError, GymnastError, TransientBridgeError
from gymnast_ros.run.codec import Failure, NothingToDoError, RobotBusyError
from gymnast_ros.run.dispatch import Began
from gymnast_ros.run.ports import Log, Values
from gymnast_ros.run.requests import CancelTrainHere, TrainHere

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
        adaptations: of the trainer, in this robot's own name.
        changed: called when status() has news.
        result: gets what became of a request, and why it did not end well.
        log: of the node.
    """

    def __init__(
        self, settings: Values, adaptations: AdaptationsClient, *, changed: Callable[[], None],
        result: Callable[[Mapping[str, Any], Failure | None], None], log: Log,
    ) -> None:  # fmt: skip
        self._settings, self._adaptations, self._log = settings, adaptations, log
        self._changed, self._result = changed, result
        self._thread: threading.Thread | None = None
        self._busy = False
        self._stopped, self._approved = threading.Event(), threading.Event()
        self._cancelled = False
        self._view: AdaptationView | None = None

    def close(self) -> None:
        """Stop following; the adaptation waits at the trainer, and a call goes on with it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def status(self) -> dict[str, Any]:
        """What the bridge's status holds of it; empty before the first."""
        view = self._view
        if view is None:
            return {}
        iterations = view.iterations
        return {
            "id": view.adaptation_id, "stage": view.stage, "reason": view.reason,
            "iterations": len(iterations), "rollouts": view.rollouts,
            "imagined_reward": iterations[-1]["imagined_reward"] if iterations else None,
            "pairs": len(view.canary), "candidate": view.candidate, "next": _next(view) * self._busy,
        }  # fmt: skip

    def begin(self, asked: TrainHere) -> str | Began:
        """Begin one, go on with the one that was begun here, or approve the one that waits at its preview."""
        if self._busy:
            view = self._view
            if view is None or view.stage != "preview":
                stage = "beginning" if view is None else view.stage
                raise RobotBusyError(f"busy with {KIND} ({stage}); wait, or call cancel_{KIND}")
            self._approved.set()
            return f"approved {view.candidate}; the canary decides on the arm"
        if not self._settings["take_orders"]:
            raise ConfigError(
                "this robot takes no orders, and its trainer orders the episodes and the canary; start it with "
                "`gymnast up --orders` (orders:=true)"
            )
        self._stopped.clear()
        self._approved.clear()
        self._busy, self._cancelled, self._view = True, False, None
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
            result |= {"ok": True, "kept": view.stage == "kept", "adaptation": self.status()}
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

    def _drive(self, asked: TrainHere) -> AdaptationView:
        values = asked.model_dump()
        known = (
            self._begun_here()
            or self._adaptations.begin(
                self._settings["robot_name"], **{name: values[name] for name in ASKED}
            ).adaptation_id
        )
        adaptation = Adaptation(self._adaptations, known, on_view=self._hear, stopped=self._stopped)
        terms = Terms(asked.collect, PracticeBudget(**{name: values[name] for name in BUDGET}))
        try:
            view = adaptation.drive(terms, approve=partial(self._approve, adaptation, asked))
        except TransientBridgeError:
            raise  # it waits at the trainer
        except GymnastError:
            adaptation.cancel(CANCEL_S)
            raise
        if view.stage == "refused":
            adaptation.cancel(CANCEL_S)
            self._view = view
        elif self._cancelled:
            view = adaptation.cancel(CANCEL_S)
        return view

    def _begun_here(self) -> str:
        """The adaptation that this robot began and that is not over: of a bridge that was killed."""
        name = self._settings["robot_name"]
        views = self._adaptations.list()
        mine = (view for view in views if view.robot == view.started_by == name and not view.over)
        return next((view.adaptation_id for view in mine), "")

    def _approve(self, adaptation: Adaptation, asked: TrainHere, view: AdaptationView) -> bool | None:
        """Wait for ttt_approve, a second call, or an operator's decision on the page."""
        while adaptation.view().stage == "preview" and not self._stopped.is_set():
            if asked.approve or self._settings["ttt_approve"] or self._approved.wait(POLL_S):
                return True
        return None

    def _hear(self, view: AdaptationView) -> None:
        if self._view is None or view.stage != self._view.stage:
            self._log.info(f"{KIND} {view.adaptation_id}: {view.stage} {view.reason}".rstrip())
        self._view = view
        self._changed()


def _next(view: AdaptationView) -> str:
    """What to do now, for the status."""
    if view.stage != "preview":
        return ""
    return (
        f"old and new are on the trainer's page, /adapt/{view.adaptation_id}; call {KIND} again to let "
        f"the candidate onto the arm for its canary, or cancel_{KIND}"
    )

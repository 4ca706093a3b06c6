"""Test-time training as one operator's action: what may happen when, and who decided it.

captured -> trust check -> (refused | ready) -> training -> checking -> preview -> approved -> canary -> kept | reverted

Whatever computes (cameras, world model, GRPO, the arm) is an AdaptationEngine. The flow keeps order: every step is an
entry of a hash-linked journal, so a restart continues where it was; every action names the revision its page showed,
so two operators cannot talk past each other; budget and deadline end training within one iteration.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from cloud_trainer.flows.adaptation_engine import CLOSING, AdaptationEngine, Budget, SceneRequest
from cloud_trainer.flows.adaptation_view import OPTIONS, Stage, View
from cloud_trainer.flows.arms import WithdrawnError
from cloud_trainer.progress import ClosingError
from gymnast_core.errors import ConfigError, GymnastError, JobEndedError, NotPossibleError, OutdatedError
from gymnast_core.json_values import JsonObject, whole
from gymnast_core.records.journal import Journal

LOG = logging.getLogger(__name__)


def new_adaptation_id() -> str:
    """Return an id no other adaptation has, or can be guessed by."""
    return f"adapt-{secrets.token_hex(6)}"


class SceneAdaptation:
    """One adaptation; its worker thread runs whatever does not wait for the operator.

    Args:
        folder: its own; holds the journal and the engine's files.
        engine: see AdaptationEngine.
        clock: monotonic seconds.
    """

    def __init__(self, folder: Path, engine: AdaptationEngine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._engine, self._clock = engine, clock
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._journal = Journal(folder / "journal.jsonl")
        self._view = View("", "", "", "")
        for entry in self._journal.entries:
            self._view.apply(entry.kind, entry.data)

    @staticmethod
    def start(
        root: Path, engine: AdaptationEngine, request: SceneRequest, *, by: str, tenant: str,
        adaptation_id: str = "", clock: Callable[[], float] = time.monotonic,
    ) -> SceneAdaptation:  # fmt: skip
        """Capture the scene and begin; returns at once.

        Raises:
            ConfigError: what is asked for is not here.
        """
        engine.check(request)
        adaptation_id = adaptation_id or new_adaptation_id()
        flow = SceneAdaptation(root / adaptation_id, engine, clock=clock)
        asked = {name: value for name in OPTIONS if (value := getattr(request, name))}
        flow._record(
            "started", id=adaptation_id, robot=request.robot, instruction=request.instruction.strip(), by=by,
            scene=request.scene.strip(), tenant=tenant, **asked,
        )  # fmt: skip
        flow.resume()
        return flow

    @property
    def view(self) -> View:
        """The current state; do not change it."""
        return self._view

    def resume(self) -> None:
        """Go on with what does not wait for the operator, e.g. after a restart."""
        with self._lock:
            if self._closing or self._view.stage.over or (self._thread is not None and self._thread.is_alive()):
                return
            if self._view.stage.busy:
                self._thread = threading.Thread(target=self._work, name=self._view.adaptation_id, daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the worker has nothing to do; False when it still has."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop working between two steps and close the journal; another process may resume."""
        self._closing = True
        self.wait(timeout_s)
        self._journal.close()

    def collect(self, revision: int, *, episodes: int, by: str) -> None:
        """Refused: run a few real episodes here, then check trust again."""
        if not 1 <= episodes <= 100:
            raise ConfigError(f"collect 1 to 100 episodes, not {episodes}")
        self._act(revision, (Stage.REFUSED,), "collecting", episodes=episodes, by=by)

    def train(self, revision: int, *, budget: Budget, mode: str, by: str) -> None:
        """Ready: train within the budget."""
        if mode not in self._engine.modes:
            raise ConfigError(f"mode {mode!r} is not one of {', '.join(self._engine.modes)}")
        self._act(revision, (Stage.READY,), "training", budget=asdict(budget), mode=mode, by=by)

    def reuse(self, revision: int, *, adapter: str, by: str) -> None:
        """Ready or refused: try the adapter that was kept for this scene before, instead of training a new one.

        Raises:
            ConfigError: it is not one of those.
        """
        if adapter not in self._view.known_adapters:
            known = ", ".join(self._view.known_adapters) or "none"
            raise ConfigError(f"{adapter!r} was not kept for this scene; kept were: {known}")
        self._act(revision, (Stage.READY, Stage.REFUSED), "reused", candidate=adapter, by=by)

    def approve(self, revision: int, *, by: str) -> None:
        """Preview: let the candidate onto the arm, as a canary."""
        self._act(revision, (Stage.PREVIEW,), "approved", by=by)

    def reject(self, revision: int, *, by: str) -> None:
        """Preview: do not let it onto the arm."""
        self._act(revision, (Stage.PREVIEW,), "rejected", by=by)

    def cancel(self, *, by: str) -> None:
        """Stop at the next whole iteration or pair, from any stage; what runs on the robot stays what it was.

        Raises:
            NotPossibleError: it is over already.
        """
        with self._lock:
            view = self._view
            if view.stage.over:
                raise NotPossibleError(f"this adaptation is over ({view.stage.value}); there is nothing to cancel")
            if not view.cancel_requested:
                self._record("cancel_requested", by=by)
            if not view.stage.busy:
                self._record("cancelled", by=by)

    def _act(self, revision: int, stages: tuple[Stage, ...], kind: str, **data: object) -> None:
        with self._lock:
            view = self._view
            if view.stage not in stages or revision != view.revision:
                last = view.history[-1]
                raise OutdatedError(
                    f"the page was out of date: by now this adaptation is {view.stage.value} "
                    f"({last['kind']}{' by ' + last['by'] if last.get('by') else ''}); look again, then decide",
                    stage=view.stage.value, revision=view.revision,
                )  # fmt: skip
            self._record(kind, **data)
        self.resume()

    def _record(self, kind: str, **data: object) -> None:
        with self._lock:
            entry = self._journal.append(kind, {**data, "at_ns": time.time_ns()})
            self._view.apply(kind, entry.data)

    def _work(self) -> None:
        try:
            while not self._closing and self._view.stage.busy:
                if self._view.cancel_requested:
                    self._end_cancelled()
                    return
                self._step()
            if self._view.cancel_requested and not self._closing and not self._view.stage.over:
                self._end_cancelled()  # asked for during the last step, which left nothing to do
        except ClosingError:
            LOG.info("adaptation_rests id=%s stage=%s", self._view.adaptation_id, self._view.stage.value)
        except WithdrawnError:
            LOG.info("adaptation_withdrawn id=%s", self._view.adaptation_id)
            self._end_cancelled()
        except GymnastError as error:
            self._record("failed", reason=f"{error}")
        except Exception as error:  # whatever an engine does wrong fails its adaptation, which nobody waits for then
            LOG.exception("adaptation_failed id=%s", self._view.adaptation_id)
            self._record("failed", reason=f"{type(error).__name__}: {error}; the trainer's log has the rest")

    def _step(self) -> None:
        view, engine = self._view, self._engine
        if view.stage is Stage.CAPTURED:
            last = view.history[-1]["kind"]
            if last == "collecting":
                engine.collect(view.robot, view.instruction, whole(self._last("collecting")["episodes"]), self.folder)
            else:
                request = SceneRequest(view.robot, view.instruction, view.scene, by=view.started_by, **view.options)
                engine.begin(request, self.folder, lambda kind, data: self._record(kind, **data), self._ended)
                self._record("captured", **engine.capture(request, self.folder))
            trust = engine.trust(self.folder, self._ended)
            self._record("trust", ok=trust.ok, reason=trust.reason, figures=dict(trust.figures))
        elif view.stage is Stage.TRAINING:
            self._train()
        elif view.stage is Stage.CHECKING:
            if view.history[-1]["kind"] != "reused":  # what was kept had passed
                self._record("forgetting", **engine.check_forgetting(view.candidate, self.folder))
            engine.preview(view.candidate, self.folder, self._ended)
            self._record("previewed")
        elif view.stage is Stage.CANARY:
            self._canary()

    def _ended(self) -> str:
        """See adaptation_engine.Ended."""
        return CLOSING if self._closing else "cancelled" * self._view.cancel_requested

    def _train(self) -> None:
        view, budget, began = self._view, Budget(**self._view.budget), self._clock()
        spent_before = view.rollouts

        def over() -> str:
            elapsed = self._clock() - began
            if elapsed >= budget.seconds:
                return "the time budget"
            if view.rollouts - spent_before >= budget.rollouts:
                return "the rollout budget"
            if elapsed / 3600 * budget.price_per_hour >= budget.money:
                return "the money budget"
            return ""

        practised = self._engine.train(
            view.mode,
            budget,
            self.folder,
            lambda kind, data: self._record(kind, **data),
            lambda: self._ended() or over(),
        )
        if self._closing:
            return
        if view.cancel_requested:
            self._end_cancelled()
        elif practised.candidate is None:
            cause = practised.ended_by or over() or "training"
            self._record("failed", reason=f"{cause} ended before the first whole iteration; allow more")
        else:
            self._record("trained", candidate=practised.candidate, ended_by=practised.ended_by)

    def _canary(self) -> None:
        view = self._view
        try:
            refused = self._engine.admit(
                view.candidate, view.robot, self.folder, lambda kind, data: self._record(kind, **data), self._ended
            )
        except JobEndedError:
            if not view.cancel_requested:
                raise
            self._end_cancelled()
            return
        if refused and not view.cancel_requested:
            self._engine.revert(view.candidate, view.robot, self.folder)
            self._record("reverted", card={}, reason=f"it did not pass its gate, no arm has run it: {refused}")
            return
        verdict = self._engine.canary(
            view.candidate,
            view.robot,
            self.folder,
            lambda kind, data: self._record(kind, **data),
            lambda: self._closing or view.cancel_requested,
        )
        if self._closing and not verdict.card:
            return
        if view.cancel_requested:
            self._end_cancelled()
        elif verdict.keep:
            self._engine.keep(view.candidate, view.robot, self.folder)
            self._record("kept", card=verdict.card, reason=verdict.reason or "it won its canary")
        else:
            self._engine.revert(view.candidate, view.robot, self.folder)
            decision = str(verdict.card.get("decision", "")).replace("_", " ")
            self._record("reverted", card=verdict.card, reason=verdict.reason or f"its canary ended: {decision}")

    def _end_cancelled(self) -> None:
        if self._view.candidate:
            self._engine.revert(self._view.candidate, self._view.robot, self.folder)
        asked = self._last("cancel_requested") if self._view.cancel_requested else {}
        self._record("cancelled", by=asked.get("by", ""))

    def _last(self, kind: str) -> JsonObject:
        return next(entry.data for entry in reversed(self._journal.entries) if entry.kind == kind)

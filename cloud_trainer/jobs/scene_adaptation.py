"""Test-time training as one operator's action: what may happen when, and what was decided by whom.

captured -> trust check -> (refused | ready) -> training -> checking -> preview -> approved -> canary -> kept | reverted

Whatever computes (cameras, world model, GRPO, the arm) is an AdaptationEngine. The flow keeps order: every step is an
entry of a hash-linked journal, so a restart continues where it was; every action names the revision its page showed,
so two operators cannot talk past each other; budget and deadline end training within one iteration.
"""

from __future__ import annotations

import enum
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.journal import Journal


class Stage(str, enum.Enum):
    """Where an adaptation is."""

    CAPTURED = "captured"
    REFUSED = "refused"
    READY = "ready"
    TRAINING = "training"
    CHECKING = "checking"
    PREVIEW = "preview"
    CANARY = "canary"
    KEPT = "kept"
    REVERTED = "reverted"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (Stage.KEPT, Stage.REVERTED, Stage.CANCELLED, Stage.FAILED)

    @property
    def busy(self) -> bool:
        """Whether the machine works and the operator waits."""
        return self in (Stage.CAPTURED, Stage.TRAINING, Stage.CHECKING, Stage.CANARY)


class FlowError(GymnastError):
    """The action is not possible now; the message says what happened and what is possible."""


@dataclass(frozen=True)
class Budget:
    """What an adaptation may cost; whichever is used up first ends training.

    Attributes:
        seconds: wall time of training.
        rollouts: imagined rollouts.
        money: in the currency of price_per_hour.
        price_per_hour: of the trainer.
    """

    seconds: float = 600.0
    rollouts: int = 5000
    money: float = 5.0
    price_per_hour: float = 0.0

    def __post_init__(self) -> None:
        """Refuse budgets that allow nothing."""
        for name in ("seconds", "rollouts", "money"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"budget {name} must be positive, got {getattr(self, name)}")
        if self.price_per_hour < 0:
            raise ConfigError(f"price_per_hour must not be negative, got {self.price_per_hour}")


@dataclass(frozen=True)
class Trust:
    """Whether the world model may be believed in this scene.

    Attributes:
        ok: training may start.
        reason: why not, and what would help; empty when ok.
        figures: JSON values behind it.
    """

    ok: bool
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What the canary said.

    Attributes:
        keep: whether the declared rule promotes the candidate.
        card: JSON values of the trial's result card.
    """

    keep: bool
    card: Mapping[str, Any]


Emit = Callable[[str, Mapping[str, Any]], None]
Stop = Callable[[], bool]


class AdaptationEngine(Protocol):
    """What computes. Every method may take long and raise GymnastError; files it makes go into the given folder."""

    def capture(self, robot: str, instruction: str, folder: Path) -> Mapping[str, Any]:
        """Take start frames (start.webp in folder) and name the scene; returns {scene, known_adapters}."""
        ...

    def trust(self, folder: Path) -> Trust:
        """Check the world model against this scene."""
        ...

    def collect(self, robot: str, instruction: str, episodes: int, folder: Path) -> None:
        """Run a few real episodes here, after which trust() is asked again."""
        ...

    @property
    def modes(self) -> tuple[str, ...]:
        """What it can train: lora, full or both; the first is the usual one."""
        ...

    def train(self, mode: str, budget: Budget, folder: Path, emit: Emit, stop: Stop) -> str | None:
        """Train within the budget, which stop() watches too; returns the candidate's id.

        Emits "iteration" {iteration, imagined_reward, rollouts} after every iteration and looks at stop() between
        iterations; stopped before the first whole one it returns None, else the candidate so far.
        """
        ...

    def check_forgetting(self, candidate: str, folder: Path) -> Mapping[str, Any]:
        """Compare old and new on other tasks; returns {before, after, tolerated, ok}."""
        ...

    def preview(self, candidate: str, folder: Path) -> None:
        """Imagine old and new from this very frame: old.webp and new.webp (film strips) in folder."""
        ...

    def canary(self, candidate: str, robot: str, folder: Path, emit: Emit, stop: Stop) -> Verdict:
        """Try it on the arm against the running one by a declared sequential rule."""
        ...

    def keep(self, candidate: str, robot: str, folder: Path) -> None:
        """Make it the adapter of this scene."""
        ...

    def revert(self, candidate: str, robot: str, folder: Path) -> None:
        """Make sure the robot runs what it ran before."""
        ...


@dataclass
class View:
    """The state of an adaptation as pages and callers see it."""

    adaptation_id: str
    robot: str
    instruction: str
    started_by: str
    stage: Stage = Stage.CAPTURED
    revision: int = 0
    reason: str = ""
    scene: str = ""
    known_adapters: list[str] = field(default_factory=list)
    trust: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    mode: str = ""
    iterations: list[dict[str, Any]] = field(default_factory=list)
    candidate: str = ""
    forgetting: dict[str, Any] = field(default_factory=dict)
    canary: list[dict[str, Any]] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)
    decided_by: str = ""
    cancel_requested: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rollouts(self) -> int:
        """Imagined rollouts so far."""
        return sum(int(row.get("rollouts", 0)) for row in self.iterations)


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
            self._apply(entry.kind, entry.data)

    @staticmethod
    def start(
        root: Path, engine: AdaptationEngine, *, robot: str, instruction: str, by: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> SceneAdaptation:  # fmt: skip
        """Capture the scene and begin; returns at once.

        Raises:
            ConfigError: no robot or no instruction.
        """
        if not robot.strip() or not instruction.strip():
            raise ConfigError("name a robot and say what it should do in this scene")
        adaptation_id = f"adapt-{secrets.token_hex(6)}"
        flow = SceneAdaptation(root / adaptation_id, engine, clock=clock)
        flow._record("started", id=adaptation_id, robot=robot, instruction=instruction.strip(), by=by)
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

    def approve(self, revision: int, *, by: str) -> None:
        """Preview: let the candidate onto the arm, as a canary."""
        self._act(revision, (Stage.PREVIEW,), "approved", by=by)

    def reject(self, revision: int, *, by: str) -> None:
        """Preview: do not let it onto the arm."""
        self._act(revision, (Stage.PREVIEW,), "rejected", by=by)

    def cancel(self, *, by: str) -> None:
        """Stop at the next whole iteration or pair, from any stage; what runs on the robot stays what it was.

        Raises:
            FlowError: it is over already.
        """
        with self._lock:
            view = self._view
            if view.stage.over:
                raise FlowError(f"this adaptation is over ({view.stage.value}); there is nothing to cancel")
            if not view.cancel_requested:
                self._record("cancel_requested", by=by)
            if not view.stage.busy:
                self._record("cancelled", by=by)

    def _act(self, revision: int, stages: tuple[Stage, ...], kind: str, **data: Any) -> None:
        with self._lock:
            view = self._view
            if view.stage not in stages or revision != view.revision:
                last = view.history[-1]
                raise FlowError(
                    f"the page was out of date: by now this adaptation is {view.stage.value} "
                    f"({last['kind']}{' by ' + last['by'] if last.get('by') else ''}); look again, then decide"
                )
            self._record(kind, **data)
        self.resume()

    def _record(self, kind: str, **data: Any) -> None:
        with self._lock:
            entry = self._journal.append(kind, {**data, "at_ns": time.time_ns()})
            self._apply(kind, entry.data)

    def _apply(self, kind: str, data: Mapping[str, Any]) -> None:
        view = self._view
        rest = {key: value for key, value in data.items() if key not in ("at_ns", "by")}
        if kind == "started":
            view.adaptation_id, view.robot = str(data["id"]), str(data["robot"])
            view.instruction, view.started_by = str(data["instruction"]), str(data["by"])
        elif kind == "captured":
            view.scene, view.known_adapters = str(data.get("scene", "")), list(data.get("known_adapters", []))
        elif kind == "trust":
            view.trust, view.reason = dict(rest), str(data["reason"])
            view.stage = Stage.READY if data["ok"] else Stage.REFUSED
        elif kind == "collecting":
            view.stage, view.reason = Stage.CAPTURED, ""
        elif kind == "training":
            view.stage, view.budget, view.mode = Stage.TRAINING, dict(data["budget"]), str(data["mode"])
        elif kind == "iteration":
            view.iterations.append(dict(rest))
        elif kind == "trained":
            view.stage, view.candidate, view.reason = Stage.CHECKING, str(data["candidate"]), str(data["ended_by"])
        elif kind == "forgetting":
            view.forgetting = dict(rest)
        elif kind == "previewed":
            view.stage = Stage.PREVIEW
        elif kind == "approved":
            view.stage, view.decided_by = Stage.CANARY, str(data["by"])
        elif kind == "pair":
            view.canary.append(dict(rest))
        elif kind == "cancel_requested":
            view.cancel_requested = True
        elif kind in ("kept", "reverted", "rejected", "cancelled", "failed"):
            view.stage = Stage.REVERTED if kind == "rejected" else Stage(kind)
            view.card = dict(data.get("card", {}))
            view.reason = str(data.get("reason", "rejected by the operator" if kind == "rejected" else ""))
        view.revision += kind not in ("iteration", "pair")
        view.history.append({"kind": kind, "at_ns": data.get("at_ns", 0), "by": data.get("by", "")})

    def _work(self) -> None:
        try:
            while not self._closing and self._view.stage.busy:
                if self._view.cancel_requested:
                    self._end_cancelled()
                    return
                self._step()
        except GymnastError as error:
            self._record("failed", reason=f"{error}")

    def _step(self) -> None:
        view, engine = self._view, self._engine
        if view.stage is Stage.CAPTURED:
            last = view.history[-1]["kind"]
            if last == "collecting":
                engine.collect(view.robot, view.instruction, self._last("collecting")["episodes"], self.folder)
            else:
                self._record("captured", **engine.capture(view.robot, view.instruction, self.folder))
            trust = engine.trust(self.folder)
            self._record("trust", ok=trust.ok, reason=trust.reason, figures=dict(trust.figures))
        elif view.stage is Stage.TRAINING:
            self._train()
        elif view.stage is Stage.CHECKING:
            self._record("forgetting", **engine.check_forgetting(view.candidate, self.folder))
            engine.preview(view.candidate, self.folder)
            self._record("previewed")
        elif view.stage is Stage.CANARY:
            self._canary()

    def _train(self) -> None:
        view, budget, began = self._view, Budget(**self._view.budget), self._clock()
        spent_before = view.rollouts

        def over() -> str:
            elapsed = self._clock() - began
            if view.cancel_requested:
                return "cancelled"
            if elapsed >= budget.seconds:
                return "the time budget"
            if view.rollouts - spent_before >= budget.rollouts:
                return "the rollout budget"
            if elapsed / 3600 * budget.price_per_hour >= budget.money:
                return "the money budget"
            return ""

        candidate = self._engine.train(
            view.mode,
            budget,
            self.folder,
            lambda kind, data: self._record(kind, **data),
            lambda: self._closing or bool(over()),
        )
        if self._closing:
            return
        if view.cancel_requested:
            self._end_cancelled()
        elif candidate is None:
            self._record("failed", reason=f"{over() or 'training'} ended before the first whole iteration; allow more")
        else:
            self._record("trained", candidate=candidate, ended_by=over())

    def _canary(self) -> None:
        view = self._view
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
            self._record("kept", card=dict(verdict.card), reason="it won its canary")
        else:
            self._engine.revert(view.candidate, view.robot, self.folder)
            decision = str(verdict.card.get("decision", "")).replace("_", " ")
            self._record("reverted", card=dict(verdict.card), reason=f"its canary ended: {decision}")

    def _end_cancelled(self) -> None:
        if self._view.candidate:
            self._engine.revert(self._view.candidate, self._view.robot, self.folder)
        self._record("cancelled", by=self._last("cancel_requested").get("by", ""))

    def _last(self, kind: str) -> Mapping[str, Any]:
        return next(entry.data for entry in reversed(self._journal.entries) if entry.kind == kind)


class Adaptations:
    """All adaptations of a trainer, in folders; unfinished ones go on at start.

    Args:
        root: their folder.
        engine: None where this trainer cannot adapt; old ones can be looked at.
    """

    def __init__(self, root: Path, engine: AdaptationEngine | None) -> None:
        self._root, self._engine = root, engine
        self._lock = threading.Lock()
        self._flows: dict[str, SceneAdaptation] = {}
        root.mkdir(parents=True, exist_ok=True)
        if engine is not None:
            for journal in sorted(root.glob("*/journal.jsonl")):
                flow = SceneAdaptation(journal.parent, engine)
                self._flows[journal.parent.name] = flow
                flow.resume()

    @property
    def modes(self) -> tuple[str, ...]:
        """What this trainer can train."""
        return () if self._engine is None else self._engine.modes

    def start(self, *, robot: str, instruction: str, by: str) -> SceneAdaptation:
        """Begin one.

        Raises:
            FlowError: the robot is being adapted already, or this trainer has no engine.
            ConfigError: no robot or no instruction.
        """
        if self._engine is None:
            raise FlowError(
                "this trainer reaches no robot; start it with --robot NAME=DOMAIN on the robot's network, or adapt "
                "at the robot with `gymnast ttt`"
            )
        with self._lock:
            for flow in self._flows.values():
                if flow.view.robot == robot and not flow.view.stage.over:
                    raise FlowError(
                        f"{robot} is being adapted already by {flow.view.started_by} ({flow.view.adaptation_id}, "
                        f"{flow.view.stage.value}); finish or cancel that first"
                    )
            flow = SceneAdaptation.start(self._root, self._engine, robot=robot, instruction=instruction, by=by)
            self._flows[flow.view.adaptation_id] = flow
            return flow

    def get(self, adaptation_id: str) -> SceneAdaptation:
        """Return one.

        Raises:
            FlowError: there is none of this id.
        """
        flow = self._flows.get(adaptation_id)
        if flow is None:
            raise FlowError(f"there is no adaptation {adaptation_id!r}; choose one from the list")
        return flow

    def all(self) -> list[SceneAdaptation]:
        """Return all, newest first."""
        return sorted(self._flows.values(), key=lambda flow: -int(flow.view.history[0]["at_ns"]))

    def close(self) -> None:
        """Stop all between two steps."""
        for flow in self._flows.values():
            flow.close()

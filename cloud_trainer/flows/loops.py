"""The unattended loops of a trainer, in the background, seen and stopped by people.

A robot may be in several: they begin one behind the other, see queue_begin.

A loop is found by its tenant and name. What it finished is remembered, so one that was stopped, failed, or was cut off
by a restart of the trainer goes on where it was; after a restart by itself.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from cloud_trainer.flows.adaptation_engine import CLOSING
from cloud_trainer.flows.loop import Loop
from cloud_trainer.flows.loop_parts import LoopEngine, LoopStoppedError
from cloud_trainer.flows.loop_state import StepFile
from cloud_trainer.flows.loop_view import RUNNING, LoopEnd, LoopOrder, LoopView, named
from cloud_trainer.progress import ClosingError
from gymnast_core.episodes.durable import write_durably
from gymnast_core.episodes.messages import checked_id
from gymnast_core.errors import ConfigError, GymnastError, NotPossibleError, OccupiedError
from gymnast_core.loop_config import LoopConfig
from gymnast_core.loop_history import LoopHistory
from gymnast_core.wire.errors import NotFoundError

LOG = logging.getLogger(__name__)
CLOSE_S = 3.0
STOP = "stop.json"
MOST_ON_ROBOT = 20
"""Running loops that a robot is in; each has a thread."""


class RunningLoop:
    """One loop and its thread; see Loop for what it does.

    Args:
        folder: its own.
        order: see LoopOrder.
        engine: see LoopEngine; None shows what was done before only.
    """

    def __init__(self, folder: Path, order: LoopOrder, engine: LoopEngine | None) -> None:
        self.folder, self.order, self._engine = folder, order, engine
        self._why, self._over = "", threading.Event()
        self._progress: tuple[str, int, int, str] = ("", 0, 0, "")
        self._revision = 0
        self._thread: threading.Thread | None = None
        end = folder / "end.json"
        self.end = LoopEnd(**json.loads(end.read_text())) if end.exists() else None

    def begin(self) -> None:
        """Go round, on a thread of its own."""
        if self._engine is None:
            return
        for past in ("end.json", STOP):
            (self.folder / past).unlink(missing_ok=True)
        self.end, self._why = None, ""
        self._over.clear()
        self._thread = threading.Thread(
            target=self._work, args=(self._engine,), name=self.order.config.name, daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it goes round."""
        return self._thread is not None and self._thread.is_alive()

    def take_up(self) -> None:
        """After a restart: go on, unless somebody had stopped it before."""
        if (stop := self.folder / STOP).exists():
            self._finish("stopped", str(json.loads(stop.read_text())["why"]))
        else:
            self.begin()

    def stop(self, why: str) -> None:
        """End it after what it does now; CLOSING leaves it to the next start, but what was stopped stays so."""
        if why != CLOSING:  # first: whoever is answered relies on it, whatever becomes of this process
            write_durably(self.folder / STOP, json.dumps({"why": why}).encode())
        self._why = self._why or why
        self._revision += 1
        self._over.set()

    def join(self, timeout_s: float) -> None:
        """Wait until it rests."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def view(self) -> LoopView:
        """Return what is known of it now."""
        path, order, end = self.folder / "history.json", self.order, self.end
        history = cast(LoopHistory, json.loads(path.read_text()) if path.exists() else {})
        step, done, total, note = self._progress if end is None else ("", 0, 0, "")
        return LoopView(
            order.config.name, order.robots, order.by, order.at_ns, RUNNING if end is None else end.state,
            "" if end is None else end.reason, step, done, total, note, bool(self._why) and end is None, history,
            self._revision,
        )  # fmt: skip

    def left_s(self) -> float:
        """See Loops.left_s()."""
        path = self.folder / "history.json"
        history = cast(LoopHistory, json.loads(path.read_text()) if path.exists() else {})
        done = len(history.get("rounds", ()))
        if not self.running or not done:
            return 0.0
        since_s = time.time() - path.stat().st_mtime  # the file is written after each round
        return max(0.0, (self.order.config.rounds - done) * float(history["seconds"]) / done - since_s)

    # what Loop reports to ----------------------------------------------------------------------------------------

    def step(self, name: str) -> None:
        """See loop.Shows."""
        self._progress = (name, 0, 0, "")
        self._revision += 1
        LOG.info("loop_step loop=%s robots=%s step=%s", self.order.config.name, ",".join(self.order.robots), name)

    def advance(self, done: int, total: int, note: str) -> None:
        """See loop.Shows."""
        if (news := (self._progress[0], done, total, note)) != self._progress:
            self._progress = news
            self._revision += 1

    def wait(self, seconds: float) -> bool:
        """See loop.Shows."""
        return self._over.wait(seconds)

    def _work(self, engine: LoopEngine) -> None:
        config, robots = self.order.config, self.order.robots
        try:
            loop = Loop(self.folder, config, robots, self.order.by, engine, ended=lambda: self._why, shows=self)
            self._finish("done", str(loop.run()["state"]))
        except ClosingError:
            LOG.info("loop_rests loop=%s robots=%s", config.name, ",".join(robots))
        except LoopStoppedError as error:
            self._finish("stopped", f"{error}")
        except GymnastError as error:
            self._failed(f"{type(error).__name__}: {error}")
        except Exception as error:  # whatever a step does wrong ends its loop, which nobody waits for then
            LOG.exception("loop_failed loop=%s", config.name)
            self._failed(f"{type(error).__name__}: {error}; the trainer's log has the rest")

    def _failed(self, reason: str) -> None:
        """A step failed; while this process ends, or after somebody stopped the loop, that is no failure of its own."""
        if self._why == CLOSING:
            LOG.info("loop_rests loop=%s cut_off=%s", self.order.config.name, reason)
        elif self._why:
            self._finish("stopped", self._why)
        else:
            self._finish("failed", reason)

    def _finish(self, state: str, reason: str) -> None:
        end = LoopEnd(state, reason)
        write_durably(self.folder / "end.json", json.dumps(asdict(end)).encode())
        self.end = end
        self._revision += 1


class Loops:
    """All loops of a trainer; those under way go on at start.

    Args:
        root: their folder.
        engine_of: tenant -> what computes and moves its arms; None where this trainer moves none; old ones can be
            looked at.
    """

    def __init__(self, root: Path, engine_of: Callable[[str], LoopEngine] | None) -> None:
        self._root, self._engine_of = root, engine_of
        self._lock = threading.Lock()
        self._loops: dict[tuple[str, str], RunningLoop] = {}
        for path in sorted(root.glob("*/*/order.json")):
            order = LoopOrder.from_json(json.loads(path.read_text()))
            loop = self._loops[order.tenant, order.config.name] = self._made(order)
            if loop.end is None:
                loop.take_up()

    def start(self, tenant: str, config: LoopConfig, *, robots: Sequence[str], by: str) -> LoopView:
        """Begin a loop, or go on with the one of this name; one that runs is left alone.

        Args:
            tenant: the robots' tenant.
            config: what to do; of a loop that was begun before, rounds and stop conditions alone may differ.
            robots: their names.
            by: the person.

        Raises:
            ConfigError: a loop of this name was begun with other settings or on other robots.
            OccupiedError: one of the robots is in MOST_ON_ROBOT loops.
            NotPossibleError: this trainer moves no arm.
            NotPermittedError: the job's settings reach out of the trainer in a way that was not allowed.
        """
        if self._engine_of is None:
            raise NotPossibleError("this trainer moves no arm; one started with `gymnast serve` does")
        with self._lock:
            known = self._loops.get((tenant, config.name))
            robots = tuple(robots)
            if known is not None and sorted(known.order.robots) != sorted(robots):
                raise ConfigError(
                    f"loop {config.name} runs on {named(known.order.robots)}, not {named(robots)}; choose another name"
                )
            robots = robots if known is None else known.order.robots
            if known is not None and known.running:
                return known.view()
            for robot in robots:
                if len(self.on(tenant, robot)) >= MOST_ON_ROBOT:
                    raise OccupiedError(f"{robot} is in {MOST_ON_ROBOT} loops; wait for them or stop some first")
            config = self._filled(tenant, config, None if known is None else known.order.config)
            self._engine_of(tenant).check(config.job.to_json(), config.world_model)
            config = config.changed(robots=robots)
            loop = self._made(LoopOrder(tenant, robots, by, time.time_ns(), config))
            StepFile(loop.folder / "state.json", config.to_json())
            write_durably(loop.folder / "order.json", json.dumps(loop.order.to_json(), indent=1).encode())
            loop.begin()
            self._loops[tenant, config.name] = loop
        return loop.view()

    def stop(self, tenant: str, name: str, *, by: str) -> LoopView:
        """End a loop after what it does now: an order to the robot, a pair of a trial, an update of a training job.

        Raises:
            NotPossibleError: it is not running.
        """
        loop = self._loops.get((tenant, name))
        if loop is None or not loop.running:
            raise NotPossibleError(f"loop {name!r} is not running; there is nothing to stop")
        loop.stop(f"stopped by {by}")
        return loop.view()

    def left_s(self, tenant: str, name: str) -> float:
        """Return how long a loop takes for all rounds that are left, by those it did (s); 0 where nobody can say."""
        loop = self._loops.get((tenant, name))
        return 0.0 if loop is None else loop.left_s()

    def get(self, tenant: str, name: str) -> LoopView:
        """Return one.

        Raises:
            NotFoundError: the tenant has none of this name.
        """
        if (loop := self._loops.get((tenant, name))) is None:
            raise NotFoundError(f"there is no loop {name!r}; choose one from the list")
        return loop.view()

    def on(self, tenant: str, robot: str) -> list[LoopView]:
        """Return the running loops of a tenant that a robot is in, in the order in which they were taken up."""
        found = [loop for (whose, _), loop in list(self._loops.items()) if whose == tenant and loop.running]
        views = [loop.view() for loop in found if robot in loop.order.robots]
        return sorted(views, key=lambda view: view.at_ns)

    def of(self, tenant: str) -> list[LoopView]:
        """Return a tenant's, the one that was taken up last first."""
        views = [loop.view() for (whose, _), loop in list(self._loops.items()) if whose == tenant]
        return sorted(views, key=lambda view: -view.at_ns)

    def tenants(self) -> set[str]:
        """Return those that have a loop."""
        return {tenant for tenant, _ in list(self._loops)}

    def version(self, tenant: str) -> int:
        """Return what changes whenever something of a tenant's loops does."""
        return sum(view.revision + 1 for view in self.of(tenant))

    def close(self) -> None:
        """Rest after the steps at hand; another process may go on."""
        loops = [loop for loop in self._loops.values() if loop.running]
        for loop in loops:
            loop.stop(CLOSING)
        for loop in loops:
            loop.join(CLOSE_S)

    def _filled(self, tenant: str, config: LoopConfig, before: LoopConfig | None) -> LoopConfig:
        """The models that were left to the trainer: those it began with, else its newest."""
        assert self._engine_of is not None
        engine = self._engine_of(tenant)
        found: dict[str, Any] = {
            kind: getattr(before, kind) if before else engine.newest(kind)
            for kind in ("world_model", "judge")
            if not getattr(config, kind)
        }
        return config.changed(**found)

    def _made(self, order: LoopOrder) -> RunningLoop:
        folder = self._root / checked_id(order.tenant, "tenant") / checked_id(order.config.name, "loop")
        folder.mkdir(parents=True, exist_ok=True)
        engine = None if self._engine_of is None else self._engine_of(order.tenant)
        return RunningLoop(folder, order, engine)

"""Orders to robots: kept here until the robot asks, because it is the robot that connects."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from cloud_trainer.progress import ClosingError
from cloud_trainer.service.adapter_drops import AdapterDrops
from cloud_trainer.service.robots import RobotBoard
from gymnast_core.authority import Who
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonObject, JsonValue
from gymnast_core.orders import (
    CheckpointAnswer,
    EpisodeAnswer,
    EvaluationAnswer,
    Order,
    OrderError,
    OrderNews,
    PracticeAnswer,
    PracticeFigures,
    RobotOccupiedError,
    answer_of,
)
from gymnast_core.practice import PracticeAsked
from gymnast_core.robot_status import AdapterStatus, RobotStatus, WeightsStatus

PICK_UP_S = 30.0
"""Longest wait until a robot takes an order; it reports once a second."""
FRESH_S = 30.0
"""A report that is older says nothing about now."""
OCCUPIED_S = 3600.0
"""Longest wait for what a robot does for somebody else, e.g. a person's evaluation at the robot."""
OCCUPIED_AGAIN_S = 5.0
QUIET_S = 3.0
"""A robot at an order speaks of it once a second."""
LOOK_S = 1.0
"""How soon an order is withdrawn that nobody waits for any more."""
NEXT_S = 0.2
"""How long the reply that ends an order waits for the one after it."""
PIECE = 10
"""Start states that a flow has evaluated in one turn, so that what is more urgent need not wait for all of them."""
PUT_RIGHT = ("swap", "attach", "rollback")
"""What a flow that was stopped may still have to do."""


class Turn(Protocol):
    """Waits until it is a flow's turn on its robot, and holds it meanwhile; see flows.queue_turns."""

    def __call__(
        self, what: str, *, must: bool = False, withdrawn: Callable[[], bool] = ...
    ) -> AbstractContextManager[None]:
        """Hold it for one step."""
        ...


def _never() -> bool:
    return False


@contextmanager
def no_queue(what: str, *, must: bool = False, withdrawn: Callable[[], bool] = _never) -> Iterator[None]:
    """Hold a robot that nobody else asks anything of."""
    yield


@dataclass
class _Given:
    order: Order
    heard_s: float | None = None
    """When the robot last spoke of it; None before it has taken it."""
    news: OrderNews | None = None


class RobotOrders:
    """One order at a time for every robot, of the flow that has it by its queue. Threads may share it.

    Nothing is kept over a restart: a robot whose order is no longer repeated ends what it is doing, and the flow, which
    remembers its steps itself, asks for it again.

    Attributes:
        drops: what robots shall detach, beside what they are ordered to do.
    """

    def __init__(self, *, pick_up_s: float = PICK_UP_S, next_s: float = NEXT_S) -> None:
        self._pick_up_s, self._next_s, self.drops = pick_up_s, next_s, AdapterDrops()
        self._changed = threading.Condition()
        self._given: dict[tuple[str, str], _Given] = {}
        self._closing = False

    def close(self) -> None:
        """Wait no longer for robots that are not at it: this process ends."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def give(
        self, tenant: str, robot: str, kind: str, spec: JsonObject, timeout_s: float,
        *, by: str = "", paused: Callable[[], bool] = _never, withdrawn: Callable[[], bool] = _never,
    ) -> JsonObject:  # fmt: skip
        """Have a robot do something; returns what it reported, or withdraws the order.

        Args:
            tenant: the robot's tenant.
            robot: its name.
            kind: see gymnast_core.orders.
            spec: the call's arguments.
            timeout_s: longest wait.
            by: see Order.
            paused: whether an e-stop holds the robot up; the wait then begins anew.
            withdrawn: asked about once a second; where it holds nobody waits for this any more.

        Raises:
            ClosingError: this process ends, and the robot has not taken the order, or speaks of it no longer.
            RobotOccupiedError: it does something for somebody else.
            OrderError: it did not take the order, did not end in time, refused or failed; or another is under way.
        """
        key, given = (tenant, robot), _Given(Order(secrets.token_hex(8), kind, dict(spec), by))
        began = time.monotonic()
        with self._changed:
            if key in self._given:
                raise OrderError(f"{robot} does {self._given[key].order.kind} already; wait until that is done")
            self._given[key] = given
            self._changed.notify_all()
            try:
                while given.news is None:
                    taken = given.heard_s is not None
                    limit_s = timeout_s if taken else min(timeout_s, self._pick_up_s)
                    left_s = began + limit_s - time.monotonic()
                    if self._closing and time.monotonic() - (given.heard_s or 0.0) > QUIET_S:
                        raise ClosingError(f"the trainer ends while {robot} has {kind} before it")
                    if withdrawn():
                        raise OrderError(f"{kind} was withdrawn from {robot}")
                    if left_s <= 0 and paused():
                        began = time.monotonic()
                        continue
                    if left_s <= 0:
                        missing = "did not end" if taken else "was not taken"
                        raise OrderError(f"{kind} {missing} within {limit_s:.0f} s by {robot}; does it report?")
                    self._changed.wait(min(left_s, LOOK_S))
            finally:
                del self._given[key]
        if given.news.error:
            raise (RobotOccupiedError if given.news.occupied else OrderError)(f"{robot}: {given.news.error}")
        return given.news.result

    def under_way(self, tenant: str, robot: str) -> str:
        """Return what a robot is asked to do now, for people; empty when nothing is."""
        with self._changed:
            given = self._given.get((tenant, robot))
        return (
            ""
            if given is None
            else f"{given.order.kind} waits for it{f', for {given.order.by}' if given.order.by else ''}"
        )

    def heard(self, who: Who, news: OrderNews | None) -> Order | None:
        """Take in what a robot reports of its order; returns what it shall be doing now."""
        key = (who.tenant, who.name)
        with self._changed:
            given = self._given.get(key)
            if news is not None and given is not None and given.order.order_id == news.order_id:
                given.heard_s = time.monotonic()
                if news.done:
                    given.news = news
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._waiting(key) is not None, self._next_s)
            return self._waiting(key)

    def _waiting(self, key: tuple[str, str]) -> Order | None:
        given = self._given.get(key)
        return given.order if given is not None and given.news is None else None


class OrderedRobot:
    """A robot as the trainer reaches it: its reports, and orders in reply to them.

    Args:
        orders: of the service.
        board: of the service.
        tenant: the robot's tenant.
        name: as in its certificate.
        by: in whose name it is ordered about, see Order.
        turns: of its queue.
    """

    def __init__(
        self, orders: RobotOrders, board: RobotBoard, tenant: str, name: str, by: str = "",
        turns: Turn = no_queue,
    ) -> None:  # fmt: skip
        self._orders, self._board, self._tenant, self._name, self._by = orders, board, tenant, name, by
        self._turns, self._held, self._held_up = turns, False, ""

    @property
    def policy_version(self) -> str:
        """Checkpoint in force, as last reported."""
        return str(self._status().get("policy_version", ""))

    @property
    def adapters(self) -> Sequence[AdapterStatus]:
        """That stand beside what is in force, as last reported."""
        return self._status().get("weights", WeightsStatus()).get("adapters", [])

    @property
    def stopped(self) -> bool:
        """Whether it said within the last seconds that its arm is stopped."""
        report = self._board.find(self._tenant, self._name)
        return report is not None and bool(report.status.get("estop")) and report.age_s() < FRESH_S

    @property
    def unable(self) -> str:
        """Why it does nothing that it is ordered to now; empty when it does."""
        report = self._board.find(self._tenant, self._name)
        if report is None:
            return "it has not reported since this trainer was started"
        if report.age_s() > FRESH_S:
            return f"silent for over {FRESH_S:.0f} s"
        if report.status.get("estop"):
            return f"stopped ({report.status.get('estop_reason') or 'e-stop'}); re-arm it at the robot"
        if not report.status.get("takes_orders"):
            return "it takes no orders; start it with `gymnast up --orders`"
        return self._held_up

    @contextmanager
    def turn(self, what: str, *, must: bool = False, withdrawn: Callable[[], bool] = _never) -> Iterator[None]:
        """Hold the robot for one step, once it is the flow's turn; inside a step it goes on at once."""
        if self._held:
            yield
            return
        self._held_up = "it waits for its turn in the robot's queue"
        try:
            with self._turns(what, must=must, withdrawn=withdrawn):
                self._held, self._held_up = True, ""
                yield
        finally:
            self._held, self._held_up = False, ""

    def evaluate(
        self, *, tasks: Sequence[str], seed_start: int, seed_count: int, timeout_s: float,
        withdrawn: Callable[[], bool] = _never, **asked: JsonValue,
    ) -> Sequence[EpisodeAnswer]:  # fmt: skip
        """Run episodes, a few in each turn; see GraphClient, and RobotOrders.give for withdrawn.

        Fewer than asked for where it was cancelled there.

        Raises:
            OrderError: see RobotOrders.give; or it answers with episodes that nobody asked for.
        """
        rows: list[EpisodeAnswer] = []
        for first in range(seed_start, seed_start + seed_count, PIECE):
            size = min(PIECE, seed_start + seed_count - first)
            part: JsonObject = {
                **asked, "tasks": list(tasks), "seed_start": first, "seed_count": size, "timeout_s": timeout_s,
            }  # fmt: skip
            what = f"{first - seed_start + size} of {seed_count} starts of {', '.join(tasks)}"
            with self.turn(what, withdrawn=withdrawn):
                found = self._evaluated(tasks, range(first, first + size), part, timeout_s, withdrawn)
            rows += found
            if len(found) < size * len(tasks):
                break
        return rows

    def _evaluated(
        self, tasks: Sequence[str], seeds: range, asked: JsonObject, timeout_s: float, withdrawn: Callable[[], bool]
    ) -> Sequence[EpisodeAnswer]:
        result = self._give("evaluate", {**asked, **_resumable()}, timeout_s, withdrawn)
        found = answer_of(EvaluationAnswer, self._name, "evaluate", result)
        wanted = {task.strip().lower() for task in tasks}
        for row in found.episodes:
            known = not wanted.isdisjoint((row.task.strip().lower(), row.instruction.strip().lower()))
            if not known or row.seed not in seeds:
                raise OrderError(
                    f"{self._name} answered evaluate with an episode that was not asked for: task {row.task[:80]!r}, "
                    f"seed {row.seed}"
                )
        return found.episodes

    def run_episode(self, *, timeout_s: float = 300.0, **asked: JsonValue) -> EpisodeAnswer:
        """Run one episode; see GraphClient. Who labelled it is the robot's word, and marked as such.

        Raises:
            OrderError: see RobotOrders.give.
        """
        result = self._give("run_episode", {**asked, "timeout_s": timeout_s, **_resumable()}, timeout_s)
        row = answer_of(EpisodeAnswer, self._name, "run_episode", result)
        if not row.labelled_by:
            return row
        return row.model_copy(update={"labelled_by": f"robot:{self._name}/{row.labelled_by}"})

    def practise(
        self, asked: PracticeAsked, timeout_s: float, withdrawn: Callable[[], bool] = _never
    ) -> PracticeFigures:
        """Practise; see GraphClient.

        Raises:
            OrderError: see RobotOrders.give.
        """
        spec: JsonObject = asked.model_dump(mode="json", exclude_defaults=True)
        result = self._give("practise", spec, timeout_s, withdrawn)
        return answer_of(PracticeAnswer, self._name, "practise", result).practice

    def flush(self, timeout_s: float) -> None:
        """Wait until every episode is at the trainer."""
        self._give("flush", {"timeout_s": timeout_s}, timeout_s + 15.0)

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float) -> None:
        """Wait until the robot holds these checkpoints."""
        spec: JsonObject = {"checkpoint_ids": list(checkpoint_ids), "timeout_s": timeout_s}
        self._give("wait_staged", spec, timeout_s + 15.0)

    def swap(self, checkpoint_id: str) -> str:
        """Put a staged checkpoint in force."""
        result = self._give("swap", {"checkpoint_id": checkpoint_id}, 60.0)
        return answer_of(CheckpointAnswer, self._name, "swap", result).value

    def attach(self, checkpoint_id: str, *, scene: str, recogniser: JsonObject) -> str:
        """Have a staged checkpoint drive in one scene alone, beside what is in force; returns the latter's id."""
        asked: JsonObject = {"checkpoint_id": checkpoint_id, "scene": scene, "recogniser": recogniser}
        return answer_of(CheckpointAnswer, self._name, "attach", self._give("attach", asked, 60.0)).value

    def detach(self, checkpoint_id: str) -> None:
        """Have what is in force drive there again; see AdapterDrops.drop."""
        self._orders.drops.drop(self._tenant, self._name, checkpoint_id)

    def rollback(self) -> str:
        """Return to the checkpoint before."""
        return answer_of(CheckpointAnswer, self._name, "rollback", self._give("rollback", {}, 60.0)).value

    def _give(
        self, kind: str, spec: JsonObject, timeout_s: float, withdrawn: Callable[[], bool] = _never
    ) -> JsonObject:
        """Order it, once it is the flow's turn and the robot has done what people at it run."""
        self._status()
        with self.turn(kind.replace("_", " "), must=kind in PUT_RIGHT, withdrawn=withdrawn):
            return self._given(kind, spec, timeout_s, withdrawn)

    def _given(self, kind: str, spec: JsonObject, timeout_s: float, withdrawn: Callable[[], bool]) -> JsonObject:
        until, given_s = time.monotonic() + OCCUPIED_S, time.monotonic()

        def over() -> bool:
            if time.monotonic() - given_s > OCCUPIED_AGAIN_S:  # it would have refused by now
                self._held_up = ""
            return withdrawn()

        while True:
            self._status()
            given_s = time.monotonic()
            try:
                result = self._orders.give(
                    self._tenant, self._name, kind, spec, timeout_s, by=self._by, paused=lambda: self.stopped,
                    withdrawn=over,
                )  # fmt: skip
                self._held_up = ""
                return result
            except RobotOccupiedError as error:
                if time.monotonic() > until or withdrawn():
                    raise
                self._held_up = f"{error}"
                time.sleep(OCCUPIED_AGAIN_S)

    def _status(self) -> RobotStatus:
        """What it last said.

        Raises:
            ConfigError: it never reported, or whoever started it lets nobody order it.
        """
        report = self._board.find(self._tenant, self._name)
        if report is None:
            raise ConfigError(f"robot {self._name!r} has not reported here; is its bridge running and enrolled?")
        if not report.status.get("takes_orders"):
            raise ConfigError(f"{self._name} takes no orders; start it with `gymnast up --orders` (orders:=true)")
        return report.status


def _resumable() -> JsonObject:
    """A name for what is asked, by which a robot that was started again goes on where it was."""
    return {"resume": f"step-{secrets.token_hex(8)}"}

"""A robot as a flow drives it: calls that become orders, each in its turn, answered by what the robot reports."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from cloud_trainer.service.orders import RobotOrders, never
from cloud_trainer.service.robots import RobotBoard
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonObject, JsonValue
from gymnast_core.orders import (
    CheckpointAnswer,
    EpisodeAnswer,
    EvaluationAnswer,
    OrderError,
    PracticeAnswer,
    PracticeFigures,
    RobotOccupiedError,
    answer_of,
)
from gymnast_core.practice import PracticeAsked
from gymnast_core.robot_status import AdapterStatus, RobotStatus, WeightsStatus

FRESH_S = 30.0
"""A report that is older says nothing about now."""
OCCUPIED_S = 3600.0
"""Longest wait for what a robot does for somebody else, e.g. a person's evaluation at the robot."""
OCCUPIED_AGAIN_S = 5.0
PIECE = 10
"""Start states that a flow has evaluated in one turn, so that what is more urgent need not wait for all of them."""
PUT_RIGHT = ("swap", "attach", "rollback")
"""What a flow that was stopped may still have to do."""
IN_WORDS = {
    "run_episode": "an episode", "evaluate": "start states", "practise": "practice",
    "flush": "episodes on their way to the trainer", "wait_staged": "fetching checkpoints",
    "swap": "another checkpoint", "attach": "attaching an adapter", "rollback": "rolling back",
}  # fmt: skip
"""What a queue shows of each kind of order."""


class Turn(Protocol):
    """Waits until it is a flow's turn on its robot, and holds it meanwhile; see flows.queue_turns."""

    def __call__(
        self, what: str, *, must: bool = False, withdrawn: Callable[[], bool] = ...
    ) -> AbstractContextManager[None]:
        """Hold it for one step."""
        ...


@contextmanager
def no_queue(what: str, *, must: bool = False, withdrawn: Callable[[], bool] = never) -> Iterator[None]:
    """Hold a robot that nobody else asks anything of."""
    yield


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
    def turn(self, what: str, *, must: bool = False, withdrawn: Callable[[], bool] = never) -> Iterator[None]:
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
        withdrawn: Callable[[], bool] = never, **asked: JsonValue,
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
        self, asked: PracticeAsked, timeout_s: float, withdrawn: Callable[[], bool] = never
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

    def _give(self, kind: str, spec: JsonObject, timeout_s: float, withdrawn: Callable[[], bool] = never) -> JsonObject:
        """Order it, once it is the flow's turn and the robot has done what people at it run."""
        self._status()
        with self.turn(IN_WORDS[kind], must=kind in PUT_RIGHT, withdrawn=withdrawn):
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

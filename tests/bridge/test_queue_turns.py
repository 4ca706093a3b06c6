"""Trials, adaptations and loops take their turns on a robot by its queue; nothing starves, and nothing runs beside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from cloud_trainer.flows.arms import Errand, WithdrawnError
from cloud_trainer.flows.queue_book import QueueBook
from cloud_trainer.flows.queue_dispatch import QueueDispatch
from cloud_trainer.flows.queue_rules import AGE_S, Range, next_range, ordered
from cloud_trainer.flows.queue_turns import LINGER_S, QueueTurns
from cloud_trainer.progress import ClosingError
from cloud_trainer.store.database import Database
from cloud_trainer.store.sql_queue import QueueRow, SqlQueueStore, StartRow, new_entry_id
from gymnast_core.orders import Order, OrderNews
from gymnast_core.queue import StartsSpec
from gymnast_core.wire.identity import Peer
from tests.bridge.test_queue import rows_of, until

WX1, KEY = Peer("wx-1", "robot", "default"), ("default", "wx-1")
IDLE = {"state": "idle", "takes_orders": True, "policy_version": "policy-a"}
TRIAL, OTHER = (Errand("ana", "trial", f"trial-{n}", "gymnast operate stop-trial") for n in "ab")


class Queues:
    """Book, dispatch and turns over a database, with a clock that can be set forward."""

    def __init__(self, database: Database) -> None:
        self.ahead_s, self.over = 0.0, ""
        self.book = QueueBook(SqlQueueStore(database), clock_s=lambda: time.monotonic() + self.ahead_s)
        self.dispatch = QueueDispatch(self.book)
        self.turns = QueueTurns(self.book, self.dispatch, lambda tenant, kind, flow: self.over)

    def heard(self, news: OrderNews | None = None, **status: object) -> Order | None:
        return self.dispatch.heard(WX1, news, {**IDLE, **status})  # type: ignore[typeddict-item]

    def add(self, priority: int = 5, **fields: object) -> QueueRow:
        now_ns, entry_id = time.time_ns(), new_entry_id()
        spec = StartsSpec(tasks=("lift",), seed_start=0, seed_count=10, checkpoint="policy-a").to_json()
        row = QueueRow(
            entry_id, "default", entry_id, "evaluation", "", "lift", ("wx-1",), spec, priority, 0, "ana", total=10,
            created_ns=now_ns, since_ns=now_ns,
        )  # fmt: skip
        with self.book.changed:
            added = self.book.store.add(replace(row, **fields))  # type: ignore[arg-type]
            self.book.keep(added)
        return added

    def turn(self, errand: Errand, **options: object):
        return self.turns.turn("default", "wx-1", errand, "a pair", **options)  # type: ignore[arg-type]

    @contextmanager
    def waiting(self, errand: Errand, **options: object) -> Iterator[Waiter]:
        waiter = Waiter(lambda: self.turn(errand, **options))
        waiter.start()
        until(lambda: any(row.flow == errand.flow_id for row in self.book.open_of("default")), "it stands in the queue")
        try:
            yield waiter
        finally:
            waiter.go.set()
            waiter.join(20)


class Waiter(threading.Thread):
    """A flow's thread: takes one turn, and keeps it until `go`."""

    def __init__(self, turn: Callable) -> None:
        super().__init__(daemon=True)
        self.turn, self.has, self.go = turn, threading.Event(), threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self.turn():
                self.has.set()
                self.go.wait(60)
        except Exception as error:  # noqa: BLE001
            self.error = error


@pytest.fixture
def queues(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    queues = Queues(database)
    queues.heard()
    yield queues
    queues.book.close()
    database.close()


def test_a_robot_in_a_turn_gets_no_portion_and_one_with_a_portion_no_turn(queues):
    with queues.turn(TRIAL):
        entry = queues.add()
        assert queues.heard() is None
        [held] = [row for row in queues.book.open_of("default") if row.flow]
        assert (held.kind, held.flow, held.state, held.what, held.asked_by) == (
            "trial", "trial-a", "running", "a pair", "ana"
        )  # fmt: skip
    queues.ahead_s += LINGER_S
    order = queues.heard()
    assert order is not None
    with queues.waiting(TRIAL) as trial:
        assert queues.heard(OrderNews(order.order_id)) == order
        assert not trial.has.wait(0.3), "what is in hand is done first"
        second = queues.heard(OrderNews(order.order_id, done=True, result=rows_of(order)))
        assert second is None, "the trial stood first"
        assert trial.has.wait(20)
        assert len(queues.book.starts(entry.entry_id)) == 5


def test_the_higher_priority_goes_first_and_of_one_priority_the_first_come(queues):
    with queues.waiting(TRIAL) as trial, queues.waiting(OTHER) as other:
        assert trial.has.wait(20)
        urgent = queues.add(priority=8)
        trial.go.set()
        trial.join(20)
        assert queues.heard() is not None, "the turn is over, and the urgent entry goes before both flows"
        assert queues.book.portions[KEY].entry_id == urgent.entry_id
        assert not other.has.is_set()
        queues.over = "that was all"


def test_a_flow_keeps_its_place_between_two_turns(queues):
    with queues.turn(TRIAL):
        pass
    queues.add()
    assert queues.heard() is None, "the trial comes back in a moment"
    with queues.turn(TRIAL):
        assert queues.heard() is None
    queues.ahead_s += LINGER_S
    assert queues.heard() is not None, "it does not come back"


def test_nothing_starves_whatever_comes_in_above_it(queues):
    low = queues.add(priority=2)
    rows = [low, *(queues.add(priority=4) for _ in range(3))]
    assert ordered(rows, low.since_ns)[-1] == low
    waited = replace(low, since_ns=low.since_ns - int(3 * AGE_S * 1e9))
    assert ordered([waited, *rows[1:]], low.since_ns)[0] == waited


def test_a_flow_that_is_stopped_waits_no_longer_but_for_what_puts_something_right(queues):
    with queues.turn(TRIAL), queues.waiting(OTHER) as other, queues.waiting(OTHER, must=True) as needed:
        queues.over = "stopped by ana"
        other.join(20)
        assert isinstance(other.error, WithdrawnError)
        assert "stopped by ana" in str(other.error)
        assert not needed.has.is_set()


def test_a_flow_that_is_taken_out_of_the_queue_ends(queues):
    with queues.turn(TRIAL), queues.waiting(OTHER) as other:
        [row] = [row for row in queues.book.open_of("default") if row.flow == OTHER.flow_id]
        with queues.book.changed:
            queues.book.put(replace(row, state="cancelled", reason="by bea"))
        other.join(20)
        assert isinstance(other.error, WithdrawnError)
        assert "by bea" in str(other.error)


def test_who_waits_while_this_process_ends_goes_on_in_the_next_one_at_the_same_place(queues, tmp_path):
    with queues.turn(TRIAL), queues.waiting(OTHER) as other:
        queues.book.close()
        other.join(20)
        assert isinstance(other.error, ClosingError)
    again = QueueBook(SqlQueueStore(queues.book.store._database))
    assert [row.flow for row in again.open_of("default")] == ["trial-a", "trial-b"]


@pytest.mark.parametrize("status", [
    {"estop": True}, {"state": "running"}, {"takes_orders": False}, {"spool": {"entries": 9, "bytes": 9, "full": True}},
])  # fmt: skip
def test_a_robot_that_is_stopped_busy_or_full_gets_nothing_new(queues, status):
    queues.add()
    assert queues.heard(**status) is None
    assert queues.heard() is not None


def test_a_robot_occupied_by_people_at_it_is_asked_again_however_often(queues):
    entry = queues.add()
    for _ in range(6):
        order = queues.heard()
        assert order is not None
        assert queues.heard(OrderNews(order.order_id, done=True, error="RobotBusyError: busy", occupied=True)) is None
        queues.ahead_s += 10.0
    assert not queues.book.entry("default", entry.entry_id).paused


def test_robots_that_share_an_entry_get_what_is_left_in_small_portions():
    spec = StartsSpec(tasks=("lift", "push"), seed_start=10, seed_count=20)
    assert next_range(spec, set(), 1) == Range(("lift", "push"), 10, 5)
    assert next_range(spec, set(), 10) == Range(("lift", "push"), 10, 2)
    gaps = {("lift", 10), ("lift", 11), *((task, seed) for task in spec.tasks for seed in range(13, 30))}
    assert next_range(spec, gaps, 1) == Range(("push",), 10, 2)
    assert next_range(spec, gaps | {("push", 10), ("push", 11)}, 3) == Range(("lift", "push"), 12, 1)
    assert next_range(spec, {(task, seed) for task in spec.tasks for seed in range(10, 30)}, 1) is None


def test_an_episode_that_is_there_stays_as_it_is(queues):
    entry = queues.add()
    first = StartRow("lift", 3, "wx-1", True, "ep-1", "operator:sim", "", 1)
    with queues.book.changed:
        queues.book.note(entry, [first])
        queues.book.note(queues.book.entries[entry.entry_id], [replace(first, success=False, robot="wx-2")])
    assert queues.book.store.starts(entry.entry_id) == [first]

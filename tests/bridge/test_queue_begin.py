"""Flows that change what a robot runs come one after the other, by its queue's order; a restart keeps who has it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from cloud_trainer.flows.adaptation_engine import CLOSING
from cloud_trainer.flows.arms import Errand, WithdrawnError
from cloud_trainer.flows.queue_begin import QueueBeginnings
from cloud_trainer.flows.queue_book import QueueBook
from cloud_trainer.flows.queue_view import shown_entries
from cloud_trainer.progress import ClosingError
from cloud_trainer.store.database import Database
from cloud_trainer.store.sql_queue import SqlQueueStore
from tests.bridge.test_queue import until

ADAPTATION = Errand("ana", "adaptation", "adapt-a", "gymnast operate step adapt-a cancel")
NIGHT, DAY = (Errand("bea", "loop", name, f"gymnast loop stop {name}") for name in ("night", "day"))


class Beginnings:
    """Beginnings over a database; which flows have ended is set by the test."""

    def __init__(self, database: Database) -> None:
        self.book = QueueBook(SqlQueueStore(database))
        self.ended: dict[str, str] = {}
        self.begins = QueueBeginnings(self.book, lambda tenant, kind, flow: self.ended.get(flow, ""))

    def start(self, errand: Errand, *robots: str) -> Flow:
        flow = Flow(self, errand, robots or ("wx-1",))
        flow.start()
        until(lambda: flow.begun.is_set() or flow.said or flow.error, "it stands in the queue")
        return flow


class Flow(threading.Thread):
    """A flow's thread until it begins."""

    def __init__(self, queues: Beginnings, errand: Errand, robots: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._queues, self.errand, self._robots = queues, errand, robots
        self.begun, self.said, self.why = threading.Event(), "", ""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._queues.begins.begin("default", self._robots, self.errand, lambda: self.why, self._say)
            self.begun.set()
        except Exception as error:  # noqa: BLE001
            self.error = error

    def _say(self, why: str) -> None:
        self.said = why


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    yield database
    database.close()


@pytest.fixture
def queues(database):
    queues = Beginnings(database)
    yield queues
    queues.book.close()


def test_one_begins_when_the_one_before_it_has_ended(queues):
    first, second = queues.start(ADAPTATION), queues.start(NIGHT, "wx-1", "wx-2")
    assert first.begun.is_set()
    assert second.said == "begins after adaptation adapt-a of ana on wx-1"
    found = shown_entries(queues.book, "default", lambda *_: "", lambda *_: 0.0)
    shown = {(entry.row.flow, entry.row.robots): entry for entry in found}
    assert [(one.state, one.note) for key, one in shown.items() if key[0] == "night"] == [("waiting", second.said)] * 2
    assert shown["adapt-a", ("wx-1",)].state == "resting"
    queues.ended["adapt-a"] = "kept"
    assert second.begun.wait(20)
    assert second.said == ""
    [over] = queues.book.store.ended_entries("default", 9)
    assert (over.flow, over.state, over.reason) == ("adapt-a", "done", "kept")


def test_of_those_that_wait_the_first_in_the_queue_begins(queues):
    held = queues.start(ADAPTATION)
    assert held.begun.is_set()
    night, day = queues.start(NIGHT), queues.start(DAY)
    with queues.book.changed:
        [row] = [row for row in queues.book.open_of("default") if row.flow == "day"]
        queues.book.put(replace(row, priority=8))
    queues.ended["adapt-a"] = "cancelled"
    assert day.begun.wait(20)
    until(lambda: night.said == "begins after loop day of bea on wx-1", "the other one waits for it")
    queues.ended["day"] = "done"
    assert night.begun.wait(20)


def test_a_restart_keeps_who_has_the_robot_whatever_the_order_is_by_then(queues, database):
    held, waits = queues.start(NIGHT), queues.start(ADAPTATION)
    assert held.begun.is_set()
    with queues.book.changed:
        [row] = [row for row in queues.book.open_of("default") if row.flow == "adapt-a"]
        queues.book.put(replace(row, priority=9))
    queues.book.close()
    waits.join(20)
    assert isinstance(waits.error, ClosingError)
    again = Beginnings(database)
    waits, held = again.start(ADAPTATION), again.start(NIGHT)
    assert held.begun.is_set(), "it had begun"
    assert waits.said == "begins after loop night of bea on wx-1"
    again.book.close()


def test_a_loop_that_is_started_again_goes_behind_what_came_meanwhile(queues):
    assert queues.start(NIGHT).begun.is_set()
    queues.ended["night"] = "stopped by bea"
    assert queues.start(ADAPTATION).begun.wait(20)
    del queues.ended["night"]
    assert queues.start(NIGHT).said == "begins after adaptation adapt-a of ana on wx-1"


def test_one_that_waits_ends_when_it_is_stopped_taken_out_or_paused_lets_others_go_first(queues):
    assert queues.start(ADAPTATION).begun.is_set()
    night, day = queues.start(NIGHT), queues.start(DAY)
    night.why = "stopped by ana"
    night.join(20)
    assert isinstance(night.error, WithdrawnError)
    night = queues.start(NIGHT)
    for flow, change in (("day", {"paused": True}), ("night", {"state": "cancelled", "reason": "by ana"})):
        with queues.book.changed:
            [row] = [row for row in queues.book.open_of("default") if row.flow == flow]
            queues.book.put(replace(row, **change))
    night.join(20)
    assert "by ana" in str(night.error)
    until(lambda: day.said == "begins after somebody resumes it", "it rests")
    night = queues.start(NIGHT)
    queues.ended["adapt-a"] = "kept"
    assert night.begun.wait(20), "one that rests is in nobody's way"
    day.why = CLOSING
    day.join(20)
    assert isinstance(day.error, ClosingError)


def test_flows_on_other_robots_begin_at_once_and_no_two_wait_for_each_other(queues):
    assert queues.start(ADAPTATION).begun.is_set()
    assert queues.start(DAY, "wx-2").begun.is_set()
    both = queues.start(NIGHT, "wx-1", "wx-2")
    third = queues.start(replace(DAY, flow_id="dusk"), "wx-2", "wx-1")
    with queues.book.changed:  # each of them first in one of the queues
        rows = {(row.flow, row.robots[0]): row for row in queues.book.open_of("default")}
        queues.book.put(replace(rows["dusk", "wx-2"], priority=7), replace(rows["night", "wx-1"], priority=7))
    queues.ended |= {"adapt-a": "kept", "day": "done"}
    deadline = time.monotonic() + 20
    while not (both.begun.is_set() or third.begun.is_set()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (both.begun.is_set() and third.begun.is_set())

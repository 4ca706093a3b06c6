"""What calls a person without anybody asking: robots that stand or fall silent, refusals, loops that failed."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from cloud_trainer.console import User
from cloud_trainer.flows.loop_view import LoopView
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.handlers import QueueRequest
from cloud_trainer.service.page_watch import PageWatch
from cloud_trainer.service.robots import RobotBoard
from gymnast_core.orders import OrderError, OrderNews
from tests.receivers import until

ROBOT = User("wx-1", "robot")
WEIGHTS = {"current": "policy-a", "obeyed": 0, "ran": "", "refused": {}}


class Bench:
    """A service whose watch looks when a test says so, on a clock that passes when a test says so."""

    def __init__(self, folder) -> None:
        self.ahead_s = self.behind_s = 0.0
        self.service = Service(ServiceConfig(folder=folder / "trainer", insecure=True))
        self.service.robots = self.service.handlers.robots.board = RobotBoard(
            0.0, clock_s=lambda: time.monotonic() - self.behind_s
        )
        self.watch = self.watching()

    def watching(self) -> PageWatch:
        service = self.service
        return PageWatch(
            service.pages, service.robots, service.orders, service.words, service.handlers.flows,
            service.queues.book,
            clock_s=lambda: time.monotonic() + self.ahead_s,
        )  # fmt: skip

    def report(self, **status) -> None:
        self.service.robots.post(ROBOT, {"state": "idle", **status}, b"")

    def looked(self) -> list[tuple[str, bool]]:
        """Kinds of the open calls, and whether each is over, after a look."""
        self.watch.look()
        return [(row.kind, bool(row.over_ns)) for row in self.service.pages.store.calls("default", open_only=True)]

    @contextlib.contextmanager
    def at_work(self):
        """An order that the robot does not take, as long as this lasts."""

        def give() -> None:
            with contextlib.suppress(OrderError):
                self.service.orders.give("default", "wx-1", "evaluate", {}, 600.0, by="ada", paused=lambda: self.busy)

        self.busy = True
        thread = threading.Thread(target=give, daemon=True)
        thread.start()
        until(lambda: self.service.orders.under_way("default", "wx-1"), "the order")
        yield
        with self.service.orders._changed:
            given = self.service.orders._given[("default", "wx-1")]
        self.service.orders.heard(ROBOT, OrderNews(given.order.order_id, True, "", {}))
        thread.join(20)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.service.stop()


def test_a_stop_that_holds_up_work_calls_after_minutes_and_is_over_when_it_is_re_armed(bench) -> None:
    bench.report(estop=True, estop_reason="button")
    assert bench.looked() == []
    bench.ahead_s += 3600
    assert bench.looked() == [], "nothing waits for it"
    with bench.at_work():
        assert bench.looked() == []
        bench.ahead_s += 9 * 60
        assert bench.looked() == []
        bench.ahead_s += 2 * 60
        bench.behind_s = 0.0
        bench.report(estop=True, estop_reason="button")
        assert bench.looked() == [("estop", False)]
        [row] = bench.service.pages.store.calls("default")
        assert row.text.startswith("wx-1 is stopped (button); evaluate waits for it, for ada. Look at the arm")
        assert bench.looked() == [("estop", False)]
        assert bench.service.pages.store.calls("default")[0].count == 1
        bench.report(estop=False)
        assert bench.looked() == [("estop", True)]


def test_a_robot_that_falls_silent_with_work_to_do_calls_and_one_without_does_not(bench) -> None:
    bench.behind_s = 200.0
    bench.report()
    assert bench.looked() == []
    with bench.at_work():
        assert bench.looked() == [("robot_silent", False)]
        assert "has not reported for 3 min; evaluate waits for it" in bench.service.pages.store.calls("default")[0].text
        bench.behind_s = 0.0
        bench.report()
        assert bench.looked() == [("robot_silent", True)]


def test_an_entry_of_the_queue_is_work_to_do_and_a_paused_one_is_none(bench) -> None:
    bench.report(estop=True, estop_reason="button", takes_orders=True, policy_version="policy-a")
    asked = {"tasks": ["lift"], "seed_start": 0, "seed_count": 4, "checkpoint": "policy-a"}
    admin = User("ada", "admin")
    request = QueueRequest(kind="evaluation", robots=("wx-1",), spec=asked)
    entry = bench.service.handlers.queue.add(admin, request).row.entry_id
    assert bench.looked() == []
    bench.ahead_s += 11 * 60
    bench.report(estop=True, estop_reason="button")
    assert bench.looked() == [("estop", False)]
    assert "of ada waits for it" in bench.service.pages.store.calls("default")[0].text
    bench.service.handlers.queue.pause(admin, entry)
    assert bench.looked() == [("estop", True)]


def test_a_full_spool_and_an_alarm_call_at_once(bench) -> None:
    bench.report(spool={"entries": 3, "bytes": 9, "full": True}, alarm="the spool is full")
    assert bench.looked() == [("spool_full", False)]
    bench.report(alarm="the trainer refused episode ep-1: no such camera")
    assert sorted(bench.looked()) == [("robot_alarm", False), ("spool_full", True)]
    bench.report()
    assert sorted(bench.looked()) == [("robot_alarm", True), ("spool_full", True)]


def test_a_refused_checkpoint_calls_once_also_over_a_restart(bench) -> None:
    bench.service.words.heard(ROBOT, {**WEIGHTS, "refused": {"policy-b": "probation: 2 of 3 episodes were bad"}})
    assert bench.looked() == [("policy_refused", False)]
    bench.watch = bench.watching()
    assert bench.looked() == [("policy_refused", False)]
    [row] = bench.service.pages.store.calls("default")
    assert (row.robot, row.count) == ("wx-1", 1)
    assert "turned down policy-b: probation: 2 of 3 episodes were bad" in row.text
    bench.service.pages.acknowledge("default", row.page_id, "ada", "")
    bench.watch = bench.watching()
    assert bench.looked() == [], "it was answered"


def test_a_loop_that_failed_calls_once_and_an_old_one_does_not(bench, monkeypatch) -> None:
    loops = bench.service.handlers.flows.loops
    now_ns = time.time_ns()
    views = [
        LoopView("night", ("wx-1",), "ada", now_ns, "failed", "OrderError: wx-1 did not end"),
        LoopView("old", ("wx-1",), "ada", now_ns - 2 * 86_400 * 10**9, "failed", "something"),
        LoopView("fine", ("wx-1", "wx-2"), "ada", now_ns, "stopped", "stopped by ada"),
    ]
    monkeypatch.setattr(loops, "of", lambda tenant: views if tenant == "default" else [])
    for _ in range(2):
        assert bench.looked() == [("loop_failed", False)]
    [row] = bench.service.pages.store.calls("default")
    assert row.text == "loop night of ada failed: OrderError: wx-1 did not end; begun again, it goes on"


def test_the_trainer_looks_by_itself(tmp_path) -> None:
    with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True)) as service:
        service.robots.post(ROBOT, {"state": "idle", "alarm": "the disk is slow"}, b"")
        row = until(lambda: service.pages.store.calls("default"), "the call")[0]
        assert (row.kind, row.text) == ("robot_alarm", "wx-1: the disk is slow")

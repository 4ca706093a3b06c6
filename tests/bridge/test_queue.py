"""The queue of robots from outside: people and robots over mutual TLS, a service that is started again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.handlers import QueueRequest
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_client import Trainer
from gymnast_core.errors import ConfigError, NotPossibleError
from gymnast_core.evaluation.attempts import Attempt, Retry
from gymnast_core.orders import Order, OrderNews
from gymnast_core.queue import StartsSpec
from gymnast_core.wire.errors import NotFoundError, NotPermittedError, QuotaError
from gymnast_core.wire.identity import Peer
from gymnast_ros.uplink.reporter import Reporter, RobotNews, WeightsNews

PATIENCE_S = 60.0
LIFT = StartsSpec(tasks=("lift",), seed_start=7, seed_count=12)
Does = Callable[[Order], "Mapping[str, Any] | None"]


def rows_of(order: Order, *, won: Callable[[int], bool | None] = lambda seed: seed % 2 == 0) -> dict[str, Any]:
    """What a robot answers to an evaluation that went well."""
    spec = order.spec
    seeds = range(spec["seed_start"], spec["seed_start"] + spec["seed_count"])
    return {
        "episodes": [
            {"episode_id": f"ep-{order.order_id}-{seed}", "success": won(seed), "labelled_by": "operator:sim",
             "truncated_reason": "", "task": task, "instruction": task, "seed": seed}
            for seed in seeds for task in spec["tasks"]
        ]
    }  # fmt: skip


def until(true: Callable[[], bool], what: str = "") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what or "it did not happen in time"
        time.sleep(0.02)


class Arm:
    """A robot's end without its arm: a thread does one order after the other, as the robot's own order taker does."""

    def __init__(self, address: str, identity: Path, does: Does = rows_of, *, runs: str = "policy-a"):
        self.taken: list[Order] = []
        self.free = threading.Event()
        self.free.set()
        self._does, self._runs = does, runs
        self._news: OrderNews | None = None
        self._wake = threading.Event()
        self._closing = False
        self._reporter = Reporter(address, identity, self._tell, period_s=0.3, take=self._take)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Arm:
        self._reporter.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """It says nothing more."""
        self._closing = True
        self.free.set()
        self._wake.set()
        self._reporter.stop()
        self._thread.join(10)

    @property
    def seeds(self) -> list[int]:
        """Every start state it was told to run, in order."""
        return [
            seed for order in self.taken
            for seed in range(order.spec["seed_start"], order.spec["seed_start"] + order.spec["seed_count"])
        ]  # fmt: skip

    def _tell(self) -> RobotNews:
        busy = self._news is not None and not self._news.done
        return RobotNews(
            state="running" if busy else "idle", policy_version=self._runs, takes_orders=True, order=self._news,
            weights=WeightsNews(current=self._runs, held=[self._runs]),
        )  # fmt: skip

    def _take(self, order: Order | None) -> None:
        if order is None:
            self._news = None
        elif self._news is None or self._news.order_id != order.order_id:
            self.taken.append(order)
            self._news = OrderNews(order.order_id)
            self._wake.set()

    def _work(self) -> None:
        while self._wake.wait() and not self._closing:
            self._wake.clear()
            order = self.taken[-1]
            self.free.wait()
            try:
                done = OrderNews(order.order_id, done=True, result=self._does(order) or {})
            except ValueError as error:
                done = OrderNews(order.order_id, done=True, error=f"{error}")
            if self._news is not None and self._news.order_id == order.order_id:
                self._news = done


@pytest.fixture
def ana(service, identities):
    with Trainer(service.address, identities("ana", "operator")) as there:
        yield there


def reporting(service: Service, *names: str) -> None:
    until(lambda: all(service.robots.find("default", name) for name in names), "the robots report")


def test_an_evaluation_waits_in_the_queue_is_done_in_portions_and_has_one_result(service, identities, ana):
    with Arm(service.address, identities("wx-1", "robot")) as arm:
        reporting(service, "wx-1")
        entry = ana.queue.add("evaluation", LIFT)
        assert (entry.robots, entry.total, entry.spec["checkpoint"]) == (("wx-1",), 12, "policy-a")
        until(lambda: ana.queue.get(entry.entry_id).ended, "the evaluation")
    done = ana.queue.get(entry.entry_id)
    assert (done.state, done.done, done.on) == ("done", 12, ())
    assert done.result["all"] | {} == done.result["tasks"]["lift"]
    assert (done.result["all"]["successes"], done.result["all"]["n"]) == (6, 12)
    assert done.result["all"]["low"] < 0.5 < done.result["all"]["high"]
    assert sorted(arm.seeds) == list(range(7, 19))
    assert all(order.spec["checkpoints"] == ["policy-a"] and order.spec["seed_count"] <= 5 for order in arm.taken)
    starts = list(ana.queue.starts(entry.entry_id))
    assert [(row.seed, row.outcome) for row in starts] == [(s, "failure" if s % 2 else "success") for s in range(7, 19)]
    assert starts[0].labelled_by == "robot:wx-1/operator:sim"
    assert [view.entry_id for view in ana.queue.list()] == [entry.entry_id]


def test_three_robots_share_an_evaluation_and_the_portion_of_one_that_dies_goes_to_the_others(service, identities, ana):
    spec = StartsSpec(tasks=("lift", "push"), seed_start=0, seed_count=20)
    service.queues.book.gone_s = 1.0
    with ExitStack() as arms:
        names = ("wx-1", "wx-2", "wx-3")
        found = {name: arms.enter_context(Arm(service.address, identities(name, "robot"))) for name in names}
        found["wx-3"].free.clear()  # it has begun, and answers no more
        reporting(service, *names)
        entry = ana.queue.add("evaluation", spec, robots=names)
        until(lambda: bool(found["wx-3"].taken), "its portion")
        lost = set(found["wx-3"].seeds)
        found["wx-3"].kill()
        until(lambda: ana.queue.get(entry.entry_id).ended, "the evaluation")
    done = ana.queue.get(entry.entry_id)
    assert (done.done, done.result["all"]["n"], set(done.result["robots"])) == (40, 40, {"wx-1", "wx-2"})
    assert lost
    assert sorted(found["wx-1"].seeds + found["wx-2"].seeds) == list(range(20))


def test_a_trainer_that_is_started_again_goes_on_and_hears_the_end_of_what_was_in_hand(tmp_path, identities):
    with ExitStack() as arms:
        with Service(ServiceConfig(folder=tmp_path / "trainer")) as first:
            port = int(first.address.rpartition(":")[2])
            arm = arms.enter_context(Arm(first.address, identities("wx-1", "robot")))
            reporting(first, "wx-1")
            arm.free.clear()
            with Trainer(first.address, identities("ana", "operator")) as ana:
                entry = ana.queue.add("evaluation", LIFT)
                until(lambda: bool(arm.taken), "the first portion")
        in_hand = arm.taken[-1]
        arm.free.set()  # it ends while nobody hears it
        with Service(ServiceConfig(folder=tmp_path / "trainer", port=port)) as second:
            ana = arms.enter_context(Trainer(second.address, identities("ana", "operator")))
            until(lambda: ana.queue.get(entry.entry_id).ended, "the evaluation")
            assert ana.queue.get(entry.entry_id).done == 12
    assert sorted(arm.seeds) == list(range(7, 19)), "no episode twice"
    assert [order.order_id for order in arm.taken].count(in_hand.order_id) == 1


def test_a_robot_that_is_started_again_gets_its_order_again_by_the_same_name(service, identities, ana):
    identity = identities("wx-1", "robot")
    with Arm(service.address, identity) as before:
        before.free.clear()
        reporting(service, "wx-1")
        entry = ana.queue.add("evaluation", LIFT)
        until(lambda: bool(before.taken), "the first portion")
        before.kill()
    with Arm(service.address, identity) as after:
        until(lambda: ana.queue.get(entry.entry_id).ended, "the evaluation")
    assert after.taken[0] == before.taken[0]
    assert after.taken[0].spec["resume"].startswith("portion-")
    assert ana.queue.get(entry.entry_id).done == 12


def test_order_priority_and_place_decide_who_goes_first(service, identities, ana):
    with Arm(service.address, identities("wx-1", "robot")) as arm:
        reporting(service, "wx-1")
        ana.queue.pause_robot("wx-1", "the table is being cleared")
        assert [(row.robot, row.paused_by) for row in ana.queue.resting()] == [("wx-1", "ana")]
        one, two, three, four = (ana.queue.add("episode", LIFT.changed(seed_start=100 * n)) for n in range(4))
        ana.queue.move(four.entry_id, priority=9)
        ana.queue.move(three.entry_id, before=one.entry_id)
        assert [row.entry_id for row in ana.queue.list()] == [row.entry_id for row in (four, three, one, two)]
        ana.queue.move(two.entry_id, first=True)
        ana.queue.move(three.entry_id, last=True)
        order = [two, four, one, three]
        assert [row.entry_id for row in ana.queue.list("wx-1")] == [row.entry_id for row in order]
        assert [row.note for row in ana.queue.list()] == ["the queue of wx-1 rests"] * 4
        assert ana.queue.get(four.entry_id).priority == ana.queue.get(two.entry_id).priority == 9
        assert ana.queue.resume_robot("wx-1") == []
        until(lambda: all(row.ended for row in ana.queue.list()), "all four")
    firsts = [row.spec["seed_start"] // 100 * 100 for row in order]
    assert list(dict.fromkeys(seed // 100 * 100 for seed in arm.seeds)) == firsts
    assert {order.spec["purpose"] for order in arm.taken} == {"collect"}


def test_an_entry_rests_goes_on_and_is_cancelled(service, identities, ana):
    with Arm(service.address, identities("wx-1", "robot")) as arm:
        reporting(service, "wx-1")
        arm.free.clear()
        entry = ana.queue.add("evaluation", LIFT)
        until(lambda: bool(arm.taken), "the first portion")
        assert ana.queue.get(entry.entry_id).on == ("wx-1",)
        paused = ana.queue.pause(entry.entry_id)
        assert (paused.state, paused.note) == ("paused", "paused by ana")
        arm.free.set()
        until(lambda: ana.queue.get(entry.entry_id).done == 5, "what was in hand")
        other = ana.queue.add("evaluation", LIFT.changed(seed_start=50))
        until(lambda: ana.queue.get(other.entry_id).ended, "what came after it")
        assert ana.queue.get(entry.entry_id).done == 5
        arm.free.clear()
        assert ana.queue.resume(entry.entry_id).state in ("waiting", "running")
        until(lambda: ana.queue.get(entry.entry_id).on == ("wx-1",), "it goes on")
        cancelled = ana.queue.cancel(entry.entry_id)
        assert (cancelled.state, cancelled.note, cancelled.done) == ("cancelled", "by ana", 5)
        until(lambda: arm._news is None, "the robot ends it")
        arm.free.set()
    with pytest.raises(NotPossibleError, match=f"{entry.entry_id} has ended"):
        ana.queue.resume(entry.entry_id)


def test_a_start_that_is_tried_again_counts_as_its_first_attempt_went(service, identities, ana):
    """Also where nobody answered for it: a success that came after a judged failure is none of the entry's."""
    with Arm(service.address, identities("wx-1", "robot")) as arm:
        reporting(service, "wx-1")
        arm.free.clear()
        entry = ana.queue.add("evaluation", LIFT.changed(retry=Retry(judge="judge-1", max=3)))
        until(lambda: bool(arm.taken), "the first portion")
        asked = arm.taken[0].spec
        assert asked["retry"] == {"judge": "judge-1", "max": 3}
        for index, label in ((1, "success"), (0, "failure")):
            attempt = Attempt("g", index, 3).to_json()
            known = {"resume": asked["resume"], "seed": 7, "task": "lift", "attempt": attempt}
            row = EpisodeRow(0, "default", f"ep-{index}", "wx-1", "0" * 64, 1, time.time_ns(), "valid", "", "lift",
                             label, "operator:sim", 15, "policy-a", known)  # fmt: skip
            service.meta.add_episodes([row])
        ana.queue.cancel(entry.entry_id)
        arm.free.set()
    assert [(row.seed, row.outcome) for row in ana.queue.starts(entry.entry_id)] == [(7, "failure")]


def test_a_robot_that_fails_tries_again_and_then_the_entry_rests_with_its_words(service, identities, ana, monkeypatch):
    monkeypatch.setattr("cloud_trainer.flows.queue_dispatch.AGAIN_S", (0.1, 0.1))

    def fails(order: Order) -> Mapping[str, Any]:
        raise ValueError("SafetyError: the gate refuses")

    with Arm(service.address, identities("wx-1", "robot"), fails) as arm:
        reporting(service, "wx-1")
        entry = ana.queue.add("evaluation", LIFT)
        until(lambda: ana.queue.get(entry.entry_id).state == "paused", "it rests")
        assert "wx-1: SafetyError: the gate refuses" in ana.queue.get(entry.entry_id).note
        assert [order.order_id.rpartition("-")[2] for order in arm.taken] == ["1", "2", "3"]
        assert len({order.spec["resume"] for order in arm.taken}) == 1
        arm._does = rows_of
        ana.queue.resume(entry.entry_id)
        until(lambda: ana.queue.get(entry.entry_id).ended, "it goes on")


def test_episodes_cut_short_at_the_robot_have_its_queue_rest(service, identities, ana):
    """Somebody there has cancelled: nothing moves the arm again before people say so."""

    def cut(order: Order) -> Mapping[str, Any]:
        return {"episodes": rows_of(order)["episodes"][:2]}

    with Arm(service.address, identities("wx-1", "robot"), cut) as arm:
        reporting(service, "wx-1")
        entry = ana.queue.add("evaluation", LIFT)
        until(lambda: bool(ana.queue.resting()), "the queue rests")
        assert "3 episodes" in ana.queue.resting()[0].reason
        arm._does = rows_of
        ana.queue.resume_robot("wx-1")
        until(lambda: ana.queue.get(entry.entry_id).ended, "it goes on")
    assert sorted(arm.seeds) == sorted([*range(7, 19), 9, 10, 11])


def test_what_is_asked_wrongly_is_refused_by_value_and_remedy(service, identities, ana):
    with (
        Arm(service.address, identities("wx-1", "robot")),
        Arm(service.address, identities("wx-2", "robot"), runs="policy-b"),
    ):
        reporting(service, "wx-1", "wx-2")
        both = ("wx-1", "wx-2")
        for kind, spec, robots, said in (
            ("trial", LIFT.to_json(), ["wx-1"], "kind 'trial' is not one of episode, evaluation, practice"),
            ("practice", {"task": "put", "hours": 0}, ["wx-1"], "practice: reset is missing; hours='0'"),
            ("evaluation", LIFT.to_json(), [], "which robots.*wx-1, wx-2"),
            ("evaluation", LIFT.to_json(), both, "which checkpoint.*wx-1 runs policy-a, wx-2 runs policy-b"),
            ("evaluation", {**LIFT.to_json(), "seeds": 3}, ["wx-1"], "unknown settings.*seeds"),
            ("evaluation", {**LIFT.to_json(), "seed_count": 0}, ["wx-1"], "seed_count must be.*got 0"),
            ("evaluation", {**LIFT.to_json(), "tasks": ["a"] * 2}, ["wx-1"], "name each task once"),
            ("evaluation", {**LIFT.to_json(), "checkpoint": "../x"}, ["wx-1"], "checkpoint '../x'"),
            ("evaluation", {"tasks": ["a", "b"], "seed_start": 0, "seed_count": 9000}, ["wx-1"], "18000 episodes"),
        ):
            with pytest.raises((ConfigError, NotPossibleError), match=said):
                ana.queue.add(kind, spec, robots=robots)
        with pytest.raises(NotPossibleError, match="'wx-9' has not reported"):
            ana.queue.add("evaluation", LIFT, robots=["wx-9"])
        with pytest.raises(ConfigError, match="priority must be 0 to 9"):
            ana.queue.add("evaluation", LIFT, robots=["wx-1"], priority=10)
        with pytest.raises(NotFoundError, match="no entry 'entry-x'"):
            ana.queue.cancel("entry-x")
        held = ana.queue.add("evaluation", LIFT.changed(checkpoint="policy-b"), robots=["wx-1"])
        until(lambda: "wx-1 does not hold policy-b" in ana.queue.get(held.entry_id).note, "why it waits")


def test_who_may_see_and_change_what(service, identities, ana):
    names = ("wx-1", "wx-2")
    with Arm(service.address, identities("wx-1", "robot")), Arm(service.address, identities("wx-2", "robot")):
        reporting(service, *names)
        for name in names:
            ana.queue.pause_robot(name)
        mine, other = (ana.queue.add("evaluation", LIFT, robots=[name]) for name in names)
        with Trainer(service.address, identities("wx-1", "robot")) as robot:
            assert [row.entry_id for row in robot.queue.list()] == [mine.entry_id]
            assert [row.robot for row in robot.queue.resting()] == ["wx-1"]
            for asked in (robot.queue.get, lambda name: list(robot.queue.starts(name))):
                with pytest.raises(NotFoundError):
                    asked(other.entry_id)
            for refused in (robot.queue.cancel, robot.queue.pause, robot.queue.pause_robot):
                with pytest.raises(NotPermittedError):
                    refused(mine.entry_id)
        with Trainer(service.address, identities("eve", "operator", "acme")) as stranger:
            assert list(stranger.queue.list()) == []
            with pytest.raises(NotFoundError):
                stranger.queue.cancel(mine.entry_id)
            with pytest.raises(NotPossibleError, match="'wx-1' has not reported"):
                stranger.queue.pause_robot("wx-1")


def test_a_key_adds_one_entry_and_a_tenant_has_so_many(service, identities, ana):
    service.handlers.queue._most_open = 2
    with Arm(service.address, identities("wx-1", "robot")):
        reporting(service, "wx-1")
        ana.queue.pause_robot("wx-1")
        first = ana.queue.add("evaluation", LIFT, key="nightly")
        assert ana.queue.add("evaluation", LIFT, key="nightly") == first
        ana.queue.add("evaluation", LIFT)
        asked = QueueRequest("evaluation", ("wx-1",), LIFT.to_json())
        with pytest.raises(QuotaError, match="2 open entries; let some end first"):  # which a client tries again
            service.handlers.queue.add(Peer("ana", "operator", "default"), asked)
        ana.queue.cancel(first.entry_id)
        assert ana.queue.add("evaluation", LIFT, key="nightly").state == "cancelled"


def test_what_changed_the_queue_stands_in_the_log(service, identities, ana):
    with Arm(service.address, identities("wx-1", "robot")):
        reporting(service, "wx-1")
        ana.queue.pause_robot("wx-1")
        entry = ana.queue.add("evaluation", LIFT)
        ana.queue.move(entry.entry_id, priority=7)
        ana.queue.cancel(entry.entry_id)
    assert [row.action for row in ana.log.entries()][-4:] == ["queue: pause", "queue", "queue: move", "queue: cancel"]

"""Orders to a robot that connects outwards: over mutual TLS, as replies to its own reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cloud_trainer.progress import ClosingError
from cloud_trainer.service import OrderedRobot, Service
from cloud_trainer.service.ordered_robot import IN_WORDS
from cloud_trainer.service.orders import RobotOrders
from gymnast_core.errors import ConfigError
from gymnast_core.orders import KINDS, EpisodeAnswer, Order, OrderError, OrderNews
from gymnast_core.wire.identity import Peer
from gymnast_ros.uplink.reporter import Reporter, RobotNews

PERIOD_S = 0.3
ROW = {"episode_id": "ep-1", "success": True, "labelled_by": "", "truncated_reason": "", "task": "lift",
       "instruction": "lift the red cube", "seed": 0}  # fmt: skip


class Obedient:
    """A robot's end without its arm: does an order in the reporter's own thread, None goes on and on."""

    def __init__(
        self, service: Service, identity, does: Callable[[Order], Mapping[str, Any] | None], allowed: bool = True
    ):
        self.done: list[Order] = []
        self.withdrawn = threading.Event()
        self._does, self._allowed = does, allowed
        self._news: OrderNews | None = None
        self._reporter = Reporter(service.address, identity, self._tell, period_s=PERIOD_S, take=self._take)

    def __enter__(self):
        self._reporter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._reporter.stop()

    def _tell(self) -> RobotNews:
        return RobotNews(state="idle", policy_version="policy-a", takes_orders=self._allowed, order=self._news)

    def _take(self, order: Order | None) -> None:
        if order is None:
            if self._news is not None and not self._news.done:
                self.withdrawn.set()
            self._news = None
        elif self._news is None or self._news.order_id != order.order_id:
            self.done.append(order)
            self._news = OrderNews(order.order_id)
            try:
                result = self._does(order)
                self._news = OrderNews(order.order_id, done=result is not None, result=result or {})
            except ValueError as error:
                self._news = OrderNews(order.order_id, done=True, error=f"{error}")


def reached(service: Service, name: str = "wx-1") -> OrderedRobot:
    robot = OrderedRobot(service.orders, service.robots, "default", name)
    deadline = time.monotonic() + 20
    while service.robots.find("default", name) is None:
        assert time.monotonic() < deadline, "it does not report"
        time.sleep(0.01)
    return robot


def test_an_order_reaches_a_robot_that_only_connects_outwards_and_its_answer_comes_back(service, identities):
    def does(order: Order) -> Mapping[str, Any]:
        return {"value": "policy-b"} if order.kind == "swap" else {**ROW, "seed": order.spec["seed"]}

    with Obedient(service, identities("wx-1", "robot"), does) as robot:
        arm = reached(service)
        assert arm.policy_version == "policy-a"
        row = arm.run_episode(instruction="lift", seed=7, scene="standard", checkpoint="", record=True, purpose="ttt")
        assert row == EpisodeAnswer(**{**ROW, "seed": 7})
        assert arm.swap("policy-b") == "policy-b"
        assert [order.kind for order in robot.done] == ["run_episode", "swap"]
        assert len({order.order_id for order in robot.done}) == 2


def test_orders_follow_each_other_without_waiting_for_the_next_second(service, identities):
    with Obedient(service, identities("wx-1", "robot"), lambda order: {}):
        arm = reached(service)
        arm.flush(5.0)
        began = time.monotonic()
        for _ in range(3):
            arm.flush(5.0)
        assert time.monotonic() - began < 3 * 0.9


def test_what_a_robot_refuses_is_told_in_its_own_words(service, identities):
    def refuses(order: Order) -> Mapping[str, Any]:
        raise ValueError("busy with run_episode; cancel it or wait")

    with Obedient(service, identities("wx-1", "robot"), refuses):
        arm = reached(service)
        with pytest.raises(OrderError, match="wx-1: busy with run_episode"):
            arm.rollback()


def test_nobody_orders_a_robot_whose_people_did_not_allow_it_or_that_never_spoke(service, identities):
    with Obedient(service, identities("wx-1", "robot"), lambda order: {}, allowed=False) as robot:
        with pytest.raises(ConfigError, match=r"wx-1 takes no orders; start it with `gymnast up --orders`"):
            reached(service).swap("policy-b")
        service.orders._pick_up_s = 0.7
        with pytest.raises(OrderError, match="was not taken"):
            service.orders.give("default", "wx-1", "swap", {}, 60.0)  # even past the check nothing is sent to it
        assert robot.done == []
    with pytest.raises(ConfigError, match="'wx-2' has not reported"):
        OrderedRobot(service.orders, service.robots, "default", "wx-2").flush(1.0)


def test_an_order_is_for_the_robot_of_that_certificate_alone(service, identities):
    with (
        Obedient(service, identities("wx-1", "robot"), lambda order: {"value": "one"}) as one,
        Obedient(service, identities("wx-2", "robot"), lambda order: {"value": "two"}) as two,
    ):
        reached(service)
        assert reached(service, "wx-2").swap("policy-b") == "two"
        assert (len(one.done), len(two.done)) == (0, 1)


def test_an_order_that_takes_too_long_is_withdrawn_and_the_robot_hears_of_it(service, identities):
    with Obedient(service, identities("wx-1", "robot"), lambda order: None) as robot:
        with pytest.raises(OrderError, match="evaluate did not end within 1 s by wx-1"):
            reached(service).evaluate(tasks=["lift"], seed_start=0, seed_count=1, timeout_s=1.0)
        assert robot.withdrawn.wait(10)


@pytest.mark.parametrize("taken", [False, True])
def test_a_trainer_that_ends_waits_for_no_robot_that_has_gone(taken, monkeypatch):
    monkeypatch.setattr("cloud_trainer.service.orders.QUIET_S", 0.2)
    orders, ended = RobotOrders(pick_up_s=60.0), []

    def order():
        with pytest.raises(ClosingError, match="wx-1 has flush before it"):
            orders.give("default", "wx-1", "flush", {}, 60.0)
        ended.append(True)

    first = threading.Thread(target=order)
    first.start()
    who = Peer("wx-1", "robot", "default")
    while (given := orders.heard(who, None)) is None:
        time.sleep(0.001)
    if taken:
        orders.heard(who, OrderNews(given.order_id))
    orders.close()
    first.join(20)
    assert ended == [True]


def test_a_robot_does_one_thing_at_a_time():
    orders = RobotOrders(pick_up_s=5.0)
    first = threading.Thread(target=lambda: orders.give("default", "wx-1", "flush", {}, 5.0))
    first.start()
    who = Peer("wx-1", "robot", "default")
    while (order := orders.heard(who, None)) is None:
        time.sleep(0.001)
    with pytest.raises(OrderError, match="wx-1 does flush already"):
        orders.give("default", "wx-1", "swap", {}, 5.0)
    assert orders.heard(who, OrderNews(order.order_id, done=True)) is None
    first.join(5)
    assert not first.is_alive()


def test_a_queue_has_words_for_every_kind_of_order() -> None:
    assert set(IN_WORDS) == set(KINDS)

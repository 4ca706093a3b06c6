"""An order to practise outlives a trainer that is merely started again, and ends when it is really withdrawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gymnast_core.orders import Order
from gymnast_ros.run.orders import RESUMED_S, OrderTaker

PATIENCE_S = 30.0
NIGHT = Order("order-1", "practise", {"task": "put", "reset": "take", "hours": 3.0, "resume": "night"}, "ada")


class Arm:
    """A graph whose practice lasts until it is let go."""

    def __init__(self) -> None:
        self.ordered_by, self.asked = "", []
        self.practises, self.over = threading.Event(), threading.Event()

    def wait_ready(self, timeout_s: float) -> None:
        pass

    def close(self) -> None:
        pass

    def practise(self, **asked: object) -> dict[str, object]:
        self.asked.append(asked)
        self.practises.set()
        assert self.over.wait(PATIENCE_S)
        return {"practice": {"state": "ended"}}


@pytest.fixture
def lab() -> Iterator[SimpleNamespace]:
    arm, ended = Arm(), []
    log = SimpleNamespace(info=lambda text: None, warning=lambda text: None, error=lambda text: None)
    lab = SimpleNamespace(arm=arm, ended=ended, now_s=0.0)
    lab.taker = OrderTaker(
        allowed=True, connect=lambda: arm, cancel=lambda: ended.append(True), log=log, clock_s=lambda: lab.now_s
    )
    lab.taker.take(NIGHT)
    assert arm.practises.wait(PATIENCE_S)
    yield lab
    arm.over.set()
    lab.taker.close()


def test_a_trainer_that_was_started_again_gives_it_again_and_nothing_is_ended(lab: SimpleNamespace) -> None:
    lab.taker.take(None)
    lab.now_s = RESUMED_S - 1.0
    lab.taker.take(None)
    lab.taker.take(NIGHT)
    lab.now_s += RESUMED_S - 1.0
    lab.taker.take(None)
    lab.taker.take(Order("order-2", NIGHT.kind, NIGHT.spec, NIGHT.by))
    assert not lab.ended
    lab.arm.over.set()
    _until_done(lab, "order-2")
    assert [asked["resume"] for asked in lab.arm.asked] == ["night", "night"], "the robot finds its run by the name"


def test_without_it_for_a_minute_it_counts_as_withdrawn(lab: SimpleNamespace) -> None:
    lab.taker.take(None)
    lab.now_s = RESUMED_S
    lab.taker.take(None)
    assert lab.ended == [True]


def test_another_order_ends_it_at_once(lab: SimpleNamespace) -> None:
    lab.taker.take(Order("order-3", "practise", {**NIGHT.spec, "resume": "another"}))
    assert lab.ended == [True]


def _until_done(lab: SimpleNamespace, order_id: str) -> None:
    waiting = threading.Event()
    for _ in range(int(PATIENCE_S * 100)):
        news = lab.taker.news()
        if news is not None and news.order_id == order_id and news.done:
            return
        waiting.wait(0.01)
    raise AssertionError(f"{order_id} is not done: {lab.taker.news()}")

"""Orders to robots and trials: what they may name, and what a robot may answer; neither side takes the other's word."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud_trainer.service import OrderedRobot
from cloud_trainer.service.orders import RobotOrders
from cloud_trainer.service.robots import RobotBoard
from cloud_trainer.store.tenants import tenant_folder
from gymnast_core.errors import NotPossibleError
from gymnast_core.orders import Order, OrderError, OrderNews
from gymnast_core.wire.channel import domain_error
from gymnast_core.wire.gymnast.v1 import trials_pb2, trials_pb2_grpc
from gymnast_core.wire.identity import Peer
from gymnast_ros.run.orders import OrderTaker
from tests.bridge.conftest import make_checkpoint
from tests.hostile.lab import Lab, error_of, within
from tests.hostile.registry import Tally, attack

PLACES = ("remote:127.0.0.1:9", "replay:/etc/passwd", "/tmp", "../../x", "a/b", "~", "x" * 65)


class Watched:
    """A robot's graph that does nothing but note what reaches it."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def wait_ready(self, timeout_s: float = 0.0) -> None:
        """It is ready."""

    def close(self) -> None:
        """Nothing to close."""

    def run_episode(self, **asked: Any) -> dict[str, Any]:
        """Note it."""
        self.asked.append(asked)
        return {}

    evaluate = swap = wait_staged = run_episode


@pytest.mark.parametrize(("kind", "name", "many"), [
    ("run_episode", "checkpoint", False), ("evaluate", "checkpoints", True), ("swap", "checkpoint_id", False),
    ("wait_staged", "checkpoint_ids", True),
])  # fmt: skip
def test_no_order_has_a_robot_open_a_folder_a_file_or_a_host(kind, name, many):
    graph, log = Watched(), logging.getLogger(__name__)
    taker = OrderTaker(allowed=True, connect=lambda: graph, cancel=lambda: None, log=log)
    try:
        for number, place in enumerate((*PLACES, "policy-1")):
            taker.take(Order(f"order-{number}", kind, {name: ["policy-0", place] if many else place}))
            assert within(60.0, lambda: bool((news := taker.news()) and news.done)) < 60.0
            assert ("ContractError" in taker.news().error) == (place in PLACES)
    finally:
        taker.close()
    assert graph.asked == [{name: ["policy-0", "policy-1"] if many else "policy-1"}]


@pytest.mark.parametrize("against", PLACES)
def test_no_trial_is_begun_against_a_folder_a_file_or_a_host(tmp_path, against):
    with Lab(tmp_path) as lab:
        report = {"state": "idle", "takes_orders": True, "policy_version": "policy-a"}
        lab.service.robots.post(Peer("wx-1", "robot", "default"), report, b"")
        with lab.channel(lab.identity("ana", "operator")) as channel:
            stub = trials_pb2_grpc.TrialServiceStub(channel)
            asked = trials_pb2.BeginTrialRequest(candidate="policy-b", robot="wx-1", tasks=["lift"], against=against)
            assert error_of(lambda: stub.Begin(asked)) == "InvalidMessageError"


@pytest.mark.parametrize("named", [True, False])
def test_no_trial_is_begun_against_what_the_trainer_does_not_know(tmp_path, named):
    """Neither where an operator names it nor where a robot says that it runs it; another tenant's is as unknown."""
    with Lab(tmp_path) as lab:
        ids = {tenant: _shelved(lab, tenant, value) for value, tenant in enumerate(("default", "acme"))}
        lab.service.publisher.publish("default", tmp_path / "trainer" / "checkpoints" / ids["default"])
        with lab.channel(lab.identity("ana", "operator")) as channel:
            stub = trials_pb2_grpc.TrialServiceStub(channel)
            for number, unknown in enumerate(("policy-nowhere", ids["acme"], "replay-x")):
                report = {"state": "idle", "takes_orders": True, "policy_version": unknown}
                lab.service.robots.post(Peer(f"wx-{number}", "robot", "default"), report, b"")
                asked = trials_pb2.BeginTrialRequest(
                    candidate=ids["default"], robot=f"wx-{number}", tasks=["lift"], against=unknown if named else ""
                )
                with pytest.raises(NotPossibleError, match=rf"{unknown}.* is no checkpoint of this trainer"):
                    _raised(lambda asked=asked: stub.Begin(asked))
        assert lab.service.handlers.flows.trials.views("default") == []


def _shelved(lab: Lab, tenant: str, value: float) -> str:
    """A policy on a tenant's shelf; returns its id."""
    shelf = tenant_folder(lab.service.config.folder, tenant) / "checkpoints"
    shelf.mkdir(parents=True)
    manifest = make_checkpoint(lab.folder / tenant, value)
    (lab.folder / tenant).rename(shelf / manifest.id)
    return manifest.id


def _raised(call: Callable[[], Any]) -> None:
    """Raise the error that a call is refused with as the client has it."""
    try:
        call()
    except grpc.RpcError as failure:
        raise domain_error(failure) from failure


ROW = {"episode_id": "ep-1", "success": True, "labelled_by": "operator:ana", "truncated_reason": "", "task": "lift",
       "instruction": "lift the red cube", "seed": 7}  # fmt: skip


def answered(result: dict[str, Any], ask: Callable[[OrderedRobot], Any]) -> Any:
    """What the trainer makes of a robot's answer to an order."""
    orders, board, peer = RobotOrders(), RobotBoard(), Peer("wx-1", "robot", "default")
    board.post(peer, {"takes_orders": True}, b"")

    def answer() -> None:
        found: list[Order] = []
        within(60.0, lambda: bool(found.extend(filter(None, [orders.heard(peer, None)])) or found))
        orders.heard(peer, OrderNews(found[0].order_id, done=True, result=result))

    threading.Thread(target=answer, daemon=True).start()
    return ask(OrderedRobot(orders, board, "default", "wx-1"))


def test_a_robot_signs_for_no_operator_in_what_it_reports_of_a_run():
    row = answered(ROW, lambda robot: robot.run_episode(timeout_s=60.0, instruction="lift"))
    assert row.labelled_by == "robot:wx-1/operator:ana"


def ask_evaluation(robot: OrderedRobot) -> Any:
    return robot.evaluate(tasks=["Lift the red cube"], seed_start=7, seed_count=2, timeout_s=60.0)


def odd_answers() -> Iterator[tuple[dict[str, Any], Callable[[OrderedRobot], Any], str]]:
    """What robots answer, what they were asked, and what the order's failure names."""
    for name in ROW:
        without = {key: value for key, value in ROW.items() if key != name}
        yield without, lambda robot: robot.run_episode(timeout_s=60.0), name
        yield {"episodes": [ROW, without]}, ask_evaluation, f"episodes.1.{name}"
    for name, value in (
        ("episode_id", "../x"), ("episode_id", 5), ("success", "yes"), ("success", 1), ("labelled_by", ["ana"]),
        ("labelled_by", "a" * 10_000), ("truncated_reason", None), ("task", {}), ("seed", "7"), ("seed", 7.5),
    ):  # fmt: skip
        yield {**ROW, name: value}, lambda robot: robot.run_episode(timeout_s=60.0), name
    yield {}, ask_evaluation, "episodes"
    yield {"episodes": "many"}, ask_evaluation, "episodes"
    yield {"episodes": {}}, ask_evaluation, "episodes"
    yield {"episodes": [{**ROW, "seed": 9}]}, ask_evaluation, "not asked for"
    yield {"episodes": [{**ROW, "task": "push", "instruction": "push"}]}, ask_evaluation, "not asked for"
    for result in ({}, {"value": None}, {"value": ""}, {"value": ["policy-1"]}):
        yield result, lambda robot: robot.swap("policy-1"), "value"
        yield result, lambda robot: robot.rollback(), "value"


@attack("robots that answer orders with what is no answer")
def attack_answers(folder: Path, size: int) -> Tally:
    tally = Tally(0, 0, 0)
    for result, ask, named in islice(cycle(odd_answers()), size):
        try:
            answered(result, ask)
            tally += Tally(1, 1, 0)
        except OrderError as error:
            tally += Tally(1, 0, int("wx-1" not in str(error) or named not in str(error)))
    return tally


def test_an_order_ends_by_name_whatever_its_robot_answers(tmp_path):
    size = len(list(odd_answers()))
    assert attack_answers(tmp_path, size) == Tally(size, 0, 0)
    assert [row.seed for row in answered({"episodes": [ROW, {**ROW, "seed": 8}]}, ask_evaluation)] == [7, 8]

"""An arm's guard admits one reset for each permit of its graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import reset_permit
from gymnast_ros.nodes.reset_permit import PARAMETER, PERMIT_NS, ResetGuard, ResetPermits
from gymnast_ros.nodes.settings import NodeSettings


@pytest.fixture
def node(context) -> Iterator[Node]:
    made = Node("arm", context=context)
    yield made
    made.destroy_node()


@pytest.fixture
def rings(tmp_path) -> tuple[Keyring, Keyring]:
    return Keyring.make(tmp_path / "own"), Keyring.make(tmp_path / "other")


def permits(node: Node, permit: dict[str, str]) -> str:
    (result,) = node.set_parameters([Parameter(PARAMETER, value=permit[PARAMETER])])
    return "" if result.successful else result.reason


def ask(guard: ResetGuard, move: Callable[[], str]) -> str:
    """What a caller of the service gets."""
    response = Trigger.Response()
    if guard.admits(response):
        response.success, response.message = True, json.dumps({"moved": move()})
        guard.spent(response)
    if not response.success:
        return response.message
    answer = json.loads(response.message)
    return answer["moved"] + " again" * ("repeated" in answer)


def test_one_reset_a_permit_and_its_answer_is_repeated(node, rings) -> None:
    guard, rollout, moves = ResetGuard(NodeSettings(node), rings[0]), ResetPermits(rings[0]), iter("abc")
    assert "no permit of this graph; start an episode" in ask(guard, lambda: next(moves))
    first, second = rollout.new(), rollout.new()
    assert permits(node, first) == ""
    assert [ask(guard, lambda: next(moves)) for _ in range(3)] == ["a", "a again", "a again"]
    assert permits(node, first) == "", "sent again, because the answer was late"
    assert ask(guard, lambda: next(moves)) == "a again"
    assert permits(node, second) == ""
    assert ask(guard, lambda: next(moves)) == "b"
    assert "sent before" in permits(node, first)
    assert ask(guard, lambda: next(moves)) == "b again"
    rings[0].latch.latch()
    assert "emergency stop" in ask(guard, lambda: next(moves)), "nobody is promised a reset that a stop has ended"


def test_permit_of_another_graph_or_a_past_one_admits_nobody(node, rings) -> None:
    past = ResetPermits(rings[0]).new()
    guard = ResetGuard(NodeSettings(node), rings[0])
    assert "not this graph's" in permits(node, ResetPermits(rings[1]).new())
    assert "sent before" in permits(node, past)
    assert "no permit" in ask(guard, lambda: "moved")


def test_permit_expires_and_so_does_its_answer(node, rings, monkeypatch) -> None:
    guard, rollout = ResetGuard(NodeSettings(node), rings[0]), ResetPermits(rings[0])
    clock = reset_permit.time.monotonic_ns
    for use in (False, True):
        assert permits(node, rollout.new()) == ""
        assert not use or ask(guard, lambda: "moved") == "moved"
        with monkeypatch.context() as later:
            later.setattr(reset_permit, "time", SimpleNamespace(monotonic_ns=lambda: clock() + PERMIT_NS + 1))
            assert "60 s old" in ask(guard, lambda: "moved late")


def test_reset_under_way_is_not_begun_twice_and_answers_its_own_permit_alone(node, rings) -> None:
    guard, rollout = ResetGuard(NodeSettings(node), rings[0]), ResetPermits(rings[0])
    assert permits(node, rollout.new()) == ""
    slow = Trigger.Response()
    assert guard.admits(slow)
    assert "under way" in ask(guard, lambda: "moved twice")
    assert permits(node, rollout.new()) == ""
    guard.spent(slow)
    assert ask(guard, lambda: "moved for the second") == "moved for the second"

"""Two arms as bridge.launch.py starts them, seen from outside: every node has one name, and answers by it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from tests.ros.conftest import wait_until
from tests.ros.fake_launch import Launched, install
from tests.ros.test_launch import load, texts

OURS = {
    "left": {"arm", "command_gate", "command_gate_estop", "rollout"},
    "right": {"arm", "arm_cameras", "command_gate", "command_gate_estop", "rollout"},
}


@pytest.fixture(scope="module")
def launched(domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Launched]]:
    """A simulated arm and one on the vendor stand-in."""
    folder = tmp_path_factory.mktemp("two")
    parameters = folder / "right.yaml"
    parameters.write_text("arm: {ros__parameters: {vendor: tests.ros.standin, autostart: true}}")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in install().items():
            patch.setitem(sys.modules, name, module)
        bridge = load("bridge.launch.py")
        own = {"domain": str(domain_id)}
        arguments = {
            "left": texts(namespace="left", folder=str(folder / "left"), **own),
            "right": texts(
                namespace="right", folder=str(folder / "right"), robot="widowx", vendor="false",
                parameters=str(parameters), **own,
            ),
        }  # fmt: skip
        actions = {side: bridge.start(given) for side, given in arguments.items()}
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    running = {}
    for side, started in actions.items():
        (folder / f"{side}-logs").mkdir()
        running[side] = Launched(started, folder / f"{side}-logs", environment)
    with running["left"], running["right"]:
        yield running
    for claim in bridge.CLAIMS:
        claim.release()


@pytest.fixture(scope="module")
def watcher(launched: object, context: object) -> Iterator[Node]:
    """Somebody at a terminal."""
    node = Node(f"ros2_cli_{os.getpid()}", context=context)
    yield node
    node.destroy_node()


def names(watcher: Node) -> Counter[str]:
    """`ros2 node list`."""
    known = watcher.get_node_names_and_namespaces()
    return Counter(f"{namespace.rstrip('/')}/{name}" for name, namespace in known)


def test_every_node_has_a_name_of_its_own(watcher: Node, launched: dict[str, Launched]) -> None:
    wanted = {f"/{side}/{name}" for side, ours in OURS.items() for name in ours}
    wait_until(lambda: wanted <= set(names(watcher)), 60.0, "every node of both arms")
    seen = names(watcher)
    assert {name: count for name, count in seen.items() if count > 1} == {}
    assert {name for name in seen if name.startswith(("/left/", "/right/"))} == wanted


def call(watcher: Node, kind: type, service: str, request: object) -> object:
    client = watcher.create_client(kind, service)
    executor = SingleThreadedExecutor(context=watcher.context)
    executor.add_node(watcher)
    try:
        wait_until(client.service_is_ready, 30.0, service)
        future = client.call_async(request)
        executor.spin_until_future_complete(future, timeout_sec=30.0)
        assert future.done(), f"{service} does not answer"
        return future.result()
    finally:
        executor.remove_node(watcher)
        executor.shutdown()
        watcher.destroy_client(client)


@pytest.mark.parametrize(
    ("node", "parameter"),
    [("arm", "max_steps"), ("command_gate", "deadman_s"), ("rollout", "instruction")],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_node_itself_answers_for_its_parameters(watcher: Node, side: str, node: str, parameter: str) -> None:
    for _ in range(5):  # among several nodes of one name any may answer
        answer = call(
            watcher, GetParameters, f"/{side}/{node}/get_parameters", GetParameters.Request(names=[parameter])
        )
        assert [value.type for value in answer.values] != [0], f"/{side}/{node} does not know {parameter}"


def test_readmes_param_set_reaches_the_gate(watcher: Node) -> None:
    corner = Parameter("workspace_high_m", value=[0.4, 0.2, 0.3]).to_parameter_msg()
    for _ in range(5):
        request = SetParameters.Request(parameters=[corner])
        answer = call(watcher, SetParameters, "/left/command_gate/set_parameters", request)
        assert [(result.successful, result.reason) for result in answer.results] == [(True, "")]

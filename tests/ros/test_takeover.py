"""A human takes a running policy's arm over topics and gives it back; every step says who commanded it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import JointState, Joy

from gymnast_core.episodes import read_episode
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.client import GraphClient
from tests.ros.conftest import wait_until


@pytest.fixture(scope="module")
def graph(domain_id, tmp_path_factory) -> Iterator[Graph]:
    config = GraphConfig(folder=tmp_path_factory.mktemp("robot"), domain_id=domain_id, teleop=True, paced=True)
    with Graph(config) as running:
        yield running


class Hand:
    """A joystick that repeats what it is told at 50 Hz."""

    def __init__(self, context: object) -> None:
        self.axes, self.buttons = [0.0] * 6, [0] * 8
        self._node = Node("hand", context=context)
        self._publisher = self._node.create_publisher(Joy, "joy", topics.STREAM)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self.executed: list[str] = []
        self._node.create_subscription(
            JointState, topics.EXECUTED, lambda message: self.executed.append(message.header.frame_id), topics.STREAM
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(0.02):
            self._publisher.publish(Joy(axes=list(self.axes), buttons=list(self.buttons)))
            self._executor.spin_once(timeout_sec=0.0)

    def connected(self) -> bool:
        """Discovery takes up to some seconds, longer than an episode."""
        heard = self._publisher.get_subscription_count() > 0
        return heard and self._node.count_publishers(topics.EXECUTED) > 0

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()


@pytest.fixture
def hand(context) -> Iterator[Hand]:
    hand = Hand(context)
    wait_until(hand.connected, 20.0, "teleop to hear the joystick")
    yield hand
    hand.close()


def test_takeover_is_recorded_step_by_step_and_the_policy_gets_the_arm_back(
    graph, client: GraphClient, hand, replay
) -> None:
    policy = replay(np.tile([0, 0.01, 0, 0, 0, 0, 1.0], (15, 1)))
    client.set("rollout", {"instruction": "lift", "seed": 4, "checkpoint": policy, "record": True})
    run_id = client.call("rollout/run_episode")
    wait_until(lambda: client.status.get("state") == "running", 10.0, "the episode")
    hand.axes, hand.buttons = [0.0, -1.0, 0, 0, 0, 0], [1] + [0] * 7
    wait_until(lambda: hand.executed.count("teleop") >= 3, 20.0, "steps of the human")
    hand.buttons = [0] * 8
    row = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 30.0)["episode"]
    assert row["steps"] == 15
    assert 1 <= row["teleop_steps"] <= 14, row
    found = list((graph.config.folder / "spool" / "pending").glob(f"{row['episode_id']}*"))
    assert len(found) == 1, (row, found)
    episode = read_episode(found[0])
    sources = episode.metadata["sources"]
    assert len(sources) == 15
    for source, told_A in zip(sources, episode.actions_TA, strict=True):
        if source == "teleop":
            assert -0.031 < told_A[0] < 0.001  # backwards, less where the workspace ends
            assert abs(told_A[1]) < 1e-6
        elif source == "policy":
            assert told_A[1] == pytest.approx(0.01, abs=1e-3)
    assert sources[-1] in ("policy", "hold", "silence")


def test_stop_button_wins_and_the_flight_recorder_tells_the_last_seconds(graph, client: GraphClient, hand) -> None:
    hand.buttons = [0, 0, 1, 0, 0, 0, 0, 0]
    client.wait_for(topics.GATE_STATUS, lambda status: status["state"] == "estop", 20.0)
    folder: Path = graph.config.folder / "flight"
    wait_until(lambda: any(folder.glob("flight-estop-*.mcap")), 10.0, "flight record")
    (path,) = folder.glob("flight-estop-*.mcap")
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as bag:
        notes = [
            (connection.topic, bag.deserialize(data, connection.msgtype)) for connection, _, data in bag.messages()
        ]
    recorded = {topic for topic, _ in notes}
    assert {f"/{topic}" for topic in (topics.TARGET, topics.TELEOP_COMMAND, topics.ARM_COMMAND)} <= recorded
    states = [json.loads(note.data) for topic, note in notes if topic == f"/{topics.GATE_STATUS}"]
    assert states[-1] == {"state": "estop", "reason": "estop service called"}
    log = (graph.logs / "command_gate.log").read_text()
    assert "EMERGENCY STOP (estop service called)" in log
    word = graph.config.folder / "gate" / "rearm"
    assert f'ros2 param set /command_gate re_arm "$(cat {word})"' in log
    hand.buttons = [0] * 8
    client.re_arm()


def test_stop_button_pressed_while_the_gate_is_gone_stops_its_successor(graph, client: GraphClient, hand) -> None:
    restarts = graph.restarts["command_gate"]
    os.kill(graph.pids["command_gate"], signal.SIGKILL)
    hand.buttons = [0, 0, 1, 0, 0, 0, 0, 0]
    wait_until(lambda: graph.restarts["command_gate"] > restarts, 20.0, "the gate's successor")
    client.wait_for(topics.GATE_STATUS, lambda status: status["state"] == "estop", 20.0)
    hand.buttons = [0] * 8
    client.re_arm()

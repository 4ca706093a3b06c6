"""A second DDS participant in the robot's domain moves no arm, opens no gate, and ends no node."""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String

from gymnast_core.errors import ConfigError
from gymnast_ros import seat
from gymnast_ros.bringup import Graph, GraphConfig, NodeDiedError
from gymnast_ros.keyring import Keyring, folder_of
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.client import GraphClient
from gymnast_ros.nodes.marked import MarkedJoints
from gymnast_ros.nodes.reset_permit import PARAMETER, ResetPermits
from tests.hostile.registry import Tally, attack
from tests.hostile.stranger import Stranger
from tests.ros.conftest import wait_until

DOWN = [0.0, 0.0, -0.05, 0.0, 0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def stranger(graph, client, domain_id) -> Iterator[Stranger]:
    stranger = Stranger(domain_id)
    assert stranger.spin(20.0, lambda: {topics.TARGET, topics.GATE_STATUS} <= stranger.heard.keys())
    yield stranger
    stranger.close()


def begin_episode(stranger: Stranger, keyring: Keyring) -> str:
    """Have the graph lay out a scene, so that the arm would take a command; what was executed before has been heard.

    Returns the permit.
    """
    permit = ResetPermits(keyring).new()[PARAMETER]
    assert stranger.set(topics.ARM_NODE, PARAMETER, permit) == ""
    success, words = stranger.call(topics.RESET)
    assert success, words
    stamp_ns = json.loads(words)["stamp_ns"]
    assert stranger.spin(20.0, lambda: bool(stranger.executed) and stamp_of(stranger.executed[-1]) >= stamp_ns)
    assert stranger.spin(20.0, lambda: stamp_of(stranger.heard[topics.TARGET]) >= stamp_ns)
    stranger.spin(0.1)  # its truth and picture
    return permit


def stamp_of(message: JointState) -> int:
    return messages.to_ns(message.header.stamp)


def seen(stranger: Stranger) -> tuple[object, ...]:
    """What a reset of the simulated arm changes."""
    stranger.spin(1.0)
    return len(stranger.executed), stranger.truth.get("digest"), stamp_of(stranger.heard[topics.TARGET])


def test_stranger_cannot_reset_an_arm_that_nothing_has_stopped(stranger, client) -> None:
    """First of all here: this arm's own rollout has asked for no reset yet."""
    assert client.gate["state"] == "armed"
    before = seen(stranger)
    answers = [stranger.call(topics.RESET) for _ in range(12)]
    assert [success for success, _ in answers] == [False] * 12
    assert all("no permit of this graph; start an episode" in words for _, words in answers)
    assert seen(stranger) == before, "the arm moved"


def test_stranger_cannot_reset_by_a_forged_or_used_permit(stranger, client, keyring, tmp_path) -> None:
    used = begin_episode(stranger, keyring)
    before = seen(stranger)
    foreign = ResetPermits(Keyring.make(tmp_path / "gate")).new()[PARAMETER]
    later = f"{time.monotonic_ns()}.{used.partition('.')[2]}"
    for permit in (secrets.token_hex(32), "1.00", "\u0662.00", foreign, later, "x" * 100_000):
        assert "graph" in (words := stranger.set(topics.ARM_NODE, PARAMETER, permit)) or "characters" in words
        stranger.call(topics.RESET)
    for permit in (used, "") * 3:
        stranger.set(topics.ARM_NODE, PARAMETER, permit)
        stranger.call(topics.RESET)
    assert seen(stranger) == before, "the arm moved"
    begin_episode(stranger, keyring)  # and its own graph still may


def test_stranger_cannot_move_the_arm(stranger, client, keyring) -> None:
    begin_episode(stranger, keyring)
    before, height_m, digest = len(stranger.executed), stranger.height_m(), stranger.truth["digest"]
    for _ in range(12):
        stranger.command(DOWN)
    stranger.spin(1.0)
    assert len(stranger.executed) == before, "the arm executed what no gate decided"
    assert (stranger.height_m(), stranger.truth["digest"]) == (height_m, digest)


def test_stranger_cannot_move_the_arm_through_the_gate(stranger, client, keyring) -> None:
    """Nor as the policy or the human behind it, nor with an arm's state of his own making."""
    begin_episode(stranger, keyring)
    before = len(stranger.executed)
    lie = stranger.heard[topics.TARGET]
    for topic in (topics.POLICY_COMMAND, topics.TELEOP_COMMAND):
        stranger.command(DOWN, topic=topic, times=3)
    lie.position[2] = 0.25
    stranger.say(JointState, topics.TARGET, lie, times=3)
    stranger.say(String, topics.TAKE_OVER, messages.to_json({"human": True}), quality=topics.LATCHED)
    stranger.spin(1.0)
    assert len(stranger.executed) == before
    assert client.gate["state"] == "armed"


def test_heard_command_said_again_is_not_executed(stranger, client, replay, keyring) -> None:
    moves = replay([[0.0, 0.01 * (-1) ** step, 0.0, 0.0, 0.0, 0.0, 1.0] for step in range(15)])
    assert client.run_episode(instruction="lift", seed=0, checkpoint=moves, record=False)["steps"] == 15
    assert stranger.spin(10.0, lambda: len(policy_commands(stranger)) >= 3)
    said = policy_commands(stranger)
    begin_episode(stranger, keyring)
    before, now = len(stranger.executed), stranger.heard[topics.TARGET].header.stamp
    for message in said[-3:]:
        stranger.say(JointState, topics.ARM_COMMAND, message)
        message.header.stamp = now
        stranger.say(JointState, topics.ARM_COMMAND, message)
    stranger.spin(1.0)
    assert len(stranger.executed) == before


def try_everything(stranger: Stranger, size: int) -> Tally:
    """With the stop latched: move the arm, pose as gate, policy and arm, guess the word, widen the gate."""
    steps, digest = len(stranger.executed), stranger.truth["digest"]
    tries: list[Callable[[], bool]] = [
        lambda: stranger.set("command_gate", "re_arm", secrets.token_hex(8)) == "",
        lambda: stranger.set("command_gate", "table_height_m", -0.4) == "",
        lambda: stranger.set("command_gate", "deadman_s", math.nan) == "",
        lambda: stranger.call(topics.RE_ARM)[0],
        lambda: stranger.call(topics.RESET)[0],
        *(lambda topic=topic: stranger.command(DOWN, topic=topic) is True for topic in COMMANDS),
    ]
    accepted = sum(tries[number % len(tries)]() for number in range(size))
    stranger.spin(1.0)
    moved = len(stranger.executed) - steps + (stranger.truth["digest"] != digest)
    return Tally(size, accepted + moved, 0)


COMMANDS = (topics.ARM_COMMAND, topics.POLICY_COMMAND, topics.TELEOP_COMMAND)


@attack("a stranger in the robot's DDS domain")
def stranger_in_the_domain(folder: Path, size: int) -> Tally:
    domain = 97
    with Graph(GraphConfig(folder=folder, domain_id=domain)) as robot, GraphClient(domain_id=domain) as operator:
        operator.wait_ready(60.0)
        stranger = Stranger(domain)
        assert stranger.spin(20.0, lambda: {topics.TARGET, topics.GATE_STATUS} <= stranger.heard.keys())
        begin_episode(stranger, Keyring.load(folder_of(folder)))
        operator.estop()
        tally = try_everything(stranger, size)
        stranger.close()
        return Tally(tally.attempts, tally.accepted, sum(robot.restarts.values()))


def test_stranger_gets_nothing_of_all_he_tries_while_the_stop_is_latched(stranger, client, keyring) -> None:
    begin_episode(stranger, keyring)
    client.estop()
    try:
        assert try_everything(stranger, 24) == Tally(24, 0, 0)
    finally:
        client.re_arm()


def policy_commands(stranger: Stranger) -> list[JointState]:
    return [message for message in stranger.commands if message.header.frame_id.startswith("policy #")]


def test_emergency_stop_is_not_released_by_a_stranger(stranger, client, replay) -> None:
    client.estop()
    success, words = stranger.call(topics.RE_ARM)
    assert not success
    assert "gymnast rearm" in words
    assert "not this gate's word" in stranger.set("command_gate", "re_arm", "0123456789abcdef")
    armed = messages.to_json({"state": "armed", "reason": "", "arm": 0, "graph": "", "mark": "1.00"})
    stranger.say(String, topics.GATE_STATUS, armed, quality=topics.LATCHED)
    stranger.command(DOWN, times=3)
    refused, words = stranger.call(topics.RESET)
    assert (refused, "emergency stop" in words) == (False, True), "a reset moves a real arm"
    row = client.run_episode(instruction="lift", seed=0, checkpoint=replay([DOWN] * 15), record=False)
    assert (row["steps"], row["truncated_reason"]) == (0, "estop")
    client.re_arm()
    assert client.gate["state"] == "armed"
    assert (
        client.run_episode(instruction="lift", seed=0, checkpoint=replay([DOWN] * 3), record=False)["truncated_reason"]
        == ""
    )


def armed_again(client: GraphClient) -> bool:
    client.re_arm()
    return client.gate["state"] == "armed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("table_height_m", -0.4), ("table_height_m", math.nan), ("table_clearance_m", -0.05), ("deadman_s", 600.0),
        ("deadman_s", math.nan), ("deadman_s", math.inf), ("effort_limit", [math.nan] * 6), ("effort_limit", [1e9] * 6),
        ("max_change_m", math.nan), ("workspace_low_m", [math.nan] * 3), ("workspace_low_m", [-9.0, -9.0, -9.0]),
        ("max_refusals", 1000), ("max_command_age_s", 2.0), ("armed_at_start", False),
    ],
)  # fmt: skip
def test_gate_cannot_be_set_beyond_what_the_robot_was_started_with(stranger, name, value) -> None:
    assert stranger.set("command_gate", name, value)


@pytest.mark.parametrize("node", ["arm", "command_gate", "rollout"])
def test_stranger_cannot_set_the_clock_by_which_pictures_are_old(stranger, node) -> None:
    assert "where the node is started" in stranger.set(node, "use_sim_time", True)


NONSENSE = (
    "not json", "[1, 2]", "[" * 100_000, "null", "{}", '{"mark": 5}', '{"cameras": 7}', '{"cameras": [[]]}', "\x00",
    "{" * 9, '{"stamp_ns": "x"}', '{"state": "armed"}', '{"policy": {}, "good": [], "bad": 1, "reason": 3, "run": {}}',
)  # fmt: skip


def test_no_node_ends_by_what_it_hears(graph, client, stranger, replay) -> None:
    pids = dict(graph.pids)
    for topic in (topics.GATE_STATUS, topics.TAKE_OVER):
        for text in NONSENSE:
            stranger.say(String, topic, String(data=text), quality=topics.LATCHED)
    odd = [
        JointState(), JointState(name=["dx"]), JointState(name=["a"] * 5000, position=[math.nan] * 5000),
        messages.to_named(topics.ACTION_NAMES, [math.nan] * 7, 0),
        messages.to_named(topics.ACTION_NAMES, [1e300] * 7, -1),
    ]  # fmt: skip
    for topic in (topics.ARM_COMMAND, topics.POLICY_COMMAND, topics.TELEOP_COMMAND, topics.TARGET):
        for message in odd:
            stranger.say(JointState, topic, message)
    stranger.spin(1.0)
    assert (
        client.run_episode(instruction="lift", seed=0, checkpoint=replay([DOWN] * 3), record=False)["truncated_reason"]
        == ""
    )
    assert graph.pids == pids
    assert "dropped topic=command/arm" in (graph.logs / "arm.log").read_text()


@pytest.fixture
def flood(domain_id) -> Iterator[str]:
    """A participant that says False on the e-stop topic as fast as it can."""
    flooding, closing = Stranger(domain_id), threading.Event()
    publisher = flooding.node.create_publisher(Bool, "estop", topics.STREAM)
    assert flooding.spin(20.0, lambda: publisher.get_subscription_count() > 0)

    def shout() -> None:
        while not closing.is_set():
            publisher.publish(Bool(data=False))

    thread = threading.Thread(target=shout)
    thread.start()
    yield "flooded"
    closing.set()
    thread.join()
    flooding.close()


def test_stop_is_not_lost_in_a_flood(client, stranger, flood) -> None:
    started = time.monotonic()
    stranger.say(Bool, "estop", Bool(data=True))
    status = client.wait_for(topics.GATE_STATUS, lambda said: said["state"] == "estop", 20.0)
    assert time.monotonic() - started < 20.0
    assert "estop topic" in status["reason"]


@pytest.mark.parametrize("victims", [("arm",), ("command_gate",), ("arm", "command_gate")])
def test_step_that_was_queued_before_the_stop_is_void_after_a_freeze(
    graph, client, stranger, keyring, context, victims
) -> None:
    """Freeze, step, stop, thaw: the stop was first said while the step still waited."""
    if client.gate["state"] != "armed":
        wait_until(lambda: armed_again(client), 20.0, "re-arming")
    begin_episode(stranger, keyring)
    policy = Policy(context, keyring)
    assert stranger.spin(20.0, lambda: policy.commands.publisher.get_subscription_count() > 0)
    before, stamp = len(stranger.executed), stranger.heard[topics.TARGET].header.stamp
    step = messages.to_action(np.array(DOWN), messages.to_ns(stamp))
    for victim in victims:
        os.kill(graph.pids[victim], signal.SIGSTOP)
    try:
        policy.commands.publish(step)
        stranger.spin(0.3)  # a gate that runs has decided by now, and the frozen arm has it in its queue
        stranger.say(Bool, "estop", Bool(data=True))
        stranger.spin(0.5)
    finally:
        for victim in victims:
            os.kill(graph.pids[victim], signal.SIGCONT)
    client.wait_for(topics.GATE_STATUS, lambda said: said["state"] == "estop", 20.0)
    stranger.spin(1.0)
    assert len(stranger.executed) == before, "the arm executed a step from before the stop"
    client.re_arm()
    stranger.spin(1.0)
    assert len(stranger.executed) == before, "the arm executed it after the re-arm"
    policy.node.destroy_node()


class Policy:
    """The graph's own commander, key and all."""

    def __init__(self, context: object, keyring: Keyring) -> None:
        self.node = Node("policy", context=context)
        self.commands = MarkedJoints(self.node, keyring, topics.POLICY_COMMAND, topics.STREAM)


def test_second_graph_of_the_robot_refuses_to_start_by_name(graph, domain_id, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"a graph of robot 'sim-0' .* is running already"):
        Graph(GraphConfig(folder=tmp_path, robot_name="other", domain_id=domain_id)).start()
    with pytest.raises(ConfigError, match="is running already"):
        Graph(GraphConfig(folder=graph.config.folder, domain_id=domain_id + 100)).start()


def test_graph_of_another_machine_is_given_way_to_by_name(graph, client, domain_id, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(seat, "PREFIX", f"\0gymnast-elsewhere-{os.getpid()}-")  # as another machine's is
    with Graph(GraphConfig(folder=tmp_path / "robot", robot_name="twin", domain_id=domain_id)) as second:
        wait_until(lambda: "command_gate" in second.failed, 120.0, "the second gate's end")
        with pytest.raises(NodeDiedError, match="command_gate ended with code 78 and is not started again"):
            second.check()
        assert "a graph of robot 'sim-0' runs in this domain already" in (second.logs / "command_gate.log").read_text()
    assert client.gate["state"] == "armed"


def test_key_is_nobody_elses_to_read(graph) -> None:
    own = graph.config.folder / "gate"
    assert own.stat().st_mode & 0o077 == 0
    for path in own.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    key = (own / "key").read_text()
    for pid in graph.pids.values():
        assert key not in Path(f"/proc/{pid}/cmdline").read_text()
    assert json.loads((own / "graph").read_text())["robot"] == "sim-0"


def test_latched_stop_outlives_the_gate_that_latched_it(graph, client) -> None:
    client.estop()
    restarts = graph.restarts["command_gate"]
    os.kill(graph.pids["command_gate"], signal.SIGKILL)
    wait_until(lambda: graph.restarts["command_gate"] > restarts, 20.0, "the gate's successor")
    status = client.wait_for(topics.GATE_STATUS, lambda said: "before this gate" in said["reason"], 20.0)
    assert status["state"] == "estop"
    wait_until(lambda: armed_again(client), 20.0, "re-arming")

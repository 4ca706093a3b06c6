"""Every callback of every node gets arbitrary messages: none raises, and none of them moves anything."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState, Joy
from std_msgs.msg import Bool, String

from benchmarks.gate_probe import GateProbe
from gymnast_core.arm.mark import Marker
from gymnast_ros.keyring import VARIABLE, Keyring
from gymnast_ros.nodes import marked, messages, topics
from gymnast_ros.nodes.arm_link import ArmLink
from gymnast_ros.nodes.arm_port import COMMAND_NAMES, TARGET_NAMES
from gymnast_ros.nodes.bridge import BridgeNode
from gymnast_ros.nodes.client import GraphClient
from gymnast_ros.nodes.command_gate import CommandGateNode, EstopNode
from gymnast_ros.nodes.onlooker import Onlooker
from gymnast_ros.nodes.page import PageNode
from gymnast_ros.nodes.rollout import RolloutNode
from gymnast_ros.nodes.sim_world import SimWorld
from gymnast_ros.nodes.teleop import Teleop
from gymnast_ros.nodes.topic_env import TopicEnv
from gymnast_ros.nodes.widowx_arm import WidowXArm
from gymnast_ros.sim.simulated_arm import SimulatedArm
from tests.ros.conftest import wait_until

ROOT = Path(__file__).parents[2]
WORDS = ("mark", "state", "human", "cameras", "stamp_ns", "session", "policy", "good", "bad", "reason", "run", "arm")
KNOWN = (JointState, String, Image, CompressedImage, Joy, Bool, DiagnosticArray)


@dataclass(frozen=True)
class Ear:
    """One subscription."""

    owner: str
    kind: type
    topic: str
    hear: Callable[[bytes], None]


@dataclass
class House:
    """Every node there is, in this process, and what each hears."""

    ears: list[Ear]
    arm: SimWorld
    keyring: Keyring


def overrides(**values: Any) -> dict[str, Any]:
    return {"parameter_overrides": [Parameter(name, value=value) for name, value in values.items()]}


@pytest.fixture(scope="module")
def house(domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    keyring = Keyring.make(folder / "gate")
    own = rclpy.Context()
    rclpy.init(context=own, domain_id=domain_id)
    ears: list[Ear] = []
    plain = Node.create_subscription

    def noted(self: Node, kind: type, topic: str, callback: Any, *rest: Any, **named: Any) -> Any:
        if not topic.endswith("parameter_events") and kind in KNOWN:
            ears.append(Ear(self.get_name(), kind, topic, callback))
        return plain(self, kind, topic, callback, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "create_subscription", noted)
        patch.setenv(VARIABLE, str(keyring.folder))
        patch.setenv("ROS_DOMAIN_ID", str(domain_id))
        patch.setattr(ArmLink, "await_matches", lambda self, parts, heard, timeout_s: None)
        gate = CommandGateNode(context=own, **overrides(armed_at_start=True, record_images=["top/image_raw"]))
        estop, arm = EstopNode(gate, context=own), SimWorld(SimulatedArm(image_size=64), context=own)
        bridge = BridgeNode(
            context=own, **overrides(folder=str(folder), insecure=True, trainer="127.0.0.1:9", take_orders=True)
        )
        rollout = RolloutNode(context=own, **overrides(folder=str(folder)))
        page = PageNode(context=own, **overrides(folder=str(folder), port=0))
        teleop = Teleop(context=own)
        onlooker = Node("onlooker", context=own)
        look_at_everything(onlooker)
        client, env = GraphClient(domain_id=domain_id), TopicEnv(context=own, keyring=keyring)
        real = WidowXArm(context=own, **overrides(vendor="tests.ros.standin", camera_topics=["a", "b/compressed"],
                                                  cameras=["a", "b"], lock_file=""))  # fmt: skip
        probe = GateProbe(context=own)
        yield House(ears, arm, keyring)
        for part in (probe, env, client):
            part.close()
        for node in (bridge, rollout, page, teleop, real, arm, gate):
            if hasattr(node, "stop"):
                node.stop()
        for node in (estop, onlooker, bridge, rollout, page, teleop, real, arm, gate):
            node.destroy_node()
    own.try_shutdown()


class Nowhere:
    """A screen that nobody sees."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: None


def look_at_everything(node: Node) -> None:
    onlooker = Onlooker(node, Nowhere())
    for kind in (JointState, String, Image, CompressedImage):
        node.create_publisher(kind, f"shown/{kind.__name__.lower()}", topics.STREAM)
    wait_until(
        lambda: len([name for name, _ in node.get_topic_names_and_types() if "shown/" in name]) == 4, 20.0, "topics"
    )
    onlooker.subscribe()


numbers = st.floats(width=64) | st.sampled_from([0.0, 1.0, -1.0, 1e308, 5e-324])
texts = st.text(max_size=20) | st.sampled_from(["", "policy #1.00", "rgb8", "jpeg", "base_link #", "16UC1", "bgr8"])
stamps = st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1))
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | numbers | texts
objects = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.sampled_from(WORDS), inner, max_size=4),
)
shapes = st.integers(0, 2**32 - 1) | st.integers(0, 4)
names = st.sampled_from([topics.ACTION_NAMES, TARGET_NAMES, COMMAND_NAMES, topics.PROPRIO_NAMES]) | st.lists(texts)


def stamped(message: Any, stamp: tuple[int, int], frame: str) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    message.header.frame_id = frame.replace("\x00", "")
    return message


def joints(stamp: tuple[int, int], frame: str, called: Any, *values: list[float]) -> JointState:
    called = [name.replace("\x00", "") for name in called]
    position = (values[0] * 30)[: len(called)] if len(values[0]) > 2 else values[0]
    return stamped(JointState(name=called, position=position, velocity=values[1], effort=values[2]), stamp, frame)


arrays = st.lists(numbers, max_size=7)
MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    JointState: st.builds(joints, stamps, texts, names, arrays, arrays, arrays),
    String: st.builds(lambda value: messages.to_json({"": value} if not isinstance(value, dict) else value), objects)
    | st.builds(lambda text: String(data=text.replace("\x00", "")), texts | st.sampled_from(["[" * 9999, "[1]", "{"])),
    Image: st.builds(
        lambda stamp, frame, high, wide, step, code, data: stamped(
            Image(height=high, width=wide, step=step, encoding=code.replace("\x00", ""), data=data), stamp, frame
        ), stamps, texts, shapes, shapes, shapes, texts, st.binary(max_size=64),
    ),
    CompressedImage: st.builds(
        lambda stamp, code, data: stamped(CompressedImage(format=code.replace("\x00", ""), data=data), stamp, ""),
        stamps, texts, st.binary(max_size=64),
    ),
    Joy: st.builds(
        lambda stamp, axes, buttons: stamped(Joy(axes=axes, buttons=buttons), stamp, ""),
        stamps, st.lists(st.floats(width=32), max_size=8), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=12),
    ),
    Bool: st.builds(lambda data: Bool(data=data), st.booleans()),
    DiagnosticArray: st.builds(
        lambda name, said: DiagnosticArray(
            status=[DiagnosticStatus(name=name, values=[KeyValue(key=key, value="") for key in said])]
        ), st.sampled_from(["", "/arm", "arm"]), st.lists(st.sampled_from(["", "fault", "motors_failed"])),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")  # the nodes' threads do
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_callback_raises_whatever_it_hears(house: House, data: st.DataObject) -> None:
    for ear in house.ears:
        message = data.draw(MESSAGES[ear.kind], label=f"{ear.owner} {ear.topic}")
        ear.hear(serialize_message(message))
        ear.hear(data.draw(st.binary(max_size=100), label="bytes"))
    assert house.arm._steps == 0, "an arm moved without a mark"


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")  # the nodes' threads do
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_callback_raises_by_what_bears_our_own_mark(house: House, data: st.DataObject) -> None:
    """A fault in one of our own processes is no reason for the others to end."""
    for ear in house.ears:
        message = data.draw(MESSAGES[ear.kind], label=f"{ear.owner} {ear.topic}")
        marker = Marker(house.keyring.key, ear.topic)
        if ear.kind is JointState:
            message.header.frame_id += marked.BEHIND + marker.mark(marked._content(message))
        elif ear.kind is String and message.data.startswith("{") and message.data.endswith("}"):
            value = messages.from_json(message)
            mark = marker.mark(messages.to_json(value).data.encode())
            message = messages.to_json({**value, marked.FIELD: mark})
        ear.hear(serialize_message(message))


def test_every_node_was_listened_in_on(house: House) -> None:
    heard = {(ear.owner, ear.topic) for ear in house.ears}
    for owner, topic in (
        ("command_gate", topics.TARGET), ("command_gate", topics.POLICY_COMMAND), ("command_gate_estop", "estop"),
        ("command_gate", topics.TELEOP_COMMAND), ("command_gate", topics.TAKE_OVER), ("command_gate", "top/image_raw"),
        ("arm", topics.ARM_COMMAND), ("arm_cameras", "a"), ("arm_cameras", "b/compressed"), ("teleop", "joy"),
        ("bridge", "rollout/episode"), ("bridge", topics.GATE_STATUS), ("page", topics.GATE_STATUS),
        ("page", topics.DESCRIPTION), ("page", topics.DIAGNOSTICS), ("teleop", topics.TARGET),
        ("rollout_env", topics.EXECUTED), ("rollout_env", topics.TRUTH),
        ("rollout_env", "over_shoulder/image_raw"), ("onlooker", "/shown/image"), ("gate_probe", topics.ARM_COMMAND),
    ):  # fmt: skip
        assert (owner, topic) in heard
    assert {ear.kind for ear in house.ears} == set(KNOWN)


def test_nothing_subscribes_but_through_the_guarded_ear() -> None:
    """A new subscription cannot be forgotten: there is one call of create_subscription in the house."""
    calls = [
        str(path.relative_to(ROOT))
        for package in ("gymnast_ros", "gymnast_cli")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "create_subscription"
    ]
    assert calls == ["gymnast_ros/nodes/ears.py"]

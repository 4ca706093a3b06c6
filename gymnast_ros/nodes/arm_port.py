"""What any arm, simulated or real, publishes and receives; sim_world and widowx_arm publish through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gymnast_core.arm.command_gate import ArmState
from gymnast_core.arm.envelope import Envelope
from gymnast_core.arm.limits import hard_limits
from gymnast_core.arm.mark import ForeignError
from gymnast_core.arm.targets import EndEffectorTarget
from gymnast_core.errors import EstopLatchedError, ShapeError
from gymnast_core.pulse import Pulse
from gymnast_core.spec import BASE_FRAME, JOINT_NAMES, RobotSpec
from gymnast_core.types import ByteArray, FloatArray
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.marked import MarkedJoints, listen_joints
from gymnast_ros.nodes.runtime import LatchedJson

TARGET_NAMES = (
    "x", "y", "z", "r00", "r01", "r02", "r10", "r11", "r12", "r20", "r21", "r22", "gripper", *JOINT_NAMES,
    "episode", "running", "session",
)  # fmt: skip
EXECUTED_NAMES = (*topics.ACTION_NAMES, "terminated", "truncated")

SILENCE = "silence"
"""Executed source of a step for which no command came in time: the arm held its target."""

MAX_AGE_S = 2.0
"""Of a command where time does not press; an arm in real time asks for less."""
THAW_S = 0.2
"""How long other processes' news are waited for after this one was frozen."""

SESSION = time.time_ns() // 1_000_000
"""Names this process; a float64 holds it exactly."""


@dataclass(frozen=True)
class ArmDescription:
    """What an arm promises; latched JSON on arm/description.

    Attributes:
        robot: model name.
        cameras: topic prefixes, the first is the one policies use by default.
        image_height: pixels.
        image_width: pixels.
        max_steps: steps of an episode.
        control_hz: control rate.
        simulated: whether time is simulated and arm/truth exists.
        reset_s: what a reset takes when nothing is wrong.
        session: changes when the arm process restarts.
    """

    robot: str
    cameras: tuple[str, ...]
    image_height: int
    image_width: int
    max_steps: int
    control_hz: float
    simulated: bool
    reset_s: float
    session: int = SESSION

    @staticmethod
    def from_json(value: dict[str, Any]) -> ArmDescription:
        """Parse arm/description.

        Raises:
            ShapeError: a field is missing or unknown.
        """
        try:
            return ArmDescription(**{**value, "cameras": tuple(value["cameras"])})
        except (KeyError, TypeError) as error:
            raise ShapeError(f"arm/description is not ours: {error}") from error


@dataclass(frozen=True, eq=False)
class ArmReport:
    """One observation with everything that belongs to it.

    Attributes:
        stamp_ns: of the frame.
        images: camera -> (H, W, 3) uint8 RGB.
        proprio_P: (7,) float32 measured.
        joints_J: (6,) measured [rad].
        target: commanded pose.
        target_joints_J: (6,) joints of it.
        executed_A: (7,) action executed since the observation before; zeros after a reset.
        executed_source: the command's source.
        episode: counts resets.
        terminated: the episode ended by itself.
        truncated: it ran out of steps.
        effort_J: (6,) effort, where measured.
        velocity_J: (6,) [rad/s], where measured.
        captured_ns: camera -> when it took its frame, by its own stamp; a simulated one takes it at stamp_ns.
        fault: why the episode ended by itself.
        fault_kind: the same as one word that an episode bears (truncated_reason); empty is any other fault.
    """

    stamp_ns: int
    images: dict[str, ByteArray]
    proprio_P: FloatArray
    joints_J: npt.NDArray[np.float64]
    target: EndEffectorTarget
    target_joints_J: npt.NDArray[np.float64]
    executed_A: FloatArray
    executed_source: str
    episode: int
    terminated: bool = False
    truncated: bool = False
    effort_J: npt.NDArray[np.float64] | None = None
    velocity_J: npt.NDArray[np.float64] | None = None
    captured_ns: Mapping[str, int] = field(default_factory=dict)
    fault: str = ""
    fault_kind: str = ""

    def arm_state(self) -> ArmState:
        """The gate's part."""
        running = not (self.terminated or self.truncated)
        return ArmState(self.stamp_ns, self.target, self.target_joints_J, self.effort_J, self.episode, running, SESSION)


COMMAND_NAMES = (*topics.ACTION_NAMES, "latch")
"""Of command/arm; "latch" is the stop latch's word under which the gate decided."""


class ArmPort:
    """Publishers and the one command subscription of an arm node, which hears its own graph's gate alone.

    Args:
        node: the arm node.
        description: latched at once.
        on_command: called with action (7,), the stamp it answers, and its source, once for every command that the
            gate sent, in time, and under the stop latch's present word; may raise, then the command is counted and
            dropped.
        spec: of the arm, at the rate that it is commanded at.
        table_height_m: of the arm's own, hard envelope.
        max_age_s: of a command, from the gate's decision to here.
    """

    def __init__(
        self,
        node: Node,
        description: ArmDescription,
        on_command: Callable[[FloatArray, int, str], None],
        spec: RobotSpec,
        *,
        table_height_m: float = 0.0,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._node, self._on_command = node, on_command
        self._envelope = Envelope(hard_limits(table_height_m, spec))
        keyring = Keyring.of_environment()
        self.latch = keyring.latch
        self._pulse = Pulse()
        self._clock = node.create_publisher(Clock, topics.CLOCK, topics.STREAM) if description.simulated else None
        self._images = {
            name: node.create_publisher(Image, topics.image_topic(name), topics.STREAM) for name in description.cameras
        }
        self._joints = node.create_publisher(JointState, topics.JOINT_STATES, topics.STREAM)
        self._proprio = node.create_publisher(JointState, topics.PROPRIOCEPTION, topics.STREAM)
        self._target = MarkedJoints(node, keyring, topics.TARGET, topics.STREAM)
        self._executed = node.create_publisher(JointState, topics.EXECUTED, topics.STREAM)
        self._notes = None if description.simulated else node.create_publisher(String, topics.NOTES, topics.STREAM)
        LatchedJson(node, topics.DESCRIPTION).publish(asdict(description))
        listen_joints(
            node, keyring, topics.ARM_COMMAND, self._command, topics.STREAM, max_age_ns=round(max_age_s * 1e9)
        )

    def publish_state(self, arm: ArmState) -> None:
        """Where the arm is while there is nothing to observe, for the gate, and for re-arming it."""
        self._pulse.beat()
        self._target.publish(to_target(arm))

    def publish(self, report: ArmReport) -> None:
        """Publish one observation; the gate's part first, the frame last, so that with it everything is there."""
        stamp_ns = report.stamp_ns
        self._pulse.beat()
        if self._clock is not None:
            self._clock.publish(Clock(clock=messages.to_time(stamp_ns)))
        self._target.publish(to_target(report.arm_state()))
        joints = messages.to_named(JOINT_NAMES, report.joints_J.tolist(), stamp_ns, BASE_FRAME)
        if report.effort_J is not None:
            joints.effort = report.effort_J.tolist()
        if report.velocity_J is not None:
            joints.velocity = report.velocity_J.tolist()
        self._joints.publish(joints)
        self._proprio.publish(messages.to_named(topics.PROPRIO_NAMES, report.proprio_P.tolist(), stamp_ns, BASE_FRAME))
        values = [*report.executed_A.tolist(), float(report.terminated), float(report.truncated)]
        self._executed.publish(messages.to_named(EXECUTED_NAMES, values, stamp_ns, report.executed_source))
        if self._notes is not None:
            notes = {"stamp_ns": stamp_ns, "captured_ns": dict(report.captured_ns), "fault": report.fault,
                     "fault_kind": report.fault_kind}  # fmt: skip
            self._notes.publish(messages.to_json(notes))
        for name, publisher in self._images.items():
            publisher.publish(messages.to_image(report.images[name], stamp_ns, f"{name}_optical_frame"))

    def check(self, action_A: FloatArray, target: EndEffectorTarget, joints_J: npt.NDArray[np.float64]) -> None:
        """Refuse what leads out of the arm's own envelope, whatever its source; ask right before moving.

        Args:
            action_A: (7,) float32.
            target: commanded pose.
            joints_J: (6,) joints of it.

        Raises:
            SafetyError: the arm stays where it is.
        """
        self._envelope.check(action_A, ArmState(0, target, joints_J))

    def check_stopped(self) -> None:
        """Refuse to move while the emergency stop is latched.

        Raises:
            EstopLatchedError: it is.
        """
        if self.latch.stopped:
            raise EstopLatchedError("the emergency stop is latched; re-arm the gate")

    def _command(self, message: JointState) -> None:
        if tuple(message.name) != COMMAND_NAMES or len(message.position) != len(COMMAND_NAMES):
            raise ShapeError(f"command/arm must name {COMMAND_NAMES}, got {tuple(message.name)}")
        action_A = messages.from_named(message, topics.ACTION_NAMES)
        if self._pulse.frozen():
            time.sleep(THAW_S)  # whatever stopped us may have stopped the gate: its news of a stop go first
        self.check_stopped()
        if int(message.position[-1]) != self.latch.word:
            raise ForeignError("the emergency stop was latched since the gate decided it")
        self._on_command(action_A, messages.to_ns(message.header.stamp), message.header.frame_id)


def to_target(arm: ArmState) -> JointState:
    """arm/target: pose, rotation matrix, gripper, joints, episode; all float64 and exact."""
    target = arm.target
    pose = [*target.position_m.tolist(), *target.rotation.ravel().tolist(), target.gripper]
    values = [*pose, *arm.target_joints_J.tolist(), arm.episode, arm.running, arm.session]
    message = messages.to_named(TARGET_NAMES, values, arm.stamp_ns, BASE_FRAME)
    if arm.effort_J is not None:
        message.effort = arm.effort_J.tolist()
    return message


def from_target(message: JointState) -> ArmState:
    """What the gate needs of an arm.

    Raises:
        ShapeError: names or number of values differ from to_target's.
    """
    if tuple(message.name) != TARGET_NAMES or len(message.position) != len(TARGET_NAMES):
        raise ShapeError(f"arm/target must name {TARGET_NAMES}, got {tuple(message.name)}")
    values = np.asarray(message.position, np.float64)
    if not np.isfinite(values).all():
        raise ShapeError(f"arm/target must be finite, got {values.tolist()}")
    target = EndEffectorTarget(values[:3].copy(), values[3:12].reshape(3, 3).copy(), float(values[12]))
    effort_J = np.asarray(message.effort, np.float64) if len(message.effort) == 6 else None
    stamp_ns, episode, running = messages.to_ns(message.header.stamp), int(values[19]), bool(values[20])
    return ArmState(stamp_ns, target, values[13:19].copy(), effort_J, episode, running, int(values[21]))

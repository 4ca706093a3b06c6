"""Drives a WidowX 250s by Bridge's conventions through the vendor's API; no ROS in here.

Deltas add to the previous target, inverse kinematics starts from the previous solution, profile times are set once.
A step that cannot be done holds the arm and is counted; too many end the episode.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import SafetyError, StaleCommandError, UnreachableError
from gymnast_core.kinematics import forward, inverse
from gymnast_core.spec import JOINT_NAMES, WIDOWX_250S, RobotSpec
from gymnast_core.targets import EndEffectorTarget, proprioception
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.contract import VendorRobot, check_vendor

LOG = logging.getLogger(__name__)
Array = npt.NDArray[np.float64]

SLOW_S = 2.0
"""Profile time of moves to neutral and sleep."""
MOVING_SHARE, ACCELERATION_SHARE = 1.25, 0.5
"""Bridge's profile, as shares of the control step."""
MAX_FAILURES = 5
"""Failed steps in a row after which the episode ends."""
PRESSURE, HOLDING_PRESSURE = 0.5, 0.2
"""Of the gripper while it closes, and while it keeps what it has: full pressure overloads the motor in minutes."""
GRIPPER_SETTLE_S = 1.0
LOOK_S = 0.02
"""How often a slow move asks whether it shall stop."""


@dataclass(frozen=True, eq=False)
class ArmReading:
    """What the motors say.

    Attributes:
        joints_J: (6,) [rad].
        velocity_J: (6,) [rad/s].
        effort_J: (6,) [mA].
        finger_m: left finger's position.
        stamp_ns: of the joint_states message.
    """

    joints_J: Array
    velocity_J: Array
    effort_J: Array
    finger_m: float
    stamp_ns: int

    def proprio_P(self, spec: RobotSpec) -> FloatArray:
        """Bridge's proprioception, measured."""
        span = spec.finger_open_m - spec.finger_closed_m
        gripper = float(np.clip((self.finger_m - spec.finger_closed_m) / span, 0.0, 1.0))
        return proprioception(*forward(self.joints_J), gripper)


class WidowXDriver:
    """One arm.

    Args:
        robot: the vendor's object.
        spec: limits and poses.
        monotonic_s: clock of slow moves and of the gripper loop.
        pause: waits so many seconds.

    Raises:
        ContractError: the vendor package is not the one we know.
    """

    def __init__(
        self,
        robot: VendorRobot,
        *,
        spec: RobotSpec = WIDOWX_250S,
        monotonic_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        check_vendor(robot)
        self._robot, self._spec, self._now_s, self._pause = robot, spec, monotonic_s, pause
        self.stopped = ""
        """Why nothing may move; set from any thread, ends slow moves, empty when it may."""
        self.failures = self.failures_in_a_row = 0
        self._gripper = _GripperLoop(robot, monotonic_s)
        self._target, self._joints_J = self._standing()

    @property
    def target(self) -> EndEffectorTarget:
        """Pose the arm was last told."""
        return self._target

    @property
    def target_joints_J(self) -> Array:
        """Joints of it."""
        return self._joints_J

    def read(self) -> ArmReading:
        """Newest joint states.

        Raises:
            StaleCommandError: there are none.
        """
        message: Any = self._robot.core.robot_get_joint_states()
        if message is None:
            raise StaleCommandError("no joint_states from xs_sdk; is it running?")
        index = {name: number for number, name in enumerate(message.name)}
        joints = [index[name] for name in JOINT_NAMES]
        stamp = message.header.stamp
        return ArmReading(
            np.asarray(message.position, np.float64)[joints],
            np.asarray(message.velocity, np.float64)[joints],
            np.asarray(message.effort, np.float64)[joints],
            float(message.position[index["left_finger"]]),
            int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec),
        )

    def start_up(self) -> None:
        """Torque on, neutral pose, gripper open, then the profile of a control step, once.

        Raises:
            SafetyError: the arm refuses the neutral pose.
        """
        torque_on(self._robot)
        self._robot.gripper.set_pressure(pressure=PRESSURE)
        self.go_neutral()

    def go_neutral(self) -> None:
        """Move to the neutral pose at a gentle speed and wait for it.

        Raises:
            SafetyError: the arm refuses it, or was stopped on the way.
        """
        self._arrive(self.begin_neutral())
        self.end_neutral()

    def begin_neutral(self) -> float:
        """Start moving to the neutral pose; returns after how many seconds end_neutral() may be called.

        Raises:
            SafetyError: the arm refuses it, or may not move.
        """
        self._check_stopped()
        self._robot.arm.capture_joint_positions()
        self._robot.arm.set_trajectory_time(moving_time=SLOW_S, accel_time=SLOW_S / 4)
        done = self._robot.arm.set_joint_positions(
            joint_positions=list(self._spec.neutral_joints_rad),
            moving_time=SLOW_S,
            accel_time=SLOW_S / 4,
            blocking=False,
        )
        if not done:
            raise SafetyError("the arm refuses its neutral pose; move it by hand, then activate again")
        self._gripper.command(1.0)
        return SLOW_S

    def end_neutral(self) -> None:
        """Set the profile of a control step, once, and take the neutral pose as the target."""
        step_s = self._spec.step_s
        self._robot.arm.set_trajectory_time(moving_time=MOVING_SHARE * step_s, accel_time=ACCELERATION_SHARE * step_s)
        neutral = np.array(self._spec.neutral_joints_rad)
        self._target, self._joints_J = EndEffectorTarget(*forward(neutral), 1.0), neutral
        self.failures_in_a_row = 0

    def step(self, action_A: FloatArray) -> FloatArray:
        """Command one action and return the one executed; an impossible one holds the arm, the gripper still acts.

        Raises:
            SafetyError: too many failures in a row.
        """
        target, commanded_A = self._target.advanced(action_A, self._spec)
        try:
            joints_J = inverse(target.position_m, target.rotation, self._joints_J, spec=self._spec)
            done = self._robot.arm.set_joint_positions(
                joint_positions=joints_J.tolist(), moving_time=None, accel_time=None, blocking=False
            )
        except UnreachableError as error:
            LOG.warning("step_unreachable error=%s", error)
            done = False
        if done:
            self._target, self._joints_J, self.failures_in_a_row = target, joints_J, 0
        else:
            self._target = EndEffectorTarget(self._target.position_m, self._target.rotation, target.gripper)
            commanded_A[:6] = 0.0
            self._count_failure()
        self._gripper.command(target.gripper)
        return commanded_A

    def tick(self) -> None:
        """Call at the control rate: relaxes a gripper that holds something."""
        self._gripper.tick()

    def hold(self) -> None:
        """Command the pose the arm is in now, so that nothing it was told before moves it further."""
        self._robot.arm.capture_joint_positions()  # else its speed check compares with a goal never reached
        self._target, self._joints_J = self._standing()
        self._robot.arm.set_joint_positions(
            joint_positions=self._joints_J.tolist(), moving_time=None, accel_time=None, blocking=False
        )

    def sleep(self, *, torque_off: bool = True) -> None:
        """Go to the sleep pose and only then let go: torque-off anywhere else drops the arm.

        Raises:
            SafetyError: the arm may not move, or was stopped on the way; it holds, with torque.
        """
        self._check_stopped()
        self._robot.arm.set_trajectory_time(moving_time=SLOW_S, accel_time=SLOW_S / 4)
        self._robot.arm.go_to_sleep_pose(moving_time=SLOW_S, accel_time=SLOW_S / 4, blocking=False)
        self._arrive(SLOW_S)
        if torque_off:
            self._robot.core.robot_torque_enable(cmd_type="group", name="arm", enable=False)

    def _arrive(self, seconds: float) -> None:
        """Wait for a slow move, and end it where somebody stops it."""
        until_s = self._now_s() + seconds
        while (left_s := until_s - self._now_s()) > 0:
            if self.stopped:
                self.hold()
            self._check_stopped()
            self._pause(min(LOOK_S, left_s))

    def _check_stopped(self) -> None:
        if self.stopped:
            raise SafetyError(f"the arm may not move: {self.stopped}")

    def _standing(self) -> tuple[EndEffectorTarget, Array]:
        """Where the arm really is, as a target."""
        reading = self.read()
        span = self._spec.finger_open_m - self._spec.finger_closed_m
        gripper = float(np.clip((reading.finger_m - self._spec.finger_closed_m) / span, 0.0, 1.0))
        return EndEffectorTarget(*forward(reading.joints_J), gripper), reading.joints_J

    def _count_failure(self) -> None:
        self.failures += 1
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= MAX_FAILURES:
            raise SafetyError(f"{self.failures_in_a_row} steps in a row could not be done; the episode ends")


def torque_on(robot: VendorRobot) -> None:
    """Let every motor hold."""
    robot.core.robot_torque_enable(cmd_type="group", name="arm", enable=True)
    robot.core.robot_torque_enable(cmd_type="single", name="gripper", enable=True)


class _GripperLoop:
    """Opens and closes without waiting; eases off once it holds something."""

    def __init__(self, robot: VendorRobot, now_s: Callable[[], float]) -> None:
        self._robot, self._now_s = robot, now_s
        self._closed: bool | None = None
        self._closed_at_s: float | None = None

    def command(self, opening: float) -> None:
        closed = opening < 0.5
        if closed == self._closed:
            return
        self._closed = closed
        self._closed_at_s = self._now_s() if closed else None
        self._robot.gripper.set_pressure(pressure=PRESSURE)
        if closed:
            self._robot.gripper.grasp(delay=0.0)
        else:
            self._robot.gripper.release(delay=0.0)

    def tick(self) -> None:
        if self._closed_at_s is not None and self._now_s() - self._closed_at_s > GRIPPER_SETTLE_S:
            self._closed_at_s = None
            self._robot.gripper.set_pressure(pressure=HOLDING_PRESSURE)
            self._robot.gripper.grasp(delay=0.0)

"""Drives a WidowX 250s by Bridge's conventions through the vendor's API; no ROS in here.

Deltas add to the previous target, inverse kinematics starts from the previous solution, profile times are set once.
A step that cannot be done holds the arm and is counted; too many end the episode. A pose is reached when the joints
have been measured there, never because the time for it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gymnast_core.arm.kinematics import forward, inverse
from gymnast_core.arm.targets import EndEffectorTarget
from gymnast_core.errors import EstopLatchedError, SafetyError, StaleCommandError, UnreachableError
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.arrival import why_not_at
from gymnast_ros.drivers.contract import VendorRobot
from gymnast_ros.drivers.gripper import PRESSURE, GripperLoop
from gymnast_ros.drivers.guard import guarded
from gymnast_ros.drivers.profile import Profile
from gymnast_ros.drivers.reading import ArmReading, read

LOG = logging.getLogger(__name__)
Array = npt.NDArray[np.float64]

SLOW_S = 2.0
"""Profile time of moves to neutral and sleep."""
MOVING_SHARE, ACCELERATION_SHARE = 1.25, 0.5
"""Bridge's profile, as shares of the control step."""
MAX_FAILURES = 5
"""Failed steps in a row after which the episode ends."""
LOOK_S = 0.02
"""How often a slow move asks whether it shall stop."""
ALIVE_S = 1.0
"""The driver sends joint states 100 times a second."""


class WidowXDriver:
    """One arm.

    Args:
        robot: the vendor's object.
        spec: limits and poses.
        dry_run: the vendor's own simulation, which has no registers.
        monotonic_s: clock of slow moves and of the gripper loop.
        pause: waits so many seconds.

    Raises:
        ContractError: the vendor package is not the one we know.
        SafetyError: its joint states are missing or make no sense.
    """

    def __init__(
        self,
        robot: VendorRobot,
        *,
        spec: RobotSpec = WIDOWX_250S,
        dry_run: bool = False,
        monotonic_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._robot = guarded(robot)
        self._spec, self._now_s, self._pause = spec, monotonic_s, pause
        self.stopped = ""
        """Why nothing may move; set from any thread, ends slow moves, empty when it may."""
        self.failures = self.failures_in_a_row = 0
        step_s = spec.step_s
        self._of_a_step = Profile(MOVING_SHARE * step_s, ACCELERATION_SHARE * step_s, checked=not dry_run)
        self._slow = Profile(SLOW_S, SLOW_S / 4, checked=not dry_run)
        self._profile: Profile | None = None
        """In the motors; None when it is not known."""
        self._gripper = GripperLoop(self._robot, monotonic_s)
        reading = self.read()
        self._target, self._joints_J = reading.standing(spec), reading.joints_J

    @property
    def target(self) -> EndEffectorTarget:
        """Pose that was commanded last."""
        return self._target

    @property
    def target_joints_J(self) -> Array:
        """Joints of it."""
        return self._joints_J

    def read(self) -> ArmReading:
        """Newest joint states.

        Raises:
            SafetyError: there are none, or they make no sense.
        """
        return read(self._robot)

    def check_alive(self) -> None:
        """Wait for joint states that are new.

        Raises:
            StaleCommandError: none came; the last ones stay readable for ever when the driver has gone.
        """
        known_ns, until_s = self.read().stamp_ns, self._now_s() + ALIVE_S
        while self.read().stamp_ns == known_ns:
            if self._now_s() >= until_s:
                raise StaleCommandError(f"no new joint_states for {ALIVE_S:.0f} s; is xs_sdk still running?")
            self._pause(LOOK_S)

    def start_up(self) -> None:
        """Torque on, neutral pose, gripper open, then the profile of a control step, once.

        Raises:
            SafetyError: the driver is gone, or the arm does not get to its neutral pose.
        """
        self.check_alive()
        torque_on(self._robot)
        self._robot.gripper.set_pressure(pressure=PRESSURE)
        self.go_neutral()

    def go_neutral(self) -> None:
        """Move to the neutral pose at a gentle speed and wait for it.

        Raises:
            SafetyError: the arm refuses it, was stopped on the way, or did not get there.
        """
        self._pass(self.begin_neutral())
        self.end_neutral()

    def begin_neutral(self) -> float:
        """Start moving to the neutral pose; returns after how many seconds end_neutral() may be called.

        Raises:
            SafetyError: the arm refuses it, or may not move.
        """
        self._check_stopped()
        self.check_alive()
        self._robot.arm.capture_joint_positions()
        self._use(self._slow)  # a goal this far away at the speed of a step would be dangerous: checked first
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
        """Look whether the arm is at neutral, set the profile of a control step, once, and take neutral as the target.

        Raises:
            SafetyError: it is not there; it holds.
        """
        self._await(self._spec.neutral_joints_rad, "neutral")
        self._use(self._of_a_step)
        neutral = np.array(self._spec.neutral_joints_rad)
        self._target, self._joints_J = EndEffectorTarget(*forward(neutral, self._spec), 1.0), neutral
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
        """Command the pose the arm is in now, so that no earlier command moves it further.

        Unconditional: the vendor's checks of limits and speed are not asked; a joint beyond its limit gets the limit.
        During a slow move that goal takes effect at the slow move's pace, so the profile of a step follows at once,
        and the goal again, with which the motors take it over.

        Raises:
            SafetyError: the driver is gone, or the motors keep the slow profile; the goal was sent.
        """
        self._command_standing()
        if self._profile is not self._of_a_step:
            self._use(self._of_a_step)
            self._command_standing()

    def sleep(self, *, torque_off: bool = True) -> None:
        """Go to the sleep pose and only there let go: torque-off anywhere else drops the arm.

        Args:
            torque_off: else the arm only goes there as far as it can, with torque.

        Raises:
            SafetyError: the arm may not move, was stopped on the way, or did not get there; it holds, with torque.
        """
        self._check_stopped()
        self.check_alive()
        self._use(self._slow)
        self._robot.arm.go_to_sleep_pose(moving_time=SLOW_S, accel_time=SLOW_S / 4, blocking=False)
        self._pass(SLOW_S)
        if torque_off:
            self._await(self._spec.sleep_joints_rad, "sleep")
            self._robot.core.robot_torque_enable(cmd_type="group", name="arm", enable=False)

    def _command_standing(self) -> None:
        """Send the measured joints, clipped to their limits."""
        reading = self.read()
        self._robot.arm.capture_joint_positions()  # else its speed check compares with a goal never reached
        within_J = np.clip(reading.joints_J, self._spec.joint_low_rad, self._spec.joint_high_rad)
        self._robot.core.robot_write_commands(group_name="arm", commands=within_J.tolist())
        self._target, self._joints_J = reading.standing(self._spec), within_J

    def _use(self, profile: Profile) -> None:
        """Let the motors take a profile with their next goal."""
        if self._profile is not profile:
            self._profile = None
            profile.write(self._robot)
            self._profile = profile

    def forget_profile(self) -> None:
        """The motors were rebooted or given modes: their profile is written again before the next goal."""
        self._profile = None

    def _pass(self, seconds: float) -> None:
        """Wait for the time of a slow move, and end it where somebody stops it."""
        until_s = self._now_s() + seconds
        while (left_s := until_s - self._now_s()) > 0:
            self._look(min(LOOK_S, left_s))

    def _await(self, pose_rad: tuple[float, ...], what: str) -> None:
        """Wait until the joints are measured at a pose and still; else hold.

        Raises:
            SafetyError: somebody stopped the arm, or it did not get there; the joint is named.
        """
        if reason := why_not_at(pose_rad, self.read, self._now_s, lambda: self._look(LOOK_S)):
            self.hold()
            raise SafetyError(f"the arm did not reach its {what} pose: {reason}; it holds, with torque")

    def _look(self, seconds: float) -> None:
        """Wait a moment of a slow move; somebody may have stopped it."""
        if self.stopped:
            self.hold()
        self._check_stopped()
        self._pause(seconds)

    def _check_stopped(self) -> None:
        if self.stopped:
            raise EstopLatchedError(f"the arm may not move: {self.stopped}")

    def _count_failure(self) -> None:
        self.failures += 1
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= MAX_FAILURES:
            raise SafetyError(f"{self.failures_in_a_row} steps in a row could not be done; the episode ends")


def torque_on(robot: VendorRobot) -> None:
    """Let every motor hold."""
    robot.core.robot_torque_enable(cmd_type="group", name="arm", enable=True)
    robot.core.robot_torque_enable(cmd_type="single", name="gripper", enable=True)

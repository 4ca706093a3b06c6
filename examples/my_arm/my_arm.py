"""An arm of your own: its numbers, SPEC, and a driver for its controller board.

SPEC is what kinematics, command gate, simulators and recordings ask; its name is the entry point's. Here it is a WidowX
250s with a forearm of 30 cm and stronger motors. An arm with the numbers of one that Gymnast knows leaves SPEC out.

The arm's node drives whatever `connect` returns, as long as it has the fourteen calls of
gymnast_ros.drivers.contract.VENDOR_API; check_vendor() names those that are missing before anything moves. Here the
board is a few lines that move joints on a straight line; put your bus in the place of Board.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from gymnast_core.spec import JOINT_NAMES, WIDOWX_250S

# --8<-- [start:spec]
SPEC = replace(
    WIDOWX_250S,
    name="my_arm",
    chain=replace(WIDOWX_250S.chain, forearm_roll_x_m=0.2, wrist_angle_x_m=0.1),  # where its joints are [m]
    sizes=replace(WIDOWX_250S.sizes, elbow_radius_m=0.05),  # how thick it is, for table and self-collision
    workspace_high_m=(0.5, 0.25, 0.3),
    neutral_joints_rad=(0.0, -0.9, 0.6, 0.0, 1.8708, 0.0),  # gripper down, clear of everything
    stall_nm=(10.6, 21.2, 21.2, 10.6, 10.6, 4.1),
)
# --8<-- [end:spec]
MOTORS = (*JOINT_NAMES, "gripper")


class Board:
    """Six joints and a finger: where they are, where they go, and how long that takes."""

    def __init__(self) -> None:
        self.start_J = self.goal_J = np.array(SPEC.sleep_joints_rad)
        self.begun_s, self.takes_s = time.monotonic(), 2.0
        self.finger_m = SPEC.finger_open_m
        self.registers = {"Profile_Velocity": 2000, "Profile_Acceleration": 500}
        self.torque = dict.fromkeys(MOTORS, False)

    def joints(self) -> np.ndarray:
        """Measured joints [rad]; they move only with torque."""
        if not all(self.torque[name] for name in JOINT_NAMES):
            return self.start_J
        share = min(1.0, (time.monotonic() - self.begun_s) / self.takes_s)
        return self.start_J + share * (self.goal_J - self.start_J)

    def go(self, goal_J: Sequence[float]) -> None:
        """Begin to move."""
        self.start_J, self.begun_s = self.joints(), time.monotonic()
        self.goal_J = np.array(goal_J, np.float64)
        self.takes_s = max(self.registers["Profile_Velocity"], 1) / 1000

    def motors(self, kind: str, name: str) -> tuple[str, ...]:
        """Of a group or of one name."""
        return JOINT_NAMES if kind == "group" else (name,)


class Arm:
    """Moves of the whole arm."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def set_joint_positions(
        self, joint_positions: Sequence[float], moving_time: float | None, accel_time: float | None, blocking: bool
    ) -> bool:
        """Move there; False where the board refuses."""
        low_J, high_J = np.array(SPEC.joint_low_rad), np.array(SPEC.joint_high_rad)
        if not ((low_J <= joint_positions) & (joint_positions <= high_J)).all():
            return False
        self.set_trajectory_time(moving_time, accel_time)
        self._board.go(joint_positions)
        if blocking:
            time.sleep(self._board.takes_s)
        return True

    def set_trajectory_time(self, moving_time: float | None, accel_time: float | None) -> None:
        """How long moves take from now on [s]."""
        for register, seconds in (("Profile_Velocity", moving_time), ("Profile_Acceleration", accel_time)):
            if seconds is not None:
                self._board.registers[register] = int(seconds * 1000)

    def go_to_sleep_pose(self, moving_time: float, accel_time: float, blocking: bool) -> None:
        """Fold back."""
        self.set_joint_positions(SPEC.sleep_joints_rad, moving_time, accel_time, blocking)

    def capture_joint_positions(self) -> None:
        """Nothing is remembered here, so nothing has to be captured."""


class Gripper:
    """Opens, closes."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def grasp(self, delay: float) -> None:
        """Close."""
        self._board.finger_m = SPEC.finger_closed_m

    def release(self, delay: float) -> None:
        """Open."""
        self._board.finger_m = SPEC.finger_open_m

    def set_pressure(self, pressure: float) -> None:
        """This one has no pressure to set."""


class Core:
    """What is measured, and the motors' registers."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def robot_get_joint_states(self) -> Any:
        """As a sensor_msgs/JointState; velocity and effort stay empty where they are not measured."""
        now_ns, zeros = time.time_ns(), [0.0] * 9
        stamp = SimpleNamespace(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
        finger_m = self._board.finger_m
        return SimpleNamespace(
            header=SimpleNamespace(stamp=stamp), name=[*MOTORS, "left_finger", "right_finger"],
            position=[*self._board.joints().tolist(), 0.0, finger_m, -finger_m], velocity=zeros, effort=zeros,
        )  # fmt: skip

    def robot_write_commands(self, group_name: str, commands: Sequence[float]) -> None:
        """A hold, sent past every check."""
        self._board.go(commands)

    def robot_torque_enable(self, cmd_type: str, name: str, enable: bool) -> None:
        """Torque on or off."""
        self._board.go(self._board.joints())
        for motor in self._board.motors(cmd_type, name):
            self._board.torque[motor] = enable

    def robot_reboot_motors(self, cmd_type: str, name: str, enable: bool, smart_reboot: bool) -> None:
        """These motors have no errors to reboot from."""
        self.robot_torque_enable(cmd_type, name, enable)

    def robot_get_motor_registers(self, cmd_type: str, name: str, reg: str) -> Any:
        """One value a motor."""
        motors = self._board.motors(cmd_type, name)
        tables = {"Torque_Enable": self._board.torque, "Hardware_Error_Status": dict.fromkeys(MOTORS, 0)}
        values = [int(tables[reg][motor]) if reg in tables else self._board.registers[reg] for motor in motors]
        return SimpleNamespace(values=values)

    def robot_set_motor_registers(self, cmd_type: str, name: str, reg: str, value: int) -> None:
        """Write one."""
        self._board.registers[reg] = value

    def robot_set_operating_modes(
        self, cmd_type: str, name: str, mode: str, profile_type: str, profile_velocity: int, profile_acceleration: int
    ) -> None:
        """Time profiles alone here."""
        if name == "arm":
            self._board.registers |= {
                "Profile_Velocity": profile_velocity, "Profile_Acceleration": profile_acceleration
            }  # fmt: skip


def connect(robot_model: str, robot_name: str) -> Any:
    """Open the board; the arm's node calls this when it is configured."""
    board = Board()
    return SimpleNamespace(arm=Arm(board), gripper=Gripper(board), core=Core(board))


def disconnect() -> None:
    """Close it; called when the node has ended."""

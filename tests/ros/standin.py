"""Stands in for Interbotix's package in tests: its methods are generated from gymnast_ros.drivers.contract.VENDOR_API.

It behaves like the vendor's xs_sdk on a simulated arm where that matters: joint limits and speed are checked against
the previous moving time, failures return False, registers forget what a reboot erases, torque-off drops the arm.
A fault file (JSON, environment STANDIN_FAULTS) lets a test in another process break it while it runs.
"""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gymnast_core.spec import JOINT_NAMES, WIDOWX_250S
from gymnast_ros.drivers.contract import VENDOR_API, Call

NAMES = (*JOINT_NAMES, "gripper", "left_finger", "right_finger")


class StandIn:
    """The robot object: arm, gripper and core, generated."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.now_s, self.wall_ns = now_s, wall_ns
        self.joints = np.array(WIDOWX_250S.sleep_joints_rad)
        self.start, self.goal, self.moved_at_s = self.joints, self.joints, 0.0
        self.moving_time = 2.0
        self.finger = WIDOWX_250S.finger_open_m
        self.torque = dict.fromkeys((*JOINT_NAMES, "gripper"), False)
        self.modes = {"arm": "position", "gripper": "pwm"}
        self.errors = dict.fromkeys(self.torque, 0)
        self.pressure = 0.5
        self.effort = np.zeros(6)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuse = self.hang = self.mute = self.unrepairable = False
        self.dropped = False
        self.sleeps: Callable[[float], None] = time.sleep
        for part in {call.part for call in VENDOR_API}:
            setattr(self, part, SimpleNamespace())
        for call in VENDOR_API:
            setattr(getattr(self, call.part), call.name, self._method(call))

    def _method(self, call: Call) -> Callable[..., Any]:
        behaviour = getattr(self, f"_{call.part}_{call.name}")

        def method(**arguments: Any) -> Any:
            unknown = set(arguments) - set(call.parameters)
            if unknown:
                raise TypeError(f"{call.part}.{call.name}() got unexpected {unknown}")
            self._read_faults()
            self.calls.append((f"{call.part}.{call.name}", arguments))
            return behaviour(**arguments)

        method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in call.parameters]
        )
        return method

    def _read_faults(self) -> None:
        path = os.environ.get("STANDIN_FAULTS")
        if not path or not Path(path).is_file():
            return
        faults = json.loads(Path(path).read_text())
        for motor in faults.get("drop_torque", []):
            self.torque[motor], self.errors[motor] = False, 32
        self.refuse, self.hang = faults.get("refuse", False), faults.get("hang", False)
        self.mute = faults.get("mute", False)
        self.unrepairable = faults.get("unrepairable", False)

    def where(self) -> np.ndarray:
        """Joints now: linear from start to goal within moving_time; a motor without torque stays behind."""
        share = min(1.0, (self.now_s() - self.moved_at_s) / self.moving_time)
        goal = np.where([self.torque[name] for name in JOINT_NAMES], self.goal, self.start)
        return self.start + share * (goal - self.start)

    def _go(self, goal: list[float]) -> None:
        self.start, self.moved_at_s = self.where(), self.now_s()
        self.goal = np.array(goal)

    def _arm_set_joint_positions(self, joint_positions, moving_time, accel_time, blocking) -> bool:
        speed = np.abs(np.array(joint_positions) - self.goal) / self.moving_time
        low, high = np.array(WIDOWX_250S.joint_low_rad), np.array(WIDOWX_250S.joint_high_rad)
        outside = (np.array(joint_positions) < low - 1e-3).any() or (np.array(joint_positions) > high + 1e-3).any()
        if self.refuse or outside or (speed > np.pi).any():
            return False
        if moving_time is not None:
            self.moving_time = moving_time
        self._go(joint_positions)
        if blocking:
            self.sleeps(self.moving_time)
        return True

    def _arm_set_trajectory_time(self, moving_time, accel_time) -> None:
        self.start, self.goal = self.where(), self.goal
        self.moved_at_s = self.now_s()
        self.moving_time = moving_time

    def _arm_go_to_sleep_pose(self, moving_time, accel_time, blocking) -> None:
        self.moving_time = moving_time
        self._go(list(WIDOWX_250S.sleep_joints_rad))
        if blocking:
            self.sleeps(moving_time)

    def _arm_capture_joint_positions(self) -> None:
        self.goal = self.start = self.where()

    def _gripper_grasp(self, delay) -> None:
        self.finger = WIDOWX_250S.finger_closed_m

    def _gripper_release(self, delay) -> None:
        self.finger = WIDOWX_250S.finger_open_m

    def _gripper_set_pressure(self, pressure) -> None:
        self.pressure = pressure

    def _core_robot_get_joint_states(self) -> Any:
        stamp_ns = self.wall_ns() - (5_000_000_000 if self.mute else 0)
        joints = self.where()
        stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return SimpleNamespace(
            header=SimpleNamespace(stamp=stamp),
            name=list(NAMES),
            position=[*joints, 0.0, self.finger, -self.finger],
            velocity=[0.0] * 9,
            effort=[*self.effort, 0.0, 0.0, 0.0],
        )

    def _core_robot_torque_enable(self, cmd_type, name, enable) -> None:
        asleep = np.abs(self.where() - np.array(WIDOWX_250S.sleep_joints_rad)).max() < 0.05
        self.dropped = self.dropped or (not enable and name == "arm" and not asleep)
        for motor in JOINT_NAMES if cmd_type == "group" else (name,):
            self.torque[motor] = enable and (self.errors[motor] == 0)

    def _core_robot_reboot_motors(self, cmd_type, name, enable, smart_reboot) -> None:
        for motor in JOINT_NAMES if cmd_type == "group" else (name,):
            if self.errors[motor] and not self.unrepairable:
                self.errors[motor], self.torque[motor] = 0, enable
                self.modes["arm" if cmd_type == "group" else name] = "forgotten"

    def _core_robot_get_motor_registers(self, cmd_type, name, reg) -> Any:
        if self.hang:
            time.sleep(3600.0)
        motors = JOINT_NAMES if cmd_type == "group" else (name,)
        table = {"Torque_Enable": self.torque, "Hardware_Error_Status": self.errors}[reg]
        return SimpleNamespace(values=[int(table[motor]) for motor in motors])

    def _core_robot_set_operating_modes(
        self, cmd_type, name, mode, profile_type, profile_velocity, profile_acceleration
    ) -> None:
        self.modes[name] = mode


_CONNECTED: list[StandIn] = []


def connect(robot_model: str, robot_name: str) -> StandIn:
    """As gymnast_ros.drivers.interbotix.connect: once per process."""
    if not _CONNECTED:
        _CONNECTED.append(StandIn())
    return _CONNECTED[0]


def disconnect() -> None:
    """Write down how the arm was left, for the test that stopped us."""
    report = os.environ.get("STANDIN_REPORT")
    if report:
        (robot,) = _CONNECTED
        Path(report).write_text(
            json.dumps({"dropped": robot.dropped, "torque": robot.torque, "calls": len(robot.calls)})
        )

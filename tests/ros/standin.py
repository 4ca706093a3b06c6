"""Stands in for Interbotix's package in tests: its methods are generated from gymnast_ros.drivers.contract.VENDOR_API.

It is as nasty as the vendor's package and driver are:

- limits and speed are checked against the previous goal and the moving time that the package remembers; failures
  return False, a register that the package believes written is not written again;
- the motors run a time profile: a new goal takes the registers' time over and starts with the old speed, so that a hold
  with a slow profile overshoots by up to 4/27 of speed x time;
- registers and modes are forgotten by a reboot, torque-off drops the arm, a blocked joint stays where it is;
- velocity and effort may be empty, as of the vendor's own simulation, which knows no registers either;
- when the driver is dead, the last joint states stay readable for ever, commands go nowhere, services answer None.

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

from gymnast_core.robots import robot_named
from gymnast_core.spec import JOINT_NAMES, WIDOWX_250S, RobotSpec
from gymnast_ros.drivers.contract import VENDOR_API, Call

NAMES = (*JOINT_NAMES, "gripper", "left_finger", "right_finger")
FLAGS = ("refuse", "hang", "mute", "unrepairable", "dead", "bare", "explode")


class StandIn:
    """The robot object: arm, gripper and core, generated."""

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, wall_ns: Callable[[], int] = time.time_ns,
        spec: RobotSpec = WIDOWX_250S,
    ) -> None:  # fmt: skip
        self.now_s, self.wall_ns, self.spec = now_s, wall_ns, spec
        self.start = self.goal = self.told = np.array(self.spec.sleep_joints_rad)
        self.speed = np.zeros(6)
        self.moved_at_s = 0.0
        self.moving_time, self.accel_time = 2.0, 0.3
        self.registers = {"Profile_Velocity": 2000, "Profile_Acceleration": 300}
        self.pace_s = 2.0
        self.stuck: dict[str, float] = {}
        self.last_states: Any = None
        self.finger = self.spec.finger_open_m
        self.torque = dict.fromkeys((*JOINT_NAMES, "gripper"), False)
        self.modes = {"arm": "position", "gripper": "pwm"}
        self.errors = dict.fromkeys(self.torque, 0)
        self.pressure = 0.5
        self.effort = np.zeros(6)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuse = self.hang = self.mute = self.unrepairable = self.dead = self.bare = self.explode = False
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
            if self.explode:
                raise KeyError(call.name)
            return behaviour(**arguments)

        method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in call.parameters]
        )
        return method

    def _read_faults(self) -> None:
        path = os.environ.get("STANDIN_FAULTS")
        if path and Path(path).is_file():
            faults = json.loads(Path(path).read_text())
            for motor in faults.get("drop_torque", []):
                self.torque[motor], self.errors[motor] = False, 32
            for flag in FLAGS:
                setattr(self, flag, faults.get(flag, False))
            self.block(*faults.get("block", []))
        driver = os.environ.get("STANDIN_DRIVER")
        self.dead = self.dead or (driver is not None and not Path(driver).is_file())

    def block(self, *motors: str) -> None:
        """These joints, and no others, are stuck where they are."""
        here = dict(zip(JOINT_NAMES, self.where().tolist(), strict=True))
        self.stuck = {motor: self.stuck.get(motor, here[motor]) for motor in motors}

    def where(self) -> np.ndarray:
        """Joints now: a cubic from the old speed to rest at the goal, in the pace of the profile."""
        return self._hermite()[0]

    def _hermite(self) -> tuple[np.ndarray, np.ndarray]:
        """Position and speed."""
        share = min(1.0, (self.now_s() - self.moved_at_s) / self.pace_s)
        alive = np.array([self.torque[name] for name in JOINT_NAMES])
        way = np.where(alive, self.goal - self.start, 0.0)
        swing = np.where(alive, self.speed, 0.0) * self.pace_s
        position = self.start + way * (3 * share**2 - 2 * share**3) + swing * (share - 2 * share**2 + share**3)
        slope = way * (6 * share - 6 * share**2) + swing * (1 - 4 * share + 3 * share**2)
        for motor, at in self.stuck.items():
            position[JOINT_NAMES.index(motor)], slope[JOINT_NAMES.index(motor)] = at, 0.0
        return position, slope / self.pace_s

    def _go(self, goal: list[float]) -> None:
        if self.dead:
            return
        (self.start, self.speed), self.moved_at_s = self._hermite(), self.now_s()
        self.goal, self.pace_s = np.array(goal), max(self.registers["Profile_Velocity"], 1) / 1000

    def _arm_set_joint_positions(self, joint_positions, moving_time, accel_time, blocking) -> bool:
        cut = np.trunc(np.array(joint_positions) * 1000) / 1000
        low, high = np.array(self.spec.joint_low_rad), np.array(self.spec.joint_high_rad)
        speed = np.abs(cut - self.told) / self.moving_time
        if self.refuse or (cut < low).any() or (cut > high).any() or (speed > np.pi).any():
            return False
        self._arm_set_trajectory_time(moving_time, accel_time)
        self.told = np.array(joint_positions)
        self._go(joint_positions)
        if blocking:
            self.sleeps(self.moving_time)
        return True

    def _arm_set_trajectory_time(self, moving_time, accel_time) -> None:
        if moving_time is not None and moving_time != self.moving_time:
            self.moving_time = moving_time
            self._core_robot_set_motor_registers("group", "arm", "Profile_Velocity", int(moving_time * 1000))
        if accel_time is not None and accel_time != self.accel_time:
            self.accel_time = accel_time
            self._core_robot_set_motor_registers("group", "arm", "Profile_Acceleration", int(accel_time * 1000))

    def _arm_go_to_sleep_pose(self, moving_time, accel_time, blocking) -> None:
        self._arm_set_trajectory_time(moving_time, accel_time)
        self.told = np.array(self.spec.sleep_joints_rad)
        self._go(list(self.spec.sleep_joints_rad))
        if blocking:
            self.sleeps(moving_time)

    def _arm_capture_joint_positions(self) -> None:
        self.told = np.array(self._core_robot_get_joint_states().position[:6])

    def _core_robot_write_commands(self, group_name, commands) -> None:
        self._go(commands)

    def _gripper_grasp(self, delay) -> None:
        self.finger = self.spec.finger_closed_m

    def _gripper_release(self, delay) -> None:
        self.finger = self.spec.finger_open_m

    def _gripper_set_pressure(self, pressure) -> None:
        self.pressure = pressure

    def _core_robot_get_joint_states(self) -> Any:
        if self.dead and self.last_states is not None:
            return self.last_states
        stamp_ns = self.wall_ns() - (5_000_000_000 if self.mute else 0)
        joints, speed = self._hermite()
        stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        self.last_states = SimpleNamespace(
            header=SimpleNamespace(stamp=stamp),
            name=list(NAMES),
            position=[*joints.tolist(), 0.0, self.finger, -self.finger],
            velocity=[] if self.bare else [*speed.tolist(), 0.0, 0.0, 0.0],
            effort=[] if self.bare else [*self.effort, 0.0, 0.0, 0.0],
        )
        return self.last_states

    def _core_robot_torque_enable(self, cmd_type, name, enable) -> None:
        if self.dead:
            return
        asleep = np.abs(self.where() - np.array(self.spec.sleep_joints_rad)).max() < 0.05
        self.dropped = self.dropped or (not enable and name == "arm" and not asleep)
        for motor in JOINT_NAMES if cmd_type == "group" else (name,):
            self.torque[motor] = enable and (self.errors[motor] == 0)

    def _core_robot_reboot_motors(self, cmd_type, name, enable, smart_reboot) -> None:
        for motor in JOINT_NAMES if cmd_type == "group" else (name,):
            if self.errors[motor] and not self.unrepairable:
                self.errors[motor], self.torque[motor] = 0, enable
                self.modes["arm" if cmd_type == "group" else name] = "forgotten"
                self.registers = dict.fromkeys(self.registers, 0)

    def _core_robot_get_motor_registers(self, cmd_type, name, reg) -> Any:
        if self.hang:
            time.sleep(3600.0)
        if self.dead:
            return None.values  # as the package ends where the service does not answer
        if self.bare:
            return SimpleNamespace(values=[])
        motors = JOINT_NAMES if cmd_type == "group" else (name,)
        if reg in self.registers:
            return SimpleNamespace(values=[self.registers[reg] for _ in motors])
        table = {"Torque_Enable": self.torque, "Hardware_Error_Status": self.errors}[reg]
        return SimpleNamespace(values=[int(table[motor]) for motor in motors])

    def _core_robot_set_motor_registers(self, cmd_type, name, reg, value) -> None:
        if not self.dead:
            self.registers[reg] = value

    def _core_robot_set_operating_modes(
        self, cmd_type, name, mode, profile_type, profile_velocity, profile_acceleration
    ) -> None:
        self.modes[name] = mode
        if name == "arm":
            self.registers = {"Profile_Velocity": profile_velocity, "Profile_Acceleration": profile_acceleration}


_CONNECTED: list[StandIn] = []


def connect(robot_model: str, robot_name: str) -> StandIn:
    """As gymnast_ros.drivers.interbotix.connect: once per process."""
    if not _CONNECTED:
        _CONNECTED.append(StandIn(spec=robot_named(robot_model)))
    return _CONNECTED[0]


def disconnect() -> None:
    """Write down how the arm was left, for the test that stopped us."""
    report = os.environ.get("STANDIN_REPORT")
    if report and _CONNECTED:
        (robot,) = _CONNECTED
        Path(report).write_text(
            json.dumps({"dropped": robot.dropped, "torque": robot.torque, "ended_s": time.monotonic()})
        )

"""Episodes of the real arm: which one runs, what was observed and executed at each of its ticks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rclpy.node import Node

from gymnast_core.arm.cameras import Frame
from gymnast_core.arm.command_gate import ArmState
from gymnast_core.errors import SafetyError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.reading import ArmReading
from gymnast_ros.drivers.widowx import SLOW_S, WidowXDriver
from gymnast_ros.nodes.arm_port import SESSION, SILENCE, ArmDescription, ArmPort, ArmReport
from gymnast_ros.nodes.cameras import CameraPort
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.nodes.widowx_settings import camera_limits, camera_sources

NOTHING_A: FloatArray = np.zeros(7, np.float32)
LATENCIES_KEPT = 1000


class WidowXEpisodes:
    """Publishes what the arm's cameras and joints show; not thread safe, the arm's lock is held around every call.

    Args:
        node: of the arm.
        settings: its parameters.
        on_command: called with (action, stamp it answers, source).
    """

    def __init__(self, node: Node, settings: NodeSettings, on_command: Any) -> None:
        self._node, self._settings, self._spec = node, settings, WIDOWX_250S
        sources = camera_sources(settings)
        size = int(settings["image_size"])
        self._cameras = CameraPort(node, sources, size, camera_limits(settings))
        description = ArmDescription(
            self._spec.name, tuple(source.name for source in sources), size, size, settings["max_steps"],
            self._spec.control_hz, False, 2 * SLOW_S,
        )  # fmt: skip
        self.port = ArmPort(
            node, description, on_command, table_height_m=settings["table_height_m"],
            max_age_s=2 * self._spec.step_s,
        )  # fmt: skip
        self.running = False
        self.number = 0
        self._latencies_ms: list[float] = []
        self._steps = self._stamp_ns = self._captured_ns = self._joints_stamp_ns = 0
        self._joints_changed_s = 0.0
        self._executed_A, self._source = NOTHING_A, ""

    def begin(self, driver: WidowXDriver) -> int:
        """Start an episode where the arm is; returns the stamp of its first observation.

        Raises:
            GymnastError: the first observation is not fit to act on.
        """
        self.number += 1
        self._steps = 0
        self._executed_A, self._source = NOTHING_A, ""
        self.observe(driver, fault="")
        self.running = True
        return self._stamp_ns

    def execute(self, driver: WidowXDriver, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        """Execute a command at once, if it answers the newest observation and is the first to do so.

        Raises:
            SafetyError: too many steps in a row could not be done.
        """
        if not self.running or stamp_ns != self._stamp_ns or self._source:
            return
        self._latencies_ms = [*self._latencies_ms[-LATENCIES_KEPT + 1 :], (self._now_ns() - self._captured_ns) / 1e6]
        self.port.check(action_A, driver.target, driver.target_joints_J)
        self._source = source
        self._executed_A = driver.step(action_A)

    def step(self, driver: WidowXDriver, fault: str) -> None:
        """One control period is over: publish what is seen now.

        Raises:
            GymnastError: a camera or the joints are not fit to act on.
        """
        self._steps += 1
        if not self._source:
            self._source = SILENCE  # no command came in time: the arm held its target
        self.observe(driver, fault)

    def rest(self, driver: WidowXDriver) -> None:
        """Between episodes nothing is observed, but the gate hears that the arm is alive."""
        state = ArmState(
            self._now_ns(), driver.target, driver.target_joints_J, None, self.number, running=False, session=SESSION
        )
        self.port.publish_state(state)

    def look(self, driver: WidowXDriver) -> tuple[ArmReading, Mapping[str, Frame]]:
        """What joints and cameras show now.

        Raises:
            GymnastError: a camera or the joints are not fit to act on.
        """
        now_ns = self._now_ns()
        reading = driver.read()
        self._check_joints(reading.stamp_ns, now_ns)
        if reading.effort_J is None and not self._settings["dry_run"]:
            raise SafetyError("xs_sdk reports no effort, an overload would not be seen; dry_run is for its simulation")
        return reading, self._cameras.newest(now_ns)

    def _check_joints(self, stamp_ns: int, now_ns: int) -> None:
        """By their stamp, and by when they last changed on this machine's monotonic clock."""
        most_s, monotonic_s = self._settings["joint_max_age_s"], time.monotonic()
        if stamp_ns != self._joints_stamp_ns:
            if not self._joints_stamp_ns:
                offset_s = (stamp_ns - now_ns) / 1e9
                self._node.get_logger().info(f"joint_states are stamped {offset_s:+.3f} s from this machine's clock")
            self._joints_stamp_ns, self._joints_changed_s = stamp_ns, monotonic_s
        age_s, silent_s = (now_ns - stamp_ns) / 1e9, monotonic_s - self._joints_changed_s
        if silent_s > max(most_s, 2 * self._spec.step_s):  # they are looked at once a step
            raise SafetyError(f"no new joint_states for {silent_s:.2f} s; is xs_sdk alive?")
        if age_s > most_s:
            raise SafetyError(f"joint_states are {age_s:.2f} s old; is xs_sdk alive?")
        if age_s < -most_s:
            raise SafetyError(f"joint_states are stamped {-age_s:.2f} s in the future; check the clocks (NTP)")

    def observe(self, driver: WidowXDriver, fault: str) -> None:
        """Publish what is seen now.

        Raises:
            GymnastError: a camera or the joints are not fit to act on.
        """
        now_ns = self._now_ns()
        reading, frames = self.look(driver)
        self._stamp_ns, self._captured_ns = now_ns, min(frame.stamp_ns for frame in frames.values())
        truncated = self._steps >= self._settings["max_steps"]
        self.port.publish(self._report(driver, reading, frames, fault, truncated))
        self.running = self.running and not truncated and not fault
        self._executed_A, self._source = NOTHING_A.copy(), ""

    def figures(self) -> dict[str, object]:
        """For diagnostics: how many episodes, and how late commands come."""
        figures: dict[str, object] = {"episode": self.number}
        if self._latencies_ms:
            figures["capture_to_command_ms_p50"] = float(np.percentile(self._latencies_ms, 50))
            figures["capture_to_command_ms_p99"] = float(np.percentile(self._latencies_ms, 99))
        return figures

    def close(self) -> None:
        """Let the cameras go."""
        self._cameras.close()

    def _report(
        self, driver: WidowXDriver, reading: ArmReading, frames: Mapping[str, Frame], fault: str, truncated: bool
    ) -> ArmReport:
        executed_A = self._executed_A
        if self._source in ("hold", SILENCE):
            executed_A = np.append(np.zeros(6, np.float32), np.float32(driver.target.gripper))
        return ArmReport(
            stamp_ns=self._stamp_ns,
            images={name: frame.image_HWC for name, frame in frames.items()},
            proprio_P=reading.proprio_P(self._spec),
            joints_J=reading.joints_J,
            target=driver.target,
            target_joints_J=driver.target_joints_J,
            executed_A=executed_A,
            executed_source=self._source,
            episode=self.number,
            terminated=bool(fault),
            truncated=truncated,
            effort_J=reading.effort_J,
            velocity_J=reading.velocity_J,
            captured_ns={name: frame.stamp_ns for name, frame in frames.items()},
            fault=fault,
        )

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

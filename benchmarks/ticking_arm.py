"""An arm that only keeps time: ticks on the monotonic clock, shows synthetic frames, measures when commands come."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from benchmarks.control_tick import CAMERAS, still_target
from gymnast_core.types import FloatArray
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import ArmDescription, ArmPort, ArmReport
from gymnast_ros.nodes.runtime import Settings


class TickingArm(Node):  # type: ignore[misc]
    """Starts the rollout by itself, runs one long episode, keeps every interval and latency."""

    def __init__(self, rate_hz: float, max_steps: int) -> None:
        super().__init__(topics.ARM_NODE)
        settings = Settings(self)
        for name, default in (("instruction", ""), ("seed", 0), ("scene", "")):
            settings.declare(name, default, "taken and ignored")
        self._period_ns, self._max_steps = round(1e9 / rate_hz), max_steps
        description = ArmDescription("wx250s", ("wide",), 256, 256, max_steps, rate_hz, True)
        self._port = ArmPort(self, description, self._on_command)
        self._truth = self.create_publisher(String, topics.TRUTH, topics.STREAM)
        self.create_service(Trigger, topics.RESET, self._reset)
        for name, _, _ in CAMERAS:  # the raw frames, which an arm node takes in and shrinks
            self.create_subscription(Image, f"{name}/raw", lambda message: None, topics.STREAM)
        self._start = self.create_client(Trigger, "rollout/run_episode")
        self._asked = self._running = self.finished = False
        self._target, joints = still_target()
        self._joints_J = joints.astype(np.float64)
        self._frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
        self._stamp_ns = self._due_ns = self._steps = self._late = 0
        self._command_A: FloatArray | None = None
        self._executed_ns: list[int] = []
        self._latency_ms: list[float] = []

    def wait_and_tick(self, executor: SingleThreadedExecutor) -> None:
        """Serve messages until the next tick is due."""
        if not self._asked and self._start.service_is_ready():
            self._asked = True
            self._start.call_async(Trigger.Request())
        left_s = (self._due_ns - time.monotonic_ns()) / 1e9 if self._running else 0.05
        executor.spin_once(timeout_sec=max(0.0, left_s))
        if self._running and time.monotonic_ns() >= self._due_ns:
            self._due_ns += self._period_ns
            self._tick()

    def result(self) -> dict[str, Any]:
        """Jitter as a share of the period, and latency."""
        settled = np.array(self._executed_ns[5:], np.float64)
        jitter = np.abs(np.diff(settled) - self._period_ns) / self._period_ns
        return {
            "steps": self._steps,
            "late_steps": self._late,
            "jitter_share": {f"p{share}": float(np.percentile(jitter, share)) for share in (50, 99)},
            "capture_to_command_ms": {f"p{share}": float(np.percentile(self._latency_ms, share)) for share in (50, 99)},
        }

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._running, self._steps = True, 0
        self._due_ns = time.monotonic_ns() + self._period_ns
        self._observe(np.zeros(7, np.float32), "")
        response.success, response.message = True, json.dumps({"stamp_ns": self._stamp_ns})
        return response

    def _on_command(self, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        if stamp_ns == self._stamp_ns and self._command_A is None:
            self._command_A = action_A
            self._latency_ms.append((time.monotonic_ns() - stamp_ns) / 1e6)

    def _tick(self) -> None:
        """Execute what came in time; the next command has a whole period."""
        self._executed_ns.append(time.monotonic_ns())
        self._steps += 1
        command_A, self._command_A = self._command_A, None
        self._late += int(command_A is None)
        self._observe(
            np.zeros(7, np.float32) if command_A is None else command_A, "hold" if command_A is None else "policy"
        )
        if self._steps >= self._max_steps:
            self._running, self.finished = False, True

    def _observe(self, executed_A: FloatArray, source: str) -> None:
        self._stamp_ns = time.monotonic_ns()
        truth = {"stamp_ns": self._stamp_ns, "succeeded": False, "digest": ""}
        self._truth.publish(messages.to_json(truth))
        self._port.publish(
            ArmReport(
                stamp_ns=self._stamp_ns,
                images={"wide": self._frame},
                proprio_P=self._target.proprio_P,
                joints_J=self._joints_J,
                target=self._target,
                target_joints_J=self._joints_J,
                executed_A=executed_A,
                executed_source=source,
                episode=1,
                truncated=self._steps >= self._max_steps,
            )
        )

"""An arm that only keeps time: the real arm's ticker and camera port, synthetic motion; measures when commands come."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from benchmarks.measured_arm import CAMERAS, jitter_share, still_target
from gymnast_core.arm.cameras import CameraLimits
from gymnast_core.arm.command_gate import ArmState
from gymnast_core.errors import StaleCommandError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import SESSION, SILENCE, ArmDescription, ArmPort, ArmReport
from gymnast_ros.nodes.cameras import CameraPort, CameraSource
from gymnast_ros.nodes.reset_permit import ResetGuard
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.run.ticker import Ticker


class TickingArm(Node):  # type: ignore[misc]
    """Starts the rollout by itself, runs one long episode, keeps every interval and latency."""

    def __init__(self, rate_hz: float, max_steps: int) -> None:
        super().__init__(topics.ARM_NODE)
        settings = NodeSettings(self)
        for name, default in (("instruction", ""), ("seed", 0), ("scene", "")):
            settings.declare(name, default, "taken and ignored")
        self._period_ns, self._max_steps = round(1e9 / rate_hz), max_steps
        description = ArmDescription("wx250s", ("wide",), 256, 256, max_steps, rate_hz, True, 2.0)
        self._port = ArmPort(self, description, self._on_command, WIDOWX_250S)
        self._truth = self.create_publisher(String, topics.TRUTH, topics.STREAM)
        self._guard = ResetGuard(settings, Keyring.of_environment())
        self.create_service(Trigger, topics.RESET, self._reset)
        sources = tuple(CameraSource(name, f"{name}/raw", "reliable") for name, _, _ in CAMERAS)
        second = 1_000_000_000
        self._cameras = CameraPort(self, sources, 256, CameraLimits(60 * second, 3600 * second, 60 * second))
        self._start = self.create_client(Trigger, topics.RUN_EPISODE)
        self._asked = self._running = False
        self.finished = threading.Event()
        self._lock = threading.Lock()
        self._ticker: Ticker | None = None
        self._target, joints = still_target()
        self._joints_J = joints.astype(np.float64)
        self._frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
        self._stamp_ns = self._steps = self._late = 0
        self._command_A: FloatArray | None = None
        self.blind = 0
        self._executed_ns: list[int] = []
        self._latency_ms: list[float] = []

    def ask(self) -> None:
        """Say that the arm is there, and start the rollout's episode once its service is."""
        if not self._running and not self._steps:
            self._port.publish_state(ArmState(0, self._target, self._joints_J, running=False, session=SESSION))
        if not self._asked and self._start.service_is_ready():
            self._asked = True
            self._start.call_async(Trigger.Request())

    def stop(self) -> None:
        """No tick, no frame after this."""
        if self._ticker is not None:
            self._ticker.close()
        self._cameras.close()

    def result(self) -> dict[str, Any]:
        """Jitter as a share of the period, and latency."""
        return {
            "steps": self._steps,
            "late_steps": self._late,
            "blind_steps": self.blind,
            "jitter_share": jitter_share(self._executed_ns, self._period_ns),
            "capture_to_command_ms": {f"p{share}": float(np.percentile(self._latency_ms, share)) for share in (50, 99)},
        }

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._guard.admits(response):
            return response
        with self._lock:
            self._running, self._steps = True, 0
            self._observe(np.zeros(7, np.float32), "")
        self._ticker = self._ticker or Ticker(self._period_ns, self._tick).start()
        response.success, response.message = True, json.dumps({"stamp_ns": self._stamp_ns})
        return self._guard.spent(response)

    def _on_command(self, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        if stamp_ns == self._stamp_ns and self._command_A is None:
            self._command_A = action_A
            self._latency_ms.append((time.monotonic_ns() - stamp_ns) / 1e6)

    def _tick(self) -> None:
        """Execute what came in time; the next command has a whole period."""
        if not self._running:
            return
        self._executed_ns.append(time.monotonic_ns())
        with self._lock:
            self._execute()

    def _execute(self) -> None:
        self._steps += 1
        command_A, self._command_A = self._command_A, None
        self._late += int(command_A is None)
        self._observe(
            np.zeros(7, np.float32) if command_A is None else command_A, SILENCE if command_A is None else "policy"
        )
        if self._steps >= self._max_steps:
            self._running = False
            self.finished.set()

    def _observe(self, executed_A: FloatArray, source: str) -> None:
        self._stamp_ns = time.monotonic_ns()
        try:
            self._frame = self._cameras.newest(time.time_ns())["wide"].image_HWC
        except StaleCommandError:
            self.blind += 1  # without load there are no cameras; the synthetic frame stays
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

"""What a robot's nodes report and its camera shows, for the bridge's reports and the page; takes no part in control."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from gymnast_core.errors import ShapeError
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.marked import listen_json

GATE_SILENCE_S = 5.0
"""The gate reports its state twice a second."""
GLANCE = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)  # fmt: skip
"""Reliable, or a frame of many datagrams rarely arrives whole; nobody waits for us, the camera drops its oldest."""

FRAME_WIDTH = 320
QUALITY = 80
STOPPED = ("estop", "stopped")


class RobotWatch:
    """Listens through somebody's node; reading is safe from any thread.

    Args:
        node: whose executor delivers.
        width: of the pictures given out, at most [px].
    """

    def __init__(self, node: Node, *, width: int = FRAME_WIDTH) -> None:
        self._node, self._width = node, width
        keyring = Keyring.of_environment()
        self._said: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._seen: tuple[int, float, bytes] = (0, 0.0, b"")
        self._shown: tuple[int, float, bytes] = (0, 0.0, b"")
        self._taken = 0
        self._camera = ""
        heard = (topics.GATE_STATUS, topics.ROLLOUT_STATUS, topics.POLICY_VERSION, topics.BRIDGE_STATUS)
        self._gate, *_ = [
            listen_json(node, keyring, topic, partial(self._said.__setitem__, topic), topics.LATCHED) for topic in heard
        ]
        listen(node, String, topics.DESCRIPTION, self._meet_arm, topics.LATCHED)

    def status(self) -> dict[str, Any]:
        """Return {state, policy_version, instruction, estop, estop_reason, practice}."""
        rollout, gate = self._said.get(topics.ROLLOUT_STATUS, {}), self._said.get(topics.GATE_STATUS, {})
        state, closed = str(rollout.get("state", "starting")), str(gate.get("state", ""))
        silent_s = (time.monotonic_ns() - self._gate.sent_ns) / 1e9
        if gate and silent_s > GATE_SILENCE_S:
            closed, gate = "stopped", {"reason": f"the command gate has said nothing for {silent_s:.0f} s"}
        return {
            "state": "disarmed" if closed == "disarmed" and state == "idle" else state,
            "policy_version": str(self._said.get(topics.POLICY_VERSION, {}).get("policy_version", "")),
            "instruction": str(rollout.get("instruction", "")),
            "estop": closed in STOPPED,
            "estop_reason": str(gate.get("reason", "")) if closed in STOPPED else "",
            "practice": rollout.get("practice"),
        }

    def latest(self, topic: str) -> Mapping[str, Any]:
        """Return the newest value of a topic of the rollout, the bridge or the gate; {} before the first."""
        return self._said.get(topic, {})

    def frame(self) -> tuple[int, float, bytes]:
        """Return number, monotonic time and JPEG of the newest frame; (0, 0, b"") before the first."""
        with self._lock:
            number, at_s, data = self._seen
            if number != self._shown[0]:
                self._shown = (number, at_s, self._encoded(data))
            return self._shown

    def take_frame(self) -> bytes:
        """Return the newest frame as JPEG, once; b"" when none came since."""
        number, _, jpeg = self.frame()
        if number == self._taken:
            return b""
        self._taken = number
        return jpeg

    def _encoded(self, data: bytes) -> bytes:
        try:
            image_HWC = messages.from_image(deserialize_message(data, Image))
        except (ShapeError, RuntimeError) as error:  # RuntimeError: bytes that are no Image
            self._node.get_logger().warning(f"frame not shown: {error}", throttle_duration_sec=30.0)
            return b""
        height, width = image_HWC.shape[:2]
        if width > self._width:
            size = (self._width, round(height * self._width / width))
            image_HWC = np.asarray(cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)
        written, jpeg = cv2.imencode(".jpg", image_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        return jpeg.tobytes() if written else b""

    def _meet_arm(self, message: String) -> None:
        """Look through its first camera; a restarted arm describes itself again."""
        cameras = messages.from_json(message).get("cameras")
        camera = str(cameras[0]) if isinstance(cameras, list) and cameras else ""
        if camera and camera != self._camera:
            self._camera = camera
            topic = topics.image_topic(self._camera)
            listen(self._node, Image, topic, self._see, GLANCE, raw=True)

    def _see(self, data: bytes) -> None:
        """Kept as it is on the wire; only a frame that is asked for is decoded."""
        with self._lock:
            self._seen = (self._seen[0] + 1, time.monotonic(), data)

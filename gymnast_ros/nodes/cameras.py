"""Camera topics in, square frames of the policy's size out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from gymnast_core.cameras import CameraLimits, CameraWatch, Frame
from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.types import ByteArray
from gymnast_ros.nodes import messages

RELIABILITY = {"reliable": ReliabilityPolicy.RELIABLE, "best_effort": ReliabilityPolicy.BEST_EFFORT}


@dataclass(frozen=True)
class CameraSource:
    """Where a camera's frames come from.

    Attributes:
        name: of the camera in observations.
        topic: sensor_msgs/Image, or CompressedImage where it ends in /compressed.
        reliability: "reliable" or "best_effort", what the driver offers.
    """

    name: str
    topic: str
    reliability: str = "best_effort"

    def __post_init__(self) -> None:
        """Refuse a reliability that does not exist."""
        if self.reliability not in RELIABILITY:
            raise ConfigError(f"camera reliability must be one of {', '.join(RELIABILITY)}, got {self.reliability!r}")


class CameraPort:
    """Subscribes, squares and shrinks, watches."""

    def __init__(self, node: Node, sources: tuple[CameraSource, ...], size: int, limits: CameraLimits) -> None:
        self._node, self._size = node, size
        self._watch = CameraWatch(tuple(source.name for source in sources), limits)
        for source in sources:
            quality = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=RELIABILITY[source.reliability],
                durability=DurabilityPolicy.VOLATILE,
            )
            kind = CompressedImage if source.topic.endswith("/compressed") else Image
            node.create_subscription(
                kind, source.topic, lambda message, name=source.name: self._take(name, message), quality
            )

    def newest(self, now_ns: int) -> Mapping[str, Frame]:
        """One fit frame of every camera; see CameraWatch.newest."""
        return self._watch.newest(now_ns)

    def _take(self, name: str, message: Image | CompressedImage) -> None:
        try:
            image_HWC = decode(message)
        except ShapeError as error:
            self._node.get_logger().warning(f"frame dropped camera={name} error={error}", throttle_duration_sec=5.0)
            return
        self._watch.put(name, Frame(square(image_HWC, self._size), messages.to_ns(message.header.stamp)))


def decode(message: Image | CompressedImage) -> ByteArray:
    """(H, W, 3) uint8 RGB.

    Raises:
        ShapeError: an unsupported encoding, or bytes that are no picture.
    """
    if not hasattr(message, "format"):
        return messages.from_image(message)
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ShapeError(f"{len(message.data)} bytes of format {message.format!r} are no picture")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def square(image_HWC: ByteArray, size: int) -> ByteArray:
    """The middle square, area-averaged to size x size."""
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image_HWC[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(middle)
    return np.asarray(cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA), np.uint8)

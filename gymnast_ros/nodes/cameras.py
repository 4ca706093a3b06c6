"""Camera topics in, square frames of the policy's size out.

Frames arrive in a thread of their own, as the bytes they are on the wire: six times as many come as are looked at, so
only those are decoded, by the caller of newest(). Nothing here runs in the executor that serves commands.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from gymnast_core.arm.cameras import CameraLimits, CameraWatch, Frame
from gymnast_core.errors import ConfigError, CorruptError, ShapeError
from gymnast_core.pictures import decode_picture
from gymnast_core.types import ByteArray
from gymnast_ros.nodes import messages
from gymnast_ros.nodes.ears import listen, note_drop
from gymnast_ros.nodes.runtime import Spinner, own_name

KEPT = 3
"""Frames of one camera that wait: where the newest is broken, the one before is taken."""
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

    @property
    def kind(self) -> type[Image] | type[CompressedImage]:
        """Message type of the topic."""
        kind: type[Image] | type[CompressedImage] = CompressedImage if self.topic.endswith("/compressed") else Image
        return kind

    def __post_init__(self) -> None:
        """Refuse a reliability that does not exist."""
        if self.reliability not in RELIABILITY:
            raise ConfigError(f"camera reliability must be one of {', '.join(RELIABILITY)}, got {self.reliability!r}")


class CameraPort:
    """Keeps the newest bytes of every camera; decodes, squares, shrinks and watches when asked.

    Args:
        node: whose name, namespace and context the camera node takes.
        sources: what to subscribe to.
        size: side of the frames given out.
        limits: what a frame must be to be acted on.
    """

    def __init__(self, node: Node, sources: tuple[CameraSource, ...], size: int, limits: CameraLimits) -> None:
        self._size = size
        self._watch = CameraWatch(tuple(source.name for source in sources), limits)
        self._kinds = {source.name: source.kind for source in sources}
        self._lock = threading.Lock()
        self._arrived: dict[str, deque[tuple[bytes, int]]] = {}
        self._met: set[str] = set()
        self._node = Node(
            **own_name(f"{node.get_name()}_cameras"), namespace=node.get_namespace(), context=node.context,
            enable_rosout=False, start_parameter_services=False,
        )  # fmt: skip
        for source in sources:
            quality = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=RELIABILITY[source.reliability],
                durability=DurabilityPolicy.VOLATILE,
            )
            take = partial(self._take, source.name)
            listen(self._node, source.kind, source.topic, take, quality, raw=True)
        self._spinner = Spinner(self._node)

    def newest(self, now_ns: int) -> Mapping[str, Frame]:
        """One fit frame of every camera; see CameraWatch.newest."""
        with self._lock:
            arrived, self._arrived = self._arrived, {}
        for name, frames in arrived.items():
            any(self._decode(name, data, arrived_ns) for data, arrived_ns in reversed(frames))
        monotonic_ns = time.monotonic_ns()
        for name in arrived.keys() - self._met:
            self._met.add(name)
            offset_s = self._watch.offset_ns(name, now_ns, monotonic_ns) / 1e9
            self._node.get_logger().info(f"camera {name} is there; its clock is {offset_s:+.3f} s from this machine's")
        return self._watch.newest(now_ns, monotonic_ns)

    def close(self) -> None:
        """Stop listening; join the thread before rclpy goes."""
        self._spinner.close()

    def _take(self, name: str, data: bytes) -> None:
        with self._lock:
            self._arrived.setdefault(name, deque(maxlen=KEPT)).append((data, time.monotonic_ns()))

    def _decode(self, name: str, data: bytes, arrived_ns: int) -> bool:
        """Return whether it is a frame; whatever bytes come, the tick that asked lives on."""
        try:
            message = deserialize_message(data, self._kinds[name])
            frame = Frame(square(decode(message), self._size), messages.to_ns(message.header.stamp))
        except Exception as error:  # noqa: BLE001
            note_drop(self._node, name, error)
            self._watch.reject(name, str(error)[:200])
            return False
        self._watch.put(name, frame, arrived_ns)
        return True


def decode(message: Image | CompressedImage) -> ByteArray:
    """(H, W, 3) uint8 RGB.

    Raises:
        ShapeError: an unsupported encoding, or bytes that are no picture.
    """
    if not hasattr(message, "format"):
        return messages.from_image(message)
    try:
        return decode_picture(bytes(message.data))
    except CorruptError as error:
        raise ShapeError(
            f"{len(message.data)} bytes of format {message.format[:40]!r} are no picture: {error}"
        ) from error


def square(image_HWC: ByteArray, size: int) -> ByteArray:
    """The middle square, area-averaged to size x size.

    Raises:
        ShapeError: it has no pixels.
    """
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    if side == 0:
        raise ShapeError(f"a frame of {width}x{height} pixels shows nothing")
    top, left = (height - side) // 2, (width - side) // 2
    middle = image_HWC[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(middle)
    return np.asarray(cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA), np.uint8)

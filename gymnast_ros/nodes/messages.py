"""Between numpy and standard ROS 2 messages; exact both ways."""

from __future__ import annotations

import array
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gymnast_core.errors import ShapeError
from gymnast_core.spec import BASE_FRAME
from gymnast_core.types import ByteArray, FloatArray
from gymnast_ros.nodes import topics

NS_PER_S = 1_000_000_000


def to_time(stamp_ns: int) -> Time:
    """Nanoseconds to a ROS stamp."""
    seconds, nanoseconds = divmod(int(stamp_ns), NS_PER_S)
    return Time(sec=seconds, nanosec=nanoseconds)


def to_ns(stamp: Time) -> int:
    """ROS stamp to nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def to_image(image_HWC: ByteArray, stamp_ns: int, frame_id: str) -> Image:
    """One RGB frame as sensor_msgs/Image."""
    message = Image()
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    message.height, message.width = image_HWC.shape[:2]
    message.encoding = "rgb8"
    message.step = message.width * 3
    message.data = array.array("B", np.ascontiguousarray(image_HWC).tobytes())
    return message


def from_image(message: Image) -> ByteArray:
    """(H, W, 3) uint8 RGB.

    Raises:
        ShapeError: an encoding other than rgb8, bgr8, rgba8, bgra8 or mono8, or a size that does not fit the data.
    """
    channels = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}.get(message.encoding)
    if channels is None:
        raise ShapeError(f"image encoding {message.encoding!r} is not supported; use rgb8 or bgr8")
    data = np.frombuffer(message.data, dtype=np.uint8)
    if message.step < message.width * channels or data.size < message.height * message.step:
        raise ShapeError(f"image {message.width}x{message.height} step {message.step} has only {data.size} bytes")
    rows = data[: message.height * message.step].reshape(message.height, message.step)
    pixels = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, 2::-1] if message.encoding.startswith("bgr") else pixels[:, :, :3])


def to_named(names: Sequence[str], values: Sequence[float], stamp_ns: int, frame_id: str = "") -> JointState:
    """Named float64 values with a stamp; sensor_msgs/JointState is the standard message for that."""
    message = JointState()
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    message.name = list(names)
    message.position = array.array("d", [float(value) for value in values])
    return message


def from_named(message: JointState, names: Sequence[str]) -> FloatArray:
    """The values of these names, float32, in this order.

    Raises:
        ShapeError: a name is missing, or names and values differ in number.
    """
    if list(message.name[: len(names)]) == list(names) and len(message.position) >= len(names):
        return np.asarray(message.position[: len(names)], dtype=np.float32)
    values = dict(zip(message.name, message.position, strict=False))
    missing = [name for name in names if name not in values]
    if missing:
        raise ShapeError(f"message lacks {missing}; it has {list(message.name)}")
    return np.asarray([values[name] for name in names], dtype=np.float32)


def to_json(value: Mapping[str, Any]) -> String:
    """A JSON object in a std_msgs/String."""
    return String(data=json.dumps(value, sort_keys=True))


def from_json(message: String) -> dict[str, Any]:
    """The JSON object in a std_msgs/String.

    Raises:
        ShapeError: it is not a JSON object.
    """
    try:
        value = json.loads(message.data)
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"not JSON: {message.data[:80]!r}") from error
    if not isinstance(value, dict):
        raise ShapeError(f"not a JSON object: {message.data[:80]!r}")
    return value


def to_action(action_A: FloatArray, stamp_ns: int) -> JointState:
    """A wanted or gated action; stamp_ns names the observation it answers."""
    return to_named(topics.ACTION_NAMES, action_A.tolist(), stamp_ns, BASE_FRAME)

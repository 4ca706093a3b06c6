"""Topics on which a graph's processes believe only each other: messages bear a mark, see gymnast_core.arm.mark.

Plain ROS tools read them as before: the mark rides behind the frame id of a JointState, and as one more field of a
JSON object.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from gymnast_core.arm.mark import ForeignError, MarkChecker, Marker
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages
from gymnast_ros.nodes.ears import listen

BEHIND = " #"
"""Between a frame id and its mark."""
FIELD = "mark"


class MarkedJoints:
    """Publishes marked sensor_msgs/JointState."""

    def __init__(self, node: Node, keyring: Keyring, topic: str, quality: QoSProfile) -> None:
        self.publisher = node.create_publisher(JointState, topic, quality)
        self._marker = Marker(keyring.key, topic)

    def publish(self, message: JointState) -> None:
        """Mark and send."""
        message.header.frame_id += BEHIND + self._marker.mark(_content(message))
        self.publisher.publish(message)


class MarkedJson:
    """Publishes marked JSON objects in std_msgs/String."""

    def __init__(self, node: Node, keyring: Keyring, topic: str, quality: QoSProfile) -> None:
        self.publisher = node.create_publisher(String, topic, quality)
        self._marker = Marker(keyring.key, topic)

    def publish(self, value: Mapping[str, object]) -> None:
        """Mark and send."""
        mark = self._marker.mark(messages.to_json(value).data.encode())
        self.publisher.publish(messages.to_json({**value, FIELD: mark}))


def listen_joints(
    node: Node,
    keyring: Keyring,
    topic: str,
    callback: Callable[[JointState], object],
    quality: QoSProfile,
    *,
    max_age_ns: int | None = None,
) -> MarkChecker:
    """Hear MarkedJoints; the callback gets them without their mark. See ears.listen and MarkChecker."""
    checker = MarkChecker(keyring.key, topic, max_age_ns=max_age_ns)

    def hear(message: JointState) -> None:
        message.header.frame_id, _, mark = message.header.frame_id.rpartition(BEHIND)
        checker.check(_content(message), mark)
        callback(message)

    listen(node, JointState, topic, hear, quality)
    return checker


def listen_json(
    node: Node,
    keyring: Keyring,
    topic: str,
    callback: Callable[[dict[str, object]], object],
    quality: QoSProfile,
    *,
    max_age_ns: int | None = None,
) -> MarkChecker:
    """Hear MarkedJson; the callback gets the object without its mark. What was latched before counts."""
    checker = MarkChecker(keyring.key, topic, max_age_ns=max_age_ns, latched=True)

    def hear(message: String) -> None:
        value = messages.from_json(message)
        mark = value.pop(FIELD, "")
        if not isinstance(mark, str):
            raise ForeignError("its mark is no text")
        checker.check(messages.to_json(value).data.encode(), mark)
        callback(value)

    listen(node, String, topic, hear, quality)
    return checker


def unmarked(message: String) -> dict[str, object]:
    """Return a marked JSON object as anybody may read it, unchecked.

    Raises:
        ShapeError: it is not a JSON object.
    """
    value = messages.from_json(message)
    value.pop(FIELD, None)
    return value


def _content(message: JointState) -> bytes:
    stamp, names = message.header.stamp, json.dumps([message.header.frame_id, *message.name]).encode()
    arrays = [bytes(memoryview(values).cast("B")) for values in (message.position, message.velocity, message.effort)]
    sizes = struct.pack("<iI4I", stamp.sec, stamp.nanosec, len(names), *map(len, arrays))
    return b"".join((sizes, names, *arrays))

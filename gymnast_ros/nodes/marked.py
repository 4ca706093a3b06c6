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


class MarkReader:
    """Reads marked JSON objects of a graph that may be started again, with another key, meanwhile.

    Args:
        keyring: reads the present key; None where this process may not, which believes anybody then.
    """

    def __init__(self, keyring: Callable[[], Keyring | None]) -> None:
        self._keyring, self._key = keyring, b""
        self._checkers: dict[str, MarkChecker] = {}

    def read(self, topic: str, message: String) -> dict[str, object]:
        """Return the object without its mark.

        Raises:
            ForeignError: it bears no mark of this graph, or came before.
            ShapeError: it is not a JSON object.
        """
        value = messages.from_json(message)
        mark, content = str(value.pop(FIELD, "")), messages.to_json(value).data.encode()
        try:
            if (checker := self._checkers.get(topic)) is None:
                raise ForeignError("no key is known yet")
            checker.check(content, mark)
        except ForeignError:
            if (keyring := self._keyring()) is None:
                return value
            if keyring.key == self._key and topic in self._checkers:
                raise
            if keyring.key != self._key:
                self._key, self._checkers = keyring.key, {}
            self._checkers[topic] = MarkChecker(self._key, topic, latched=True)
            self._checkers[topic].check(content, mark)
        return value


def _content(message: JointState) -> bytes:
    stamp, names = message.header.stamp, json.dumps([message.header.frame_id, *message.name]).encode()
    arrays = [bytes(memoryview(values).cast("B")) for values in (message.position, message.velocity, message.effort)]
    sizes = struct.pack("<iI4I", stamp.sec, stamp.nanosec, len(names), *map(len, arrays))
    return b"".join((sizes, names, *arrays))

"""The one way a node hears a topic: whatever arrives, the thread that hears it lives on.

A message that is too large, no message of its type, not ours, or that makes no sense is counted, reported on the
terminal and in /diagnostics, and dropped. Anybody who may join the DDS domain can send such ones.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from gymnast_core.errors import GymnastError, ShapeError

MOST_BYTES = 64 * 1024
"""Of a message that is read at all; a larger one would keep the interpreter busy while an emergency stop waits."""
MOST_BYTES_OF = {Image: 64 * 1024 * 1024, CompressedImage: 32 * 1024 * 1024, String: 4 * 1024 * 1024}
REPORT_S = 5.0

_DROPPED: weakref.WeakKeyDictionary[Node, Counter[str]] = weakref.WeakKeyDictionary()


_REPORTED: weakref.WeakKeyDictionary[Node, dict[str, float]] = weakref.WeakKeyDictionary()


def dropped(node: Node) -> Counter[str]:
    """Return how many messages this node could not use, by topic; what raised elsewhere goes here, too."""
    return _DROPPED.setdefault(node, Counter())


def note_drop(node: Node, topic: str, error: Exception) -> None:
    """Count and report one message that is dropped, or one call that failed."""
    counts, now_s = dropped(node), time.monotonic()
    counts[topic] += 1
    reported = _REPORTED.setdefault(node, {})
    if now_s - reported.get(topic, -REPORT_S) >= REPORT_S:  # the logger's own throttle costs ten times a message
        reported[topic] = now_s
        words = str(error) if isinstance(error, GymnastError) else f"{type(error).__name__}: {error}"
        node.get_logger().warning(f"dropped topic={topic} count={counts[topic]} reason={words[:300]}")


def listen(
    node: Node, kind: type, topic: str, callback: Callable[[Any], object], quality: QoSProfile, *, raw: bool = False
) -> Any:
    """Subscribe.

    Args:
        node: whose executor delivers.
        kind: message type.
        topic: relative name.
        callback: may raise anything; gets the message, or its bytes.
        quality: of service.
        raw: hand the bytes on as they are on the wire.

    Returns:
        The subscription.
    """
    most = MOST_BYTES_OF.get(kind, MOST_BYTES)

    def hear(data: bytes) -> None:
        try:
            if len(data) > most:
                raise ShapeError(f"{len(data)} bytes; at most {most} are read")
            callback(data if raw else deserialize_message(data, kind))
        except Exception as error:  # noqa: BLE001 - whatever a message does, the ear survives it
            note_drop(node, topic, error)

    return node.create_subscription(kind, topic, hear, quality, raw=True)

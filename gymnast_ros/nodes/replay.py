"""Plays an episode file onto its topics with their types and timing: `ros2 bag play` where there is no ros2.

A flight record is played below /flight: its topics are those of a live robot. Nothing that is not ours is published.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import String

from gymnast_core.episodes import encoding, messages
from gymnast_core.episodes.bag import BagContents, BagMessage, contents, iterate_bag
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_ros.nodes import topics

KINDS: dict[str, Any] = {
    "std_msgs/msg/String": String,
    "sensor_msgs/msg/JointState": JointState,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "geometry_msgs/msg/PoseStamped": PoseStamped,
}
FLIGHT = "/flight"
MAX_PAUSE_NS = 600 * 1_000_000_000
"""Longest silence inside a recording; more is a clock that was set while it ran."""
_DECODED = {
    "std_msgs/msg/String": encoding.decode_string,
    "sensor_msgs/msg/JointState": encoding.decode_any_named,
    "sensor_msgs/msg/CompressedImage": encoding.decode_any_image,
}
_LOOK_AROUND_S = 1.0
"""How long is waited to see whether a robot is already on these topics."""


@dataclass
class Played:
    """What was published.

    Attributes:
        counts: messages by topic.
        left_out: topics that were not published, and why.
    """

    counts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def play(path: Path, *, domain_id: int | None = None, rate: float = 1.0, wait_s: float = 0.0) -> Played:
    """Publish every message of an episode, or of a flight record, at its time.

    The bytes are those of the file. Words (header, instruction, policy version, outcome, notes) are latched, so that
    a late subscriber still learns what is shown. Topics and types that are not ours are left out.

    Args:
        path: an .mcap file.
        domain_id: ROS_DOMAIN_ID; None takes the environment's.
        rate: times as fast as it was.
        wait_s: wait so long at most until somebody listens to every topic.

    Raises:
        CorruptError: the file is neither an episode nor a flight record; nothing is published.
        ConfigError: somebody publishes on one of these topics already.
    """
    held = contents(path)
    if not held.is_episode and not held.is_flight_record:
        listed = ", ".join(f"{topic} ({kind or 'no type'})" for topic, kind in held.counts) or "none"
        raise CorruptError(f"{path} is neither an episode nor a flight record; its topics: {listed}. Nothing is played")
    played = Played()
    timeline = sorted(_ours(path, held, played), key=lambda message: message.time_ns)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node("gymnast_replay", context=context, start_parameter_services=False)
    try:
        _publish(node, timeline, rate, wait_s)
    finally:
        node.destroy_node()
        context.try_shutdown()
    played.counts = dict(Counter(message.topic for message in timeline))
    return played


def _ours(path: Path, held: BagContents, played: Played) -> list[BagMessage]:
    """Messages to publish; what is left out is noted."""
    kept = []
    for message in iterate_bag(path):
        if why := _foreign(message, flight=held.is_flight_record):
            played.left_out[message.topic] = why
            continue
        topic = FLIGHT + message.topic if held.is_flight_record else message.topic
        kept.append(BagMessage(topic, message.kind, message.encoding, message.time_ns, message.data))
    return kept


def _foreign(message: BagMessage, *, flight: bool) -> str:
    """Why a message is not published; "" when it is ours."""
    kind = message.kind
    camera = message.topic.startswith(messages.IMAGE_PREFIX) and message.topic.endswith(messages.IMAGE_SUFFIX)
    expected = messages.TOPIC_TYPES.get(message.topic, "sensor_msgs/msg/CompressedImage" if camera else "")
    if kind not in KINDS or message.encoding != "cdr":
        return f"of type {kind or 'unknown'}, encoded as {message.encoding or 'unknown'}"
    if not flight and kind != expected:
        return "no topic of an episode" if not expected else f"of type {kind}, an episode's is {expected}"
    try:
        validate_full_topic_name(FLIGHT + message.topic)
        _DECODED.get(kind, bytes)(message.data)
    except (CorruptError, InvalidTopicNameException) as error:
        return str(error).splitlines()[0]
    return ""


def _publish(node: Node, timeline: list[BagMessage], rate: float, wait_s: float) -> None:
    for before, after in pairwise(timeline):
        if after.time_ns - before.time_ns > MAX_PAUSE_NS:
            pause_s = (after.time_ns - before.time_ns) / 1e9
            raise CorruptError(f"time jumps by {pause_s:.0f} s before {after.topic}; nothing is played")
    kinds = {message.topic: message.kind for message in timeline}
    _require_quiet(node, list(kinds))
    publishers = {topic: _publisher(node, topic, kind) for topic, kind in kinds.items()}
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and not all(one.get_subscription_count() for one in publishers.values()):
        time.sleep(0.02)
    started_s, first_ns = time.monotonic(), timeline[0].time_ns if timeline else 0
    for message in timeline:
        due_s = started_s + (message.time_ns - first_ns) / 1e9 / rate
        time.sleep(max(0.0, due_s - time.monotonic()))
        publishers[message.topic].publish(bytes(message.data))
    for publisher in publishers.values():
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=5.0))


def _require_quiet(node: Node, wanted: list[str]) -> None:
    """Refuse to mix a recording with a live robot's topics."""
    deadline = time.monotonic() + _LOOK_AROUND_S
    while time.monotonic() < deadline:
        if busy := [topic for topic in wanted if node.count_publishers(topic)]:
            raise ConfigError(
                f"somebody publishes {', '.join(busy)} in this domain: a robot that runs, or another replay; "
                "play into another one with --domain N"
            )
        time.sleep(0.05)


def _publisher(node: Node, topic: str, kind: str) -> Any:
    return node.create_publisher(KINDS[kind], topic, topics.LATCHED if kind == "std_msgs/msg/String" else topics.STREAM)

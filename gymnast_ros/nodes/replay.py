"""Plays an episode file onto its topics with their types and timing: `ros2 bag play` where there is no ros2."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import String

from gymnast_core.episodes import messages
from gymnast_core.episodes.reader import iterate_messages
from gymnast_ros.nodes import topics

KINDS: dict[str, Any] = {
    "std_msgs/msg/String": String,
    "sensor_msgs/msg/JointState": JointState,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "geometry_msgs/msg/PoseStamped": PoseStamped,
}


def play(path: Path, *, domain_id: int | None = None, rate: float = 1.0, wait_s: float = 0.0) -> dict[str, int]:
    """Publish every message of an episode at its time; returns how many went to each topic.

    The bytes are those of the file. Words (header, instruction, policy version, outcome, notes) are latched, so that
    who comes late still learns what is shown.

    Args:
        path: an .mcap file.
        domain_id: ROS_DOMAIN_ID; None takes the environment's.
        rate: times as fast as it was.
        wait_s: wait so long at most until somebody listens to every topic.

    Raises:
        CorruptError: the file is no episode; nothing is published.
    """
    played = list(iterate_messages(path))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node("gymnast_replay", context=context, start_parameter_services=False)
    try:
        publishers = {topic: _publisher(node, topic) for topic in dict.fromkeys(topic for topic, _, _ in played)}
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not all(one.get_subscription_count() for one in publishers.values()):
            time.sleep(0.02)
        started_s, first_ns = time.monotonic(), played[0][1] if played else 0
        for topic, stamp_ns, data in played:
            due_s = started_s + (stamp_ns - first_ns) / 1e9 / rate
            time.sleep(max(0.0, due_s - time.monotonic()))
            publishers[topic].publish(bytes(data))
        for publisher in publishers.values():
            publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=5.0))
    finally:
        node.destroy_node()
        context.try_shutdown()
    return dict(Counter(topic for topic, _, _ in played))


def _publisher(node: Node, topic: str) -> Any:
    kind = messages.topic_type(topic)
    return node.create_publisher(KINDS[kind], topic, topics.LATCHED if kind == "std_msgs/msg/String" else topics.STREAM)

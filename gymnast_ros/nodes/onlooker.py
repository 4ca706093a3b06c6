"""Looks at whatever is on the topics of a domain, a running robot or a replayed episode, and shows it."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any, Protocol

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray
from gymnast_ros.nodes import messages
from gymnast_ros.nodes.ears import listen

KINDS: dict[str, Any] = {
    f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}": kind
    for kind in (CompressedImage, Image, JointState, String)
}
LOOK_AGAIN_S = 0.5
"""How often new topics are looked for."""


class Viewer(Protocol):
    """What can be shown; gymnast_cli.screen.RerunScreen is one."""

    def at(self, stamp_ns: int) -> None:
        """Set the time of what follows."""
        ...

    def image(self, topic: str, image_HWC: ByteArray) -> None:
        """A frame."""
        ...

    def jpeg(self, topic: str, data: bytes) -> None:
        """A compressed frame."""
        ...

    def named(self, topic: str, names: list[str], values: list[float]) -> None:
        """Named numbers."""
        ...

    def words(self, topic: str, text: str) -> None:
        """A text."""
        ...


def look(screen: Viewer, domain_id: int | None, seconds: float) -> None:
    """Show everything that is published, until the time is over."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node(f"onlooker_{os.getpid()}", context=context, start_parameter_services=False, enable_rosout=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    onlooker = Onlooker(node, screen)
    deadline, again_s = time.monotonic() + seconds, 0.0
    try:
        while time.monotonic() < deadline:
            if time.monotonic() >= again_s:
                onlooker.subscribe()
                again_s = time.monotonic() + LOOK_AGAIN_S
            executor.spin_once(timeout_sec=0.05)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


class Onlooker:
    """Subscribes to every topic of a known type; disturbs nobody: best effort, and no more than the newest."""

    def __init__(self, node: Node, screen: Viewer) -> None:
        self._node, self._screen = node, screen
        self._known: set[str] = set()

    def subscribe(self) -> None:
        """Take in topics that are new."""
        for topic, kinds in self._node.get_topic_names_and_types():
            if topic in self._known or kinds[0] not in KINDS:
                continue
            self._known.add(topic)
            quality = self._best_quality(topic)
            listen(self._node, KINDS[kinds[0]], topic, partial(self._show, topic), quality)

    def _best_quality(self, topic: str) -> QoSProfile:
        """What every publisher offers: latched words, and frames that arrive whole."""
        offers = [one.qos_profile for one in self._node.get_publishers_info_by_topic(topic)]
        latched = bool(offers) and all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        reliable = bool(offers) and all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=20,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _show(self, topic: str, message: Any) -> None:
        header = getattr(message, "header", None)
        self._screen.at(messages.to_ns(header.stamp) if header is not None else self._now_ns())
        if isinstance(message, String):
            self._screen.words(topic, message.data)
        elif isinstance(message, JointState):
            self._screen.named(topic, list(message.name), list(message.position))
        elif isinstance(message, CompressedImage):
            self._screen.jpeg(topic, bytes(message.data))
        else:
            try:
                self._screen.image(topic, messages.from_image(message))
            except ShapeError as error:
                self._node.get_logger().warning(f"not shown topic={topic} error={error}", throttle_duration_sec=10.0)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

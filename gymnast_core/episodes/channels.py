"""Channels of standard ROS 2 messages in an MCAP file, so that Foxglove, rosbags and ros2 bag open it."""

from __future__ import annotations

from mcap.writer import Writer

from gymnast_core.episodes.messages import DEFINITIONS


class RosChannels:
    """Registers every topic and message type once.

    Args:
        writer: of a file begun with profile "ros2".
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}

    def of(self, topic: str, kind: str) -> int:
        """The channel of a topic.

        Args:
            topic: with its leading slash.
            kind: message type, one of DEFINITIONS.
        """
        if topic not in self._channels:
            if kind not in self._schemas:
                self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", DEFINITIONS[kind].encode())
            self._channels[topic] = int(self._writer.register_channel(topic, "cdr", self._schemas[kind]))
        return self._channels[topic]

"""Whether the command gate is open, for an arm that would move by itself: silence and doubt are a closed gate."""

from __future__ import annotations

import time

from rclpy.node import Node

from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.marked import listen_json

FRESH_S = 3.0
"""The gate reports its state twice a second."""
OPEN = ("armed", "holding")


class GateEar:
    """Listens through somebody's node; reading is safe from any thread.

    Args:
        node: whose executor delivers.
        keyring: of the graph: whoever else publishes is not believed.
    """

    def __init__(self, node: Node, keyring: Keyring) -> None:
        self._state, self._reason = "", ""
        self._taken_over = False
        self._checker = listen_json(node, keyring, topics.GATE_STATUS, self._hear, topics.LATCHED)

    def closed(self) -> str:
        """Return why nothing may move; empty while the gate is armed."""
        if not self._state:
            return "nothing was heard of the command gate"
        if (silent_s := (time.monotonic_ns() - self._checker.sent_ns) / 1e9) > FRESH_S:
            return f"the command gate has said nothing for {silent_s:.0f} s"
        if self._taken_over:
            return "a person has taken over"
        return "" if self._state in OPEN else f"the gate is {self._state}: {self._reason}"

    def _hear(self, status: dict[str, object]) -> None:
        self._taken_over = status.get("taken_over") is not False
        self._reason, self._state = str(status.get("reason", "")), str(status.get("state", ""))

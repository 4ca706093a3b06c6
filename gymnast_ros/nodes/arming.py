"""Whether the command gate is open, heard through somebody's node, and how to wait until it is again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String

from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.ears import listen

CLOSED = ("estop", "stopped", "disarmed")
"""States of the gate in which somebody has to re-arm it."""
HEARD_S = 1.0
"""An episode may end before the gate's own word of the stop is here."""
POLL_S = 0.1


class Arming:
    """Listens to the gate's status; reading and waiting are safe from any thread.

    Args:
        node: whose executor delivers.
    """

    def __init__(self, node: Node) -> None:
        self._state, self.reason = "", ""
        self._changed = threading.Condition()
        listen(node, String, topics.GATE_STATUS, self._hear, topics.LATCHED)

    @property
    def closed(self) -> bool:
        """Whether nothing moves until somebody re-arms."""
        return self._state in CLOSED

    def wait_open(self, cancelled: Callable[[], bool]) -> bool:
        """Wait, however long, until the gate is armed; False when cancelled."""
        deadline = time.monotonic() + HEARD_S
        with self._changed:
            self._changed.wait_for(lambda: self.closed, max(0.0, deadline - time.monotonic()))
            while self.closed:
                if cancelled():
                    return False
                self._changed.wait(POLL_S)
        return not cancelled()

    def _hear(self, message: String) -> None:
        status = messages.from_json(message)
        with self._changed:
            self._state, self.reason = str(status["state"]), str(status.get("reason", ""))
            self._changed.notify_all()

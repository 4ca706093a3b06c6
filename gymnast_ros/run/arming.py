"""Whether the command gate is open, as its status reports, and how to wait until it is again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

CLOSED = ("estop", "stopped", "disarmed")
"""States of the gate in which somebody has to re-arm it."""
HEARD_S = 1.0
"""An episode may end before the gate's own word of the stop is here."""
POLL_S = 0.1


class Arming:
    """What the gate reported last; safe from any thread."""

    def __init__(self) -> None:
        self._state, self.reason = "", ""
        self._changed = threading.Condition()

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

    def hear(self, status: Mapping[str, object]) -> None:
        """Take note of the gate's status."""
        with self._changed:
            self._state, self.reason = str(status["state"]), str(status.get("reason", ""))
            self._changed.notify_all()

"""An event that signal handlers may set."""

from __future__ import annotations

import time
from contextlib import suppress
from queue import Empty, SimpleQueue

LOOK_S = 0.5
"""Python runs a signal's handler in the main thread, but a signal that the system gives to another thread, or that
comes right before the main thread sleeps, does not wake it: a wait without end would never see it."""


class Asked:
    """Set once, by a signal; waited for in one thread.

    threading.Event takes a lock to be set: a second signal within that moment (Ctrl-C reaches a process from its
    terminal and from its launch) waits in its handler for the first one's lock, forever. SimpleQueue.put is reentrant.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()
        self._set = False

    def set(self) -> None:
        """From now on it is set."""
        self._set = True
        self._queue.put(None)

    def is_set(self) -> bool:
        """Whether it is."""
        return self._set

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, or so long; returns whether it is."""
        ends = None if seconds is None else time.monotonic() + seconds
        while not self._set:
            left = LOOK_S if ends is None else min(LOOK_S, ends - time.monotonic())
            if left <= 0:
                break
            with suppress(Empty):
                self._queue.get(timeout=left)
        return self._set

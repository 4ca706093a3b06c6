"""An event that signal handlers may set."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue


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
        if not self._set:
            with suppress(Empty):
                self._queue.get(timeout=seconds)
        return self._set

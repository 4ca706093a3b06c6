"""Notices that this process stood still: stopped by a signal, swapped out, or on a machine that slept."""

from __future__ import annotations

import time
from collections.abc import Callable

GAP_NS = 600_000_000
"""Longer between two beats is a freeze; an owner of a pulse beats at least every 0.2 s."""


class Pulse:
    """Beaten by a tick; asked before something old is acted on. Safe from any thread."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns, gap_ns: int = GAP_NS) -> None:
        self._now_ns, self._gap_ns = now_ns, gap_ns
        self._beat_ns = now_ns()
        self._froze = False

    def beat(self) -> None:
        """The tick came."""
        now_ns = self._now_ns()
        self._froze = self._froze or now_ns - self._beat_ns > self._gap_ns
        self._beat_ns = now_ns

    def frozen(self) -> bool:
        """Whether the process stood still since this was asked the last time."""
        self.beat()
        froze, self._froze = self._froze, False
        return froze

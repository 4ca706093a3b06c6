"""How often somebody may guess: wrong secrets are counted by where they come from."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from gymnast_core.errors import GymnastError

_SOURCES = 4096
"""Remembered at once; the one that was quiet for longest is forgotten first."""


class TooManyGuessesError(GymnastError):
    """Too many wrong secrets came from one place; none is looked at for a while."""


class Guesses:
    """Wrong guesses by source. Threads may share it.

    Args:
        most: wrong ones within the window after which no more are looked at.
        window_s: how long a wrong guess counts.
        clock_s: monotonic.
    """

    def __init__(
        self, most: int = 10, window_s: float = 60.0, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._window_s, self._clock_s = most, window_s, clock_s
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, source: str) -> None:
        """Return if a secret from here may be looked at.

        Raises:
            TooManyGuessesError: too many were wrong lately; the message names when to try again.
        """
        now_s = self._clock_s()
        with self._lock:
            recent = [at_s for at_s in self._wrong.get(source, ()) if now_s - at_s < self._window_s]
            if not recent:
                self._wrong.pop(source, None)
                return
            self._wrong[source] = recent
            if len(recent) >= self._most:
                wait_s = self._window_s - (now_s - recent[0])
                raise TooManyGuessesError(
                    f"{len(recent)} wrong tokens came from {source} within {self._window_s:.0f} s; nothing from there "
                    f"is looked at for {max(1.0, wait_s):.0f} s"
                )

    def wrong(self, source: str) -> None:
        """Count one."""
        with self._lock:
            self._wrong.setdefault(source, []).append(self._clock_s())
            self._wrong.move_to_end(source)
            while len(self._wrong) > _SOURCES:
                self._wrong.popitem(last=False)

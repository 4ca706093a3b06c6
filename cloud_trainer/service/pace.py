"""How often one robot may begin something that stays: each beginning leaves rows and an entry in the log."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from gymnast_core.authority import Who
from gymnast_core.wire.errors import QuotaError

_HOUR_S = 3600.0


class RobotPace:
    """Counts the beginnings of the last hour, by robot. Threads may share it.

    Args:
        most: in an hour.
        what: is begun, for messages.
        flag: that sets most, for messages.
        clock_s: monotonic.
    """

    def __init__(
        self, most: int, what: str = "asked for {} jobs", flag: str = "--limit-robot-jobs-per-hour",
        *, clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._most, self._what, self._flag, self._clock_s = most, what, flag, clock_s
        self._begun: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    def take(self, who: Who) -> None:
        """Count one; people and training machines are not counted.

        Raises:
            QuotaError: the robot had as many as it may; the message names the wait.
        """
        if who.role != "robot":
            return
        with self._lock:
            now_s = self._clock_s()
            begun = self._begun.setdefault((who.tenant, who.name), deque())
            while begun and now_s - begun[0] >= _HOUR_S:
                begun.popleft()
            if len(begun) >= self._most:
                raise QuotaError(
                    f"robot {who.name!r} has {self._what.format(self._most)} within the hour, as many as one may "
                    f"({self._flag}); wait {_HOUR_S - (now_s - begun[0]):.0f} s"
                )
            begun.append(now_s)

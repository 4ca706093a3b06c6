"""A control tick that keeps time: absolute deadlines in a thread of its own, which does nothing else."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable

SWITCH_INTERVAL_S = 0.0005
"""How long another thread may keep Python's lock once the tick is due; the interpreter's default is 5 ms."""


LOG = logging.getLogger(__name__)


def _log(error: Exception) -> None:
    LOG.error("tick_failed", exc_info=error)


class Ticker:
    """Calls a function once a period until it is closed.

    Deadlines are start + n x period on the monotonic clock, so lateness never adds up. A call that takes longer than
    a period costs the deadlines it covers; they are not made up for in a burst. A call that raises is reported, and the
    next one comes all the same.

    Args:
        period_ns: between calls.
        call: what is done.
        name: of the thread.
        failed: gets what a call raised.

    Attributes:
        missed: deadlines that slow calls have covered.
        ticked_s: monotonic time at which the last call ended.
    """

    def __init__(
        self,
        period_ns: int,
        call: Callable[[], None],
        name: str = "tick",
        failed: Callable[[Exception], None] = _log,
    ) -> None:
        self._period_ns, self._call, self._failed = period_ns, call, failed
        self._closing = threading.Event()
        self.missed = 0
        self.ticked_s = time.monotonic()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Ticker:
        """The first call comes one period from now."""
        self._thread.start()
        return self

    def close(self, timeout_s: float = 5.0) -> None:
        """No call begins after this returns; a ticker may be closed from its own call."""
        self._closing.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        due_ns = time.monotonic_ns() + self._period_ns
        while not self._closing.is_set():
            left_ns = due_ns - time.monotonic_ns()
            if left_ns > 0:
                time.sleep(left_ns / 1e9)  # an Event would take a lock per call; closing waits at most one period
                continue
            try:
                self._call()
            except Exception as error:  # noqa: BLE001 - a tick that ended would leave an arm that nobody looks after
                self._failed(error)
            self.ticked_s = time.monotonic()
            late = max(0, (time.monotonic_ns() - due_ns) // self._period_ns)
            self.missed += late
            due_ns += (1 + late) * self._period_ns


def prefer(pid: int, priority: int) -> str:
    """Give a process real-time scheduling (SCHED_FIFO), so that busy neighbours cannot delay it.

    Threads started afterwards inherit it: call it before the process starts any. Linux lets root do this, and users
    with an rtprio limit (/etc/security/limits.d: `@robot - rtprio 40`).

    Args:
        pid: 0 is this process.
        priority: 1 to 99.

    Returns:
        Why it was not possible, or an empty string.
    """
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))
    except (PermissionError, ProcessLookupError) as error:
        return f"no real-time scheduling for process {pid}: {error.strerror}; allow rtprio {priority} to this user"
    return ""

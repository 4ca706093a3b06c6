"""When a node process has to end: a signal, or the death of the launch or starter that is responsible for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

from gymnast_core.asked import Asked
from gymnast_core.lifeline import STARTER

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Set by SIGINT, SIGTERM and SIGHUP (the terminal was closed), and when the starter is gone.

    `ros2 launch` that gets SIGTERM or SIGKILL leaves its processes behind, and so does `gymnast up` that is killed;
    nobody would end them, and two of everything would run after the next start.
    """

    def __init__(self) -> None:
        self._asked = Asked()
        self._starter = int(os.environ.get(STARTER, "0"))
        self._is_parent = os.getppid() == self._starter
        self.interrupts = True
        """Raise KeyboardInterrupt from a signal: for the time in which nothing asks, e.g. a policy's warm-up."""
        for number in SIGNALS:
            # nohup ignores SIGHUP on purpose; a shell ignores SIGINT for what it starts in the background, without any
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def due(self) -> bool:
        """Whether the process has to end."""
        return self._asked.is_set() or self._starter_gone()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the process has to end."""
        for _ in range(max(1, round(seconds))):
            if self.due() or self._asked.wait(min(seconds, 1.0)):
                return

    def _starter_gone(self) -> bool:
        if not self._starter:
            return False
        if self._is_parent:
            return os.getppid() != self._starter
        return not Path(f"/proc/{self._starter}").exists()

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self._asked.set()
        if self.interrupts:
            raise KeyboardInterrupt

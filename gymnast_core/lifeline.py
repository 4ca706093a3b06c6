"""Children that end when their parent does, however it ended."""

from __future__ import annotations

import ctypes
import signal
import sys

STARTER = "GYMNAST_STARTER"
"""Environment of our processes: pid of the launch or starter without which they end."""
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when the thread that started it is gone; on Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

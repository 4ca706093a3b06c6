#!/usr/bin/env python3
"""Stands in for `ros2 launch interbotix_xsarm_control ...`: a driver that dies at once of the first signal it gets."""

import os
import signal
import sys
import time
from pathlib import Path

alive = Path(os.environ["STANDIN_DRIVER"])


def end(*_: object) -> None:
    """As launch does on Ctrl-C: no question whether the arm lies."""
    alive.with_suffix(".ended").write_text(str(time.monotonic()))
    alive.unlink()
    sys.exit(0)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
alive.write_text(f"{os.getpid()} {' '.join(sys.argv[1:])}")
while True:
    signal.pause()

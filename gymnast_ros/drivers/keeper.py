"""Runs the vendor's launch file so that it outlives the arm's node: a driver that dies first leaves the arm standing.

`python -m gymnast_ros.drivers.keeper --lock FILE -- COMMAND...` starts COMMAND in a session of its own, where no Ctrl-C
of the terminal reaches it, and ends it only when nobody holds FILE any more, as the arm's process does while it lives.
Nothing but the standard library is imported: it runs in whatever Python `ros2 launch` runs in.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from gymnast_core.asked import Asked

ARM_ENDS_S = 60.0
"""Longest wait for the arm's process, which lies down first."""
ENDS_S = 10.0
"""For the driver, from signal to signal."""


def hold(path: Path) -> TextIO | None:
    """Hold a file until it is closed or this process ends, however it ends; None where somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def keep(command: Sequence[str], lock: Path) -> int:
    """Run the driver until this process is asked to end and the arm's has ended; returns an exit code."""
    asked = Asked()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    parent = os.getppid()
    driver = subprocess.Popen(command, start_new_session=True)
    while not asked.wait(0.2) and os.getppid() == parent:
        if driver.poll() is not None:
            _say(f"FATAL: the arm's driver ended by itself with code {driver.returncode}: the arm is unsupervised.")
            _say("Its motors keep their last goal. Support it before you start anything: it may let go.")
            return 1
    _await_arm(lock)
    return _end(driver)


def _await_arm(lock: Path) -> None:
    """Wait until the arm's process has ended."""
    deadline = time.monotonic() + ARM_ENDS_S
    while time.monotonic() < deadline:
        if (free := hold(lock)) is not None:
            free.close()
            return
        time.sleep(0.1)
    _say(f"the arm's process still runs after {ARM_ENDS_S:.0f} s; its driver is ended now")


def _end(driver: subprocess.Popen[bytes]) -> int:
    """End the driver's whole session."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, number)
        try:
            driver.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            continue
        break
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    """Parse and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, required=True, help="file that the arm's process holds")
    parser.add_argument("command", nargs="+", help="the driver, after --")
    arguments = parser.parse_args()
    return keep(arguments.command, arguments.lock)


if __name__ == "__main__":
    raise SystemExit(main())

"""Which signals end a node process, and that one still ends it where a shell has started it in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ros.conftest import wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("number", "ignored", "ends"),
    [(signal.SIGINT, signal.SIGINT, True), (signal.SIGHUP, None, True), (signal.SIGHUP, signal.SIGHUP, False)],
)
def test_signals(number: int, ignored: int | None, ends: bool, tmp_path: Path) -> None:
    """A shell ignores SIGINT for background jobs without asking; nohup ignores SIGHUP because a user asked."""
    program = (
        "from gymnast_ros.nodes.ending import Ending; import time; ending = Ending(); ending.interrupts = False\n"
        "print('ready', flush=True)\nwhile not ending.due(): time.sleep(0.02)\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=output, env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: ignored and signal.signal(ignored, signal.SIG_IGN),
        )  # fmt: skip
    try:
        wait_until(lambda: "ready" in log.read_text(), 60.0, "the process")
        process.send_signal(number)
        if ends:
            assert process.wait(60.0) == 0
        else:
            with pytest.raises(subprocess.TimeoutExpired):  # absence takes time
                process.wait(0.5)
    finally:
        process.kill()
        process.wait()

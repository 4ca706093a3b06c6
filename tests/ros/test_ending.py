"""Which signals end a node process, and that one still ends it where a shell has started it in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gymnast_ros.processes import RESPAWNED
from tests.ros.conftest import wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("number", "ignored", "ends"),
    [(signal.SIGINT, signal.SIGINT, True), (signal.SIGHUP, None, True), (signal.SIGHUP, signal.SIGHUP, False)],
)
def test_signals(number: int, ignored: int | None, ends: bool, tmp_path: Path) -> None:
    """A shell ignores SIGINT for background jobs without asking; nohup ignores SIGHUP because a user asked."""
    program = (
        "from gymnast_ros.run.ending import Ending; import time; ending = Ending(); ending.interrupts = False\n"
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


def test_node_with_a_wrong_setting_says_so_once_and_waits_where_it_is_respawned(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "gymnast_ros.nodes.bridge", "--ros-args", "-p", "trainer:=nonsense"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-p", "insecure:=true"], stdout=output, stderr=output, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), RESPAWNED: "1"},
        )  # fmt: skip
    try:
        wait_until(lambda: "tried again in 30 s" in log.read_text(), 60.0, "the refusal")
        assert log.read_text().count("names no port") == 1
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10.0) in (2, 130)
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()

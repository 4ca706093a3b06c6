"""Whatever ends a starter, nothing that it has started goes on: no arm without its operator's terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ros.conftest import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
"""A busy machine takes half a minute to start six processes."""


def of_folder(folder: Path) -> dict[int, str]:
    """Processes that work in a folder, by what their command lines and environments name."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if str(folder).encode() in said and words and not zombie:
            found[int(process.name)] = words
    return found


def counted(folder: Path, *names: str) -> Callable[[], bool]:
    """Whether a process of each name runs."""
    return lambda: all(any(name in words for words in of_folder(folder).values()) for name in names)


def started(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "PYTHONPATH": str(ROOT)}
    with (folder / "terminal").open("wb") as terminal:
        return subprocess.Popen(
            [sys.executable, "-m", "gymnast_cli.main", *arguments], cwd=ROOT, env=environment, stdout=terminal,
            stderr=terminal,
        )  # fmt: skip


def end(process: subprocess.Popen[bytes], number: int, folder: Path) -> None:
    """Signal the starter alone, and wait until nothing of it is left."""
    process.send_signal(number)
    process.wait(PATIENCE_S)
    try:
        wait_until(lambda: not of_folder(folder), PATIENCE_S, f"the end of {of_folder(folder)}")
    finally:
        for pid in of_folder(folder):
            os.kill(pid, signal.SIGKILL)


NODES = ("nodes.sim_world", "nodes.command_gate", "nodes.rollout")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_node_outlives_gymnast_up(tmp_path, domain_id, number) -> None:
    command = ("up", "--domain", str(domain_id), "--folder", str(tmp_path / "robot"), "--teleop")
    process = started(tmp_path, *command)
    wait_until(counted(tmp_path, *NODES, "nodes.teleop"), PATIENCE_S, "the nodes")
    end(process, number, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_demo(tmp_path, number) -> None:
    process = started(tmp_path, "demo", "--smoke", "--runs", str(tmp_path / "runs"))
    wait_until(counted(tmp_path, *NODES, "nodes.bridge", "gymnast_cli.main serve"), PATIENCE_S, "trainer and robot")
    end(process, number, tmp_path)

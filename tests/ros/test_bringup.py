"""What the operator's terminal says while `gymnast up` runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gymnast_ros.bringup import Graph, GraphConfig, NodeDiedError
from gymnast_ros.log_tail import LogTail
from gymnast_ros.processes import NodeSpec
from tests.ros.conftest import wait_until


def test_only_new_and_whole_lines_are_told(tmp_path) -> None:
    log = tmp_path / "arm.log"
    log.write_text("of the last run\n")
    tail = LogTail(tmp_path)
    assert tail.new_lines() == []
    with log.open("a") as file:
        file.write("ready\n\nhalf a li")
        file.flush()
        assert tail.new_lines() == [("arm", "ready")]
        file.write("ne\n")
    (tmp_path / "gate.log").write_text("armed\n")
    assert tail.new_lines() == [("arm", "half a line"), ("gate", "armed")]
    assert tail.new_lines() == []


def test_node_that_may_not_come_back_ends_the_graph_with_its_reason(tmp_path, monkeypatch) -> None:
    graph = Graph(GraphConfig(folder=tmp_path))
    graph.specs = (NodeSpec("no_such_node", "arm", respawn=False),)
    graph.restarts = {"arm": 0}
    with graph:
        wait_until(lambda: bool(graph.failed), 20.0, "the arm's end")
        with pytest.raises(NodeDiedError, match=r"arm ended with code 1 and is not started again; see .*arm\.log"):
            graph.check()


@pytest.mark.slow
def test_terminal_tells_restarts_and_stops(domain_id, tmp_path) -> None:
    terminal = tmp_path / "terminal.txt"
    command = [
        sys.executable,
        "-m",
        "gymnast_cli.main",
        "up",
        "--domain",
        str(domain_id),
        "--folder",
        str(tmp_path / "r"),
    ]
    with terminal.open("w") as file:
        up = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def says(words: str) -> bool:
        return words in terminal.read_text()

    wait_until(lambda: says("ready; one episode: ros2 service call /rollout/run_episode"), 40.0, "the rollout")
    wait_until(lambda: says("armed: commands pass"), 20.0, "the gate")
    os.kill(gate_of(up.pid), signal.SIGKILL)
    wait_until(lambda: says("command_gate was killed by signal 9 and is started again"), 20.0, "the news")
    up.send_signal(signal.SIGINT)
    assert up.wait(40.0) == 0
    assert says("stopping; the arm gets up to 5 s to come to rest")


def gate_of(parent: int) -> int:
    """The gate among the children of a process."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if b"command_gate" in Path(f"/proc/{pid}/cmdline").read_bytes())

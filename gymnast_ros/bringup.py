"""The ROS-less starter (`gymnast up`): runs the node graph of gymnast_ros.graph as processes and keeps it running."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from gymnast_core.asked import Asked
from gymnast_core.errors import GymnastError
from gymnast_core.lifeline import STARTER
from gymnast_core.supervised import Supervised
from gymnast_ros.enclaves import security_environment
from gymnast_ros.graph import GraphConfig, graph
from gymnast_ros.keyring import Claim
from gymnast_ros.log_tail import LogTail
from gymnast_ros.processes import REFUSED, RESPAWN_DELAY_S, RESPAWNED, NodeSpec, environment
from gymnast_ros.run.ticker import prefer
from gymnast_ros.sockets import examine_sockets

LOG = logging.getLogger(__name__)

__all__ = ["Graph", "GraphConfig", "NodeDiedError", "NodeSpec", "graph", "up"]


EXIT_ARM = 4
"""The arm was stopped, as the command line's exit codes have it."""


class NodeDiedError(GymnastError):
    """A node that is not respawned ended by itself; its log has the reason."""


class Graph:
    """Starts the processes, keeps them running, ends them; a context manager."""

    def __init__(self, config: GraphConfig) -> None:
        self.config = config
        self.specs = graph(config)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._claim: Claim | None = None
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._supervise, name="graph", daemon=True)
        self.restarts: dict[str, int] = {spec.name: 0 for spec in self.specs}
        self.failed: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        """Exit codes, once it has stopped."""

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by node name."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def logs(self) -> Path:
        """Where every node's output goes."""
        return self.config.folder / "logs"

    def start(self) -> Graph:
        """Start every process.

        Raises:
            ConfigError: another graph of this robot runs in this domain, or over this folder.
        """
        self._claim = Claim(self.config)
        self.logs.mkdir(parents=True, exist_ok=True)
        for spec in self.specs:
            self._processes[spec.name] = self._spawn(spec)
        self._watch.start()
        return self

    def check(self) -> None:
        """Raise if a node is gone for good.

        Raises:
            NodeDiedError: it ended and is not respawned.
        """
        for name, code in self.failed.items():
            raise NodeDiedError(f"{name} {_how_it_ended(code)} and is not started again; see {self.logs / name}.log")

    def stop(self) -> dict[str, int]:
        """End every process, politely first, in the order opposite to the start; returns their exit codes."""
        self._closing.set()
        if self._watch.is_alive():
            self._watch.join(10.0)
        codes = {}
        for spec in reversed(self.specs):
            process = self._processes.get(spec.name)
            if process is not None:
                codes[spec.name] = _end(process, self.config.escalate_after_s)
        if self._claim is not None:
            self._claim.release()
        self.ended |= codes
        return codes

    def __enter__(self) -> Graph:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"gymnast_ros.nodes.{spec.executable}", *spec.ros_arguments()]
        with (self.logs / f"{spec.name}.log").open("ab") as log:
            values = self._environment() | ({RESPAWNED: "1"} if spec.respawn else {})
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=values)
        if spec.priority and (problem := prefer(process.pid, spec.priority)):
            LOG.warning("ordinary_scheduling node=%s reason=%s", spec.name, problem)
        return process

    def _environment(self) -> dict[str, str]:
        claimed = self._claim.environment if self._claim else {}
        values = {**os.environ, **environment(os.environ), **claimed}
        values[STARTER] = str(os.getpid())
        if self.config.domain_id is not None:
            values["ROS_DOMAIN_ID"] = str(self.config.domain_id)
        if self.config.enclaves is not None:
            values |= security_environment(self.config.enclaves)
        return values

    def _supervise(self) -> None:
        due: dict[str, float] = {}
        while not self._closing.wait(0.1):
            for spec in self.specs:
                process = self._processes[spec.name]
                if process.poll() is None or spec.name in self.failed:
                    continue
                if not spec.respawn or process.returncode == REFUSED:
                    self.failed[spec.name] = process.returncode
                elif spec.name not in due:
                    due[spec.name] = time.monotonic() + RESPAWN_DELAY_S
                    LOG.warning("%s %s and is started again", spec.name, _how_it_ended(process.returncode))
                elif time.monotonic() >= due[spec.name]:
                    del due[spec.name]
                    self.restarts[spec.name] += 1
                    self._processes[spec.name] = self._spawn(spec)


def up(config: GraphConfig, show: Callable[[str], None]) -> int:
    """Run the graph until SIGINT or SIGTERM; returns an exit code.

    Args:
        config: what to start.
        show: gets every line that a node logs, with the node's name.
    """
    stopping = Asked()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    running = Graph(config)
    running.logs.mkdir(parents=True, exist_ok=True)
    tail = LogTail(running.logs)
    supervised = Supervised()
    sockets = examine_sockets()
    if sockets is not None and sockets.remedy:
        show(f"{sockets.what} -> {sockets.remedy}")
    with running:
        supervised.ready()
        show(f"processes: {', '.join(f'{name} {pid}' for name, pid in running.pids.items())}")
        try:
            while not stopping.wait(0.2):
                _show_new(tail, show)
                running.check()
                supervised.alive()
        finally:
            supervised.stopping()
            show(f"stopping; the arm gets up to {config.escalate_after_s:.0f} s to come to rest")
    _show_new(tail, show)
    if code := running.ended["arm"]:
        show(f"the arm {_how_it_ended(code)}: it may stand unsupervised, with torque; see {running.logs / 'arm.log'}")
        return EXIT_ARM
    return 0


def _show_new(tail: LogTail, show: Callable[[str], None]) -> None:
    for node, line in tail.new_lines():
        show(f"{node}: {line}")


def _how_it_ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def _end(process: subprocess.Popen[bytes], patience_s: float) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        process.kill()
    return process.wait()

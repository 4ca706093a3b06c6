"""The node graph, once: launch/bridge.launch.py and the ROS-less starter (`gymnast up`) both read it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from gymnast_core.errors import ConfigError, GymnastError

ROBOTS = ("sim", "widowx")
RESPAWN_DELAY_S = 1.0
ESCALATE_AFTER_S = {"sim": 5.0, "widowx": 25.0}
"""SIGINT, then SIGTERM after this, then SIGKILL: a real arm needs the time to reach its sleep pose."""


class NodeDiedError(GymnastError):
    """A node that is not respawned ended by itself; its log says why."""


@dataclass(frozen=True)
class NodeSpec:
    """One process of the graph.

    Attributes:
        executable: console script, and module in gymnast_ros.nodes.
        name: node name.
        parameters: of the node.
        namespace: of the arm.
        respawn: start it again when it dies.
        remaps: topic -> topic.
    """

    executable: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    respawn: bool = True
    remaps: Mapping[str, str] = field(default_factory=dict)

    def ros_arguments(self) -> list[str]:
        """--ros-args as rcl parses them."""
        arguments = ["--ros-args"]
        if self.namespace:
            arguments += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for source, target in self.remaps.items():
            arguments += ["-r", f"{source}:={target}"]
        for name, value in self.parameters.items():
            arguments += ["-p", f"{name}:={_yaml(value)}"]
        return arguments


@dataclass(frozen=True)
class GraphConfig:
    """What to start.

    Attributes:
        robot: "sim" or "widowx".
        folder: spool/, store/, results/ and logs/ live there.
        robot_name: at the trainer and in recordings.
        domain_id: ROS_DOMAIN_ID; None keeps the environment's.
        namespace: for several arms on one network.
        trainer: host:port; empty starts no bridge.
        identity: folder of certificate and keys.
        insecure: no TLS; for tests on one machine.
        policy: checkpoint folder used while the store is empty.
        paced: the simulator steps at 5 Hz of wall-clock time instead of lockstep.
        trusted_keys: file of keys that may sign releases; empty takes trust.pub of the identity.
        teleop: start the joystick node.
        parameters: node name -> further parameters.
    """

    folder: Path
    robot: str = "sim"
    robot_name: str = "sim-0"
    domain_id: int | None = None
    namespace: str = ""
    trainer: str = ""
    identity: Path | None = None
    insecure: bool = False
    policy: str = ""
    paced: bool = False
    trusted_keys: str = ""
    teleop: bool = False
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if self.robot not in ROBOTS:
            raise ConfigError(f"robot must be one of {', '.join(ROBOTS)}, got {self.robot!r}")
        if self.domain_id is not None and not 0 <= self.domain_id <= 232:
            raise ConfigError(f"domain_id must be 0..232, got {self.domain_id}")
        if self.trainer and self.identity is None and not self.insecure:
            raise ConfigError("a trainer needs identity (folder with cert.pem, key.pem, ca.pem), or insecure")
        if self.paced and self.robot != "sim":
            raise ConfigError("paced is for the simulated arm; the real one always runs in real time")


def graph(config: GraphConfig) -> tuple[NodeSpec, ...]:
    """The processes of one robot, in starting order."""
    simulated = config.robot == "sim"
    arm = (
        NodeSpec("sim_world", "arm", {"paced": config.paced})
        if simulated
        else NodeSpec("widowx_arm", "arm", {"robot_model": "wx250s"}, respawn=False)
    )
    deadman_s = 5.0 if simulated and not config.paced else 0.4
    gate_parameters: dict[str, Any] = {"armed_at_start": simulated, "deadman_s": deadman_s}
    if not simulated:
        gate_parameters |= {"max_change_m": 0.06, "max_change_rad": 0.3, "max_command_age_s": 0.0}
    store = {"folder": str(config.folder), "robot_name": config.robot_name, "policy": config.policy}
    specs = [
        arm,
        NodeSpec("command_gate", "command_gate", gate_parameters),
        NodeSpec("rollout", "rollout", {**store, "auto_label": simulated, "bridge_expected": bool(config.trainer)}),
    ]
    if config.trainer:
        identity = str(config.identity) if config.identity else ""
        link = {"trainer": config.trainer, "identity": identity, "insecure": config.insecure}
        link["trusted_keys"] = config.trusted_keys
        specs.append(NodeSpec("bridge", "bridge", {**store, **link}))
    if config.teleop:
        specs.append(NodeSpec("teleop", "teleop"))
    return tuple(_finished(spec, config) for spec in specs)


def _finished(spec: NodeSpec, config: GraphConfig) -> NodeSpec:
    parameters = {**spec.parameters, **config.parameters.get(spec.name, {})}
    return NodeSpec(spec.executable, spec.name, parameters, config.namespace, spec.respawn, spec.remaps)


class Graph:
    """Starts the processes, keeps them running, ends them; a context manager."""

    def __init__(self, config: GraphConfig) -> None:
        self.config = config
        self.specs = graph(config)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._supervise, name="graph", daemon=True)
        self.restarts: dict[str, int] = {spec.name: 0 for spec in self.specs}
        self.failed: dict[str, int] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by node name."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def logs(self) -> Path:
        """Where every node's output goes."""
        return self.config.folder / "logs"

    def start(self) -> Graph:
        """Start every process."""
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
            raise NodeDiedError(f"node {name} ended with code {code}; see {self.logs / name}.log")

    def stop(self) -> dict[str, int]:
        """End every process, politely first, in the order opposite to the start; returns their exit codes."""
        self._closing.set()
        if self._watch.is_alive():
            self._watch.join(10.0)
        codes = {}
        for spec in reversed(self.specs):
            process = self._processes.get(spec.name)
            if process is not None:
                codes[spec.name] = _end(process, ESCALATE_AFTER_S[self.config.robot])
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
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_environment(self.config))

    def _supervise(self) -> None:
        due: dict[str, float] = {}
        while not self._closing.wait(0.1):
            for spec in self.specs:
                process = self._processes[spec.name]
                if process.poll() is None or spec.name in self.failed:
                    continue
                if not spec.respawn:
                    self.failed[spec.name] = process.returncode
                elif spec.name not in due:
                    due[spec.name] = time.monotonic() + RESPAWN_DELAY_S
                elif time.monotonic() >= due[spec.name]:
                    del due[spec.name]
                    self.restarts[spec.name] += 1
                    self._processes[spec.name] = self._spawn(spec)


def up(config: GraphConfig) -> int:
    """Run the graph until SIGINT or SIGTERM; returns an exit code."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with Graph(config) as running:
        while not stopping.wait(0.5):
            running.check()
    return 0


def _environment(config: GraphConfig) -> dict[str, str]:
    """One torch thread per process: two on a busy machine are several times slower."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("MUJOCO_GL", "egl")
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if config.domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(config.domain_id)
    return environment


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


def _yaml(value: Any) -> str:
    """A parameter value as rcl reads it on the command line; strings are quoted, or 1e5 would be a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)

"""A declared stand-in for ROS's `launch`, which is not on PyPI: it records what a launch file builds, and starts it.

Nodes get the command line that launch_ros gives them (launch_ros 0.26, actions/node.py), rename and parameter file
included, and all processes share a process group, so that a Ctrl-C reaches each of them at once, as in a terminal.
Where `launch` is importable, tests/ros/test_launch.py uses the real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import yaml


class Recorded:
    """Any launch action: keeps its arguments."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.positional, self.named = positional, named


class LaunchConfiguration(Recorded):
    """Looks its value up in the context, a dict here."""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.positional[0]]


CONTENTS = {
    "launch": ("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"),
    "launch.actions": (
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "IncludeLaunchDescription", "LogInfo", "OpaqueFunction",
        "RegisterEventHandler", "SetEnvironmentVariable",
    ),
    "launch.event_handlers": ("OnProcessExit",),
    "launch.events": ("Shutdown",),
    "launch.events.process": ("ProcessExited",),
    "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
    "launch.substitutions": ("LaunchConfiguration",),
    "launch_ros": (),
    "launch_ros.actions": ("Node",),
}  # fmt: skip


def install() -> dict[str, ModuleType]:
    """Modules to put into sys.modules."""
    modules = {}
    for name, classes in CONTENTS.items():
        module = ModuleType(name)
        for kind in classes:
            made = LaunchConfiguration if kind == "LaunchConfiguration" else type(kind, (Recorded,), {})
            setattr(module, kind, made)
        modules[name] = module
    packages = ModuleType("ament_index_python.packages")
    packages.get_package_share_directory = lambda package: f"/share/{package}"  # type: ignore[attr-defined]
    packages.get_package_prefix = lambda package: f"/install/{package}"  # type: ignore[attr-defined]
    modules["ament_index_python.packages"] = packages
    return modules


class Launched:
    """The processes of a launch file, as `ros2 launch` starts and ends them; a context manager.

    Args:
        actions: what the launch file returned.
        folder: for parameter files and output.
        environment: of every process, below what the launch file sets.
    """

    def __init__(self, actions: list[Any], folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        set_by_file = [action.positional for action in actions if type(action).__name__ == "SetEnvironmentVariable"]
        self._environment = {**os.environ, **environment, **dict(set_by_file)}
        kinds = {"Node": self._node, "ExecuteProcess": self._process, "IncludeLaunchDescription": self._include}
        self._commands = [
            (kinds[type(action).__name__](action, number), action.named.get("additional_env") or {})
            for number, action in enumerate(actions)
            if type(action).__name__ in kinds
        ]
        self._group = 0
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Launched:
        for number, (command, own) in enumerate(self._commands):
            with (self._folder / f"{number}.log").open("wb") as log:
                process = subprocess.Popen(
                    command, env=self._environment | own, stdout=log, stderr=log,
                    preexec_fn=lambda: os.setpgid(0, self._group),
                )  # fmt: skip
            self._group = self._group or process.pid
            self.processes.append(process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.interrupt(60.0)

    def _process(self, action: Recorded, _: int) -> list[str]:
        return list(action.named["cmd"])

    def _include(self, action: Recorded, _: int) -> list[str]:
        """What the file includes runs in the same terminal."""
        given = [f"{name}:={value}" for name, value in action.named["launch_arguments"]]
        return ["ros2", "launch", action.positional[0].positional[0], *given]

    def _node(self, action: Recorded, number: int) -> list[str]:
        """What launch_ros runs."""
        node = action.named
        command = [sys.executable, "-m", f"gymnast_ros.nodes.{node['executable']}", "--ros-args"]
        namespace = f"/{node['namespace'].strip('/')}" if node["namespace"] else ""
        if node.get("name"):
            command += ["-r", f"__node:={node['name']}"]
        if namespace:
            command += ["-r", f"__ns:={namespace}"]
        parameters = self._folder / f"launch_params_{number}"
        whose = f"{namespace}/{node['name']}" if node.get("name") and namespace else "/**"
        parameters.write_text(yaml.dump({whose: {"ros__parameters": node["parameters"][0]}}))
        command += ["--params-file", str(parameters)]
        for source, target in node["remappings"]:
            command += ["-r", f"{source}:={target}"]
        return command

    def interrupt(self, patience_s: float) -> list[int]:
        """Ctrl-C: every process of the group gets SIGINT at once; returns the exit codes, -9 for one that stayed."""
        if self._group and any(process.poll() is None for process in self.processes):
            os.killpg(self._group, signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
        return [process.wait() for process in self.processes]

    def output(self) -> str:
        """What all of them printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.log")))

"""A declared stand-in for ROS's `launch`, which is not on PyPI: it records what a launch file builds, nothing more.

Where `launch` is importable, tests/ros/test_launch.py uses the real one.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


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
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "IncludeLaunchDescription", "OpaqueFunction",
        "RegisterEventHandler", "SetEnvironmentVariable",
    ),
    "launch.event_handlers": ("OnProcessExit",),
    "launch.events": ("Shutdown",),
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
    modules["ament_index_python.packages"] = packages
    return modules

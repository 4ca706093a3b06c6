"""Whether this Python can run the robot's nodes: imports what they import, ours and the distribution's together."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

NODES = ("command_gate", "rollout", "bridge", "widowx_arm")
SHOWN = ("protobuf", "grpcio", "numpy", "opencv-python-headless", "mcap")


def main() -> int:
    """Import, use a message and a stub, and print the versions found."""
    try:
        from sensor_msgs.msg import JointState

        assert list(JointState(position=[1.0]).position) == [1.0]
        for node in NODES:
            importlib.import_module(f"gymnast_ros.nodes.{node}")
    except ImportError as error:
        print(f"this Python cannot run the robot's nodes: {error}", file=sys.stderr)
        print("is ROS 2 sourced, and config/robot_requirements.txt installed in this environment?", file=sys.stderr)
        return 1
    print("ready:", ", ".join(f"{name} {_version(name)}" for name in SHOWN))
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    raise SystemExit(main())

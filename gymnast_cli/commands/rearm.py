"""`gymnast rearm`: at the robot, after a stop, when somebody has looked."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import add_robot_arguments, emit, robot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--folder", type=Path, default=Path("robot"), help="the robot's, as given to `gymnast up` (default: robot)"
    )
    add_robot_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the gate's word back to it."""
    with robot(args, args.folder) as client:
        client.re_arm()
    emit(args, console, {"state": "armed"}, "armed: commands pass")
    return 0

"""`gymnast recover`: at the robot, after a motor has failed, when somebody has freed and supported the arm."""

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
    """Write the arm's word back to it, and have it recover."""
    with robot(args, args.folder) as client:
        said = client.recover()
    emit(args, console, {"state": said}, f"recovered: {said}")
    return 0

"""`gymnast annotate`: a note at this moment of the running episode; it lands in the recording."""

from __future__ import annotations

import argparse
import getpass

from rich.console import Console

from gymnast_cli.connect import add_robot_arguments, emit, robot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_robot_arguments(parser)
    parser.add_argument("text", help="words or tags, e.g. 'cube slipped #grasp'")
    parser.add_argument("--by", default=f"operator:{getpass.getuser()}", help="who says so")


def run(args: argparse.Namespace, console: Console) -> int:
    """Note it."""
    with robot(args) as client:
        client.annotate(args.text, args.by)
    emit(args, console, {"annotated": args.text, "by": args.by}, "noted in the recording")
    return 0

"""`gymnast annotate`: a note at this moment of the running episode; it lands in the recording."""

from __future__ import annotations

import argparse
import getpass
import os

from rich.console import Console

from gymnast_cli.connect import add_robot_arguments, emit, robot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_robot_arguments(parser)
    parser.add_argument("text", help="words or tags, e.g. 'cube slipped #grasp'")
    parser.add_argument("--by", help="author of the annotation (default operator:LOGIN)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Note it."""
    with robot(args) as client:
        client.annotate(args.text, by := args.by or f"operator:{_login()}")
    emit(args, console, {"annotated": args.text, "by": by}, "noted in the recording")
    return 0


def _login() -> str:
    """The user's login name; in a container whose user has none, its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"

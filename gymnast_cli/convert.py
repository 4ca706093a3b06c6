"""`gymnast episodes convert`: a dataset somebody else recorded, as episode files."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.wm_data import add_data_arguments, described
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Outcome

OUTCOMES = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNLABELLED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="a dataset")
    parser.add_argument("out", type=Path, help="folder for the .mcap files, one an episode")
    parser.add_argument("--robot", default=WIDOWX_250S.name, help=f"which arm it was (default {WIDOWX_250S.name})")
    parser.add_argument("--instruction", default="", help="of every episode, in place of the dataset's own")
    parser.add_argument(
        "--outcome", choices=[outcome.value for outcome in OUTCOMES], default=Outcome.UNLABELLED.value,
        help="of every episode (default unlabelled)",
    )  # fmt: skip
    add_data_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the files."""
    from cloud_trainer.jobs.desk.datasets import write_episodes

    done = write_episodes(
        described(args, args.folder), args.out, robot=args.robot, outcome=Outcome(args.outcome),
        instruction=args.instruction, skip_broken=args.skip_broken,
    )  # fmt: skip
    found = {"folder": str(args.out), "written": [str(path) for path in done.written], "present": list(done.present)}
    before = f"; {len(done.present)} were there before" if done.present else ""
    emit(args, console, found, f"{len(done.written)} episodes of {done.name} written to {args.out}{before}")
    return 0

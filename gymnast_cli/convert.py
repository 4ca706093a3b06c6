"""`gymnast episodes convert`: a dataset somebody else recorded, as episode files."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.wm_data import add_data_arguments, checked, dataset
from gymnast_core.errors import ConfigError
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
    from cloud_trainer.world_model.data.converted import write_dataset

    if args.out.resolve().is_relative_to(args.folder.resolve()):
        raise ConfigError(f"{args.out} lies in {args.folder}, which is only read; name a folder elsewhere")
    source = checked(args, args.folder).kept(skip_broken=True) if args.skip_broken else dataset(args, args.folder)
    outcome = Outcome(args.outcome)
    done = write_dataset(source, args.out, robot=args.robot, outcome=outcome, instruction=args.instruction)
    found = {"folder": str(args.out), "written": [str(path) for path in done.written], "present": list(done.present)}
    before = f"; {len(done.present)} were there before" if done.present else ""
    emit(args, console, found, f"{len(done.written)} episodes of {source.info.name} written to {args.out}{before}")
    return 0

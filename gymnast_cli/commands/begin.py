"""`gymnast begin`: first checkpoints for another camera or simulator, out of recorded episodes alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "episodes",
        type=Path,
        nargs="+",
        help="recorded and labelled: .mcap files or folders, e.g. of `gymnast env collect`",
    )
    parser.add_argument("--camera-matrix", type=Path, required=True, metavar="FILE",
                        help="a JSON list of 12 numbers, row-major 3x4: metres in the arm's base frame to "
                        "homogeneous pixels (column, row) of a picture of 64 pixels a side")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True,
                        help="gets policy/, world_model/ and judge/; what is there is not made again")  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("runs/begin"), help="state files (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--dry", action="store_true", help="tiny amounts: does it run?")


def run(args: argparse.Namespace, console: Console) -> int:
    """Make what is missing; an interrupted run goes on where it was."""
    from cloud_trainer.jobs.desk.begin import DRY, BeginAmounts, begin
    from gymnast_core.policies.processor import use_threads
    from gymnast_core.records.manifest import read_manifest

    def say(line: str) -> None:
        if not args.json:
            console.print(line)

    use_threads()
    amounts = DRY if args.dry else BeginAmounts()
    made = begin(args.episodes, args.camera_matrix, args.out, args.work, seed=args.seed, amounts=amounts, say=say)
    ids = {kind: read_manifest(folder).id for kind, folder in made.items()}
    emit(args, console, ids, "\n".join(f"{made[kind]}: {name}" for kind, name in ids.items()))
    return 0

"""`gymnast pretrain`: the shipped checkpoints again from nothing, or first ones for another camera or simulator."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gymnast_core.errors import ConfigError
from gymnast_core.shipped import BASE_POLICIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("checkpoints"),
        help="where the checkpoints go; what is there is not made again",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="episodes and state files")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--workers", type=int, default=2, help="processes that collect episodes")
    parser.add_argument("--policy", choices=(*BASE_POLICIES, "history"), default="tokens",
                        help="kind of the base policy: action tokens, as shipped, flow matching, or (alone, on arms "
                        "that err) tokens with a memory of its last 16 steps")  # fmt: skip
    parser.add_argument("--episodes", type=Path, nargs="+", metavar="PATH",
                        help="make the checkpoints of these recorded, labelled episodes: .mcap files or folders, "
                        "e.g. of `gymnast env collect`")  # fmt: skip
    parser.add_argument("--camera-matrix", type=Path, metavar="FILE",
                        help="with --episodes: a JSON list of 12 numbers, row-major 3x4, metres in the arm's base "
                        "frame to homogeneous pixels (column, row) of a picture of 64 pixels a side")  # fmt: skip
    parser.add_argument("--dry", action="store_true", help="tiny amounts: does it run?")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the stages; an interrupted run goes on where it was."""
    if (args.episodes is None) != (args.camera_matrix is None):
        raise ConfigError(
            "--episodes and --camera-matrix go together: a world model draws where its camera sees the arm"
        )
    return _shipped(args, console) if args.episodes is None else _of_episodes(args, console)


def _of_episodes(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.jobs.desk.begin import DRY, BeginAmounts, begin
    from gymnast_core.policies.processor import use_threads
    from gymnast_core.records.manifest import read_manifest

    use_threads()
    amounts = DRY if args.dry else BeginAmounts()
    made = begin(
        args.episodes, args.camera_matrix, args.out, args.work, seed=args.seed, amounts=amounts, say=console.print
    )
    for folder in made.values():
        console.print(f"{folder}: {read_manifest(folder).id}")
    return 0


def _shipped(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.jobs.desk.pretrain import DRY, Amounts, pretrain
    from gymnast_ros.sim.drivers import collect_shares

    console.print("about 90 core-minutes for all of it; interrupt it whenever you like, it goes on from there")
    amounts = DRY if args.dry else Amounts()
    pretrain(
        args.out, args.work, collect_shares, seed=args.seed, workers=args.workers, amounts=amounts, base=args.policy
    )
    return 0

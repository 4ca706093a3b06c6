"""`gymnast pretrain`: make the shipped checkpoints again from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

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
    parser.add_argument("--dry", action="store_true", help="tiny amounts: does it run?")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the stages; an interrupted run goes on where it was."""
    from cloud_trainer.jobs.desk.pretrain import DRY, Amounts, pretrain
    from gymnast_ros.sim.drivers import collect_shares

    console.print("about 120 core-minutes for all of it; interrupt it whenever you like, it goes on from there")
    amounts = DRY if args.dry else Amounts()
    pretrain(
        args.out, args.work, collect_shares, seed=args.seed, workers=args.workers, amounts=amounts, base=args.policy
    )
    return 0

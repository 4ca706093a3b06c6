"""`gymnast demo`: the main job."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from gymnast_core.shipped import BASE_POLICIES, shipped_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--seed", type=int, default=0, help="of everything, 0..99 (default 0)")
    parser.add_argument("--rounds", type=int, default=1, help="how often the loop goes round (default 1)")
    parser.add_argument("--policy", choices=tuple(BASE_POLICIES), default="tokens",
                        help="the base policy chooses action tokens, or matches flows (default tokens)")  # fmt: skip
    parser.add_argument("--from-scratch", action="store_true", help="make the base checkpoints first (about an hour)")
    parser.add_argument(
        "--smoke", action="store_true", help="the same path in one to four minutes; its numbers mean nothing"
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=shipped_checkpoints(),
        help="policy/ (or flow_policy/), world_model/ and judge/ to start from (default: the shipped ones)",
    )  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run's folder goes")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the loop; prints the table, leaves result.json and report.html."""
    from gymnast_cli.demo.config import DemoConfig
    from gymnast_cli.demo.run import run_demo

    config = DemoConfig(
        seed=args.seed, rounds=args.rounds, policy=args.policy, from_scratch=args.from_scratch,
        checkpoints=args.checkpoints, runs=args.runs,
    )  # fmt: skip
    folder = run_demo(config.smoke() if args.smoke else config, console)
    if args.json:
        print(json.dumps(json.loads((folder / "result.json").read_text())))
    return 0

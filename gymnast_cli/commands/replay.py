"""`gymnast replay`: plays an episode onto its topics, or a flight record below /flight, without a ROS installation."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("episode", type=Path, help="an .mcap file")
    parser.add_argument("--rate", type=float, default=1.0, help="times as fast as it was (default 1)")
    parser.add_argument("--domain", type=int, help="ROS_DOMAIN_ID to play into (default: the environment's)")
    parser.add_argument("--wait-s", type=float, default=0.0, help="wait so long at most for somebody to listen first")


def run(args: argparse.Namespace, console: Console) -> int:
    """Play it once."""
    from gymnast_ros.nodes.replay import play

    if not args.rate > 0:
        raise ConfigError(f"--rate must be above 0, got {args.rate}")
    played = play(args.episode, domain_id=args.domain, rate=args.rate, wait_s=args.wait_s)
    lines = [f"{count:>6}  {topic}" for topic, count in sorted(played.counts.items())]
    lines += [f"left out: {topic}, {why}" for topic, why in sorted(played.left_out.items())]
    emit(args, console, {"played": played.counts, "left_out": played.left_out}, "\n".join(lines))
    return 0

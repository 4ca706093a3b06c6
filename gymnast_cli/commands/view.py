"""`gymnast view`: a recorded episode, a flight record, or the running robot, in the rerun viewer."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("episode", nargs="?", type=Path, help="an .mcap file")
    parser.add_argument("--live", action="store_true", help="what is on the topics now: a robot, or a replay")
    parser.add_argument("--save", type=Path, metavar="FILE.rrd", help="write a recording instead of opening a viewer")
    parser.add_argument("--domain", type=int, help="ROS_DOMAIN_ID of the robot (default: the environment's)")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="with --live: end after that long; 0 is until Ctrl-C"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Show it."""
    from gymnast_cli.screen import RerunScreen, show_file

    if args.live == (args.episode is not None):
        raise ConfigError("name an episode file, or give --live, and not both")
    left_out: dict[str, str] = {}
    name = "live" if args.live else args.episode.stem
    screen = RerunScreen(args.save, f"{name}-{time.time_ns()}")
    try:
        if args.live:
            from gymnast_ros.nodes.onlooker import look

            look(screen, args.domain, args.seconds or float("inf"))
        else:
            left_out = show_file(args.episode, screen)
    except KeyboardInterrupt:
        console.print("closing the recording", style="yellow")
    finally:
        screen.close()
    where = f"; saved to {args.save}" if args.save else ""
    text = "\n".join([f"{screen.shown} values shown{where}", *(f"left out: {t}, {why}" for t, why in left_out.items())])
    emit(args, console, {"shown": screen.shown, "saved": str(args.save or ""), "left_out": left_out}, text)
    return 0

"""`gymnast wm ask`: a recorded episode's actions in a world model that is served elsewhere, as a video."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.wm_lab import Subparsers
from gymnast_core.errors import ConfigError


def add_arguments(actions: Subparsers) -> None:
    """Declare the action."""
    ask = actions.add_parser("ask", help="replay an episode's actions in a model that `wm serve --grpc` serves")
    ask.add_argument("address", metavar="HOST:PORT", help="where it is served")
    ask.add_argument("episode", type=Path, help="one .mcap file")
    ask.add_argument("--identity", type=Path, required=True, metavar="FOLDER", help="made by `gymnast enroll`")
    ask.add_argument("--seed", type=int, default=0, help="of the model's noise")
    ask.add_argument("--out", type=Path, default=Path("rollout.mp4"), help="video: real | imagined | difference")


def ask(args: argparse.Namespace, console: Console) -> int:
    """Ask for one sample: as many of the episode's actions as the service takes at once."""
    from cloud_trainer.jobs.desk.lab import film_frames
    from gymnast_client.worlds import WorldClient, replayed

    if not args.episode.is_file():
        raise ConfigError(f"no episode file {args.episode}; name one .mcap file (`gymnast episodes export`)")
    client = WorldClient(args.address, args.identity)
    try:
        version = client.describe().model_version
        real, imagined = replayed(client, args.episode, seed=args.seed)
    finally:
        client.close()
    by_step = film_frames(real, imagined, args.out)[1:]
    mean = sum(by_step) / len(by_step)
    found = {"model_version": version, "steps": len(by_step), "psnr_db": mean, "video": str(args.out)}
    emit(args, console, found, f"{len(by_step)} steps in {version}, PSNR {mean:.1f} dB; {args.out}")
    return 0

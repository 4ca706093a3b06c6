"""`gymnast wm ask`: a recorded episode's actions in a world model that is served elsewhere, as a video."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from gymnast_cli.connect import emit


def add_arguments(actions: Any) -> None:
    """Declare the action."""
    ask = actions.add_parser("ask", help="replay an episode's actions in a model that `wm serve --grpc` serves")
    ask.add_argument("address", metavar="HOST:PORT", help="where it is served")
    ask.add_argument("episode", type=Path, help="one .mcap file")
    ask.add_argument("--identity", type=Path, required=True, metavar="FOLDER", help="made by `gymnast enroll`")
    ask.add_argument("--seed", type=int, default=0, help="of the model's noise")
    ask.add_argument("--out", type=Path, default=Path("rollout.mp4"), help="video: real | imagined | difference")


def ask(args: argparse.Namespace, console: Console) -> int:
    """Ask for one sample: as many of the episode's actions as the service takes at once."""
    import numpy as np

    from cloud_trainer.jobs.desk.lab import film_frames
    from gymnast_client.worlds import WorldClient, WorldSample
    from gymnast_core.arm.targets import commanded_proprioception
    from gymnast_core.episodes import read_episode

    client = WorldClient(args.address, args.identity)
    try:
        world = client.describe()
        episode = read_episode(args.episode, image_size=(world.image_size, world.image_size))
        real, actions = next(iter(episode.images.values())), episode.actions_TA[: world.horizon]
        pose_FP = commanded_proprioception(episode.proprio_TP[:1], actions[None])[0, :1]
        sample = WorldSample(real[:1], pose_FP, actions, seed=args.seed, instruction=episode.instruction)
        (frames,) = client.predict([sample])
    finally:
        client.close()
    dreamt = np.concatenate((real[:1], frames))
    mean = float(np.mean(film_frames(real[: len(dreamt)], dreamt, args.out)[1:]))
    found = {"model_version": world.model_version, "steps": len(frames), "psnr_db": mean, "video": str(args.out)}
    emit(args, console, found, f"{len(frames)} steps in {world.model_version}, PSNR {mean:.1f} dB; {args.out}")
    return 0

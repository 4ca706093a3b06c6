"""What a researcher does with a world model before the audit: convert, check the data's lag, train, roll out."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.wm_data import add_data_arguments, recorded
from gymnast_core.errors import ConfigError

LATE = 3
"""Exit code when a dataset's actions are off in time."""

Subparsers = Any


def add_arguments(actions: Subparsers) -> None:
    """Declare convert, lag, train and rollout."""
    convert = actions.add_parser("convert", help="a published WorldGym .pt into a checkpoint folder")
    convert.add_argument("source", type=Path, help="the .pt file; read by the restricted unpickler only")
    convert.add_argument("folder", type=Path, help="checkpoint folder to write; must not exist")
    convert.add_argument("--rope", choices=("standard", "pixel"), required=True, help="pixel: the Bridge-only model")
    convert.add_argument("--heads", type=int, default=16, help="attention heads; the file does not say")
    convert.add_argument("--max-frames", type=int, default=20, help="longest window; the file does not say")
    convert.add_argument("--vae", required=True, metavar="FOLDER", help="SD3 AutoencoderKL in diffusers' layout")
    lag = actions.add_parser("lag", help="which action moves the picture: the data's convention, measured")
    lag.add_argument("folder", type=Path, help="a dataset")
    lag.add_argument("--tolerance", type=int, default=1, help="lags accepted: a slow arm smears motion over two steps")
    add_data_arguments(lag)
    train = actions.add_parser("train", help="train or refine; a run that was stopped goes on")
    train.add_argument("run", type=Path, help="run.json: see python -m cloud_trainer.world_model.train --help")
    rollout = actions.add_parser("rollout", help="replay a recorded episode's actions in the model, as a video")
    rollout.add_argument("folder", type=Path, help="a dataset, or one .mcap file's folder")
    rollout.add_argument("--world-model", type=Path, required=True, metavar="FOLDER", help="checkpoint")
    rollout.add_argument("--episode", type=int, default=0, metavar="N", help="which of the dataset")
    rollout.add_argument("--start", type=int, default=0, help="step from which the model goes on alone")
    rollout.add_argument("--steps", type=int, default=10, help="denoising steps per frame of a DiT")
    rollout.add_argument("--seed", type=int, default=0, help="of the model's noise")
    rollout.add_argument("--out", type=Path, default=Path("rollout.mp4"), help="video: real | imagined | difference")
    add_data_arguments(rollout)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do one of them."""
    actions = {"convert": _convert, "lag": _lag, "train": _train, "rollout": _rollout}
    return actions[args.action](args, console)


def _convert(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.world_model.convert import convert_pt

    manifest = convert_pt(
        args.source, args.folder, rope=args.rope, codec_config={"kind": "kl", "folder": args.vae},
        heads=args.heads, max_frames=args.max_frames,
    )  # fmt: skip
    found = {"id": manifest.id, "folder": str(args.folder), "bytes": manifest.weights_bytes, **manifest.lineage}
    emit(args, console, found, f"{manifest.id} from the {manifest.lineage['entry']} weights in {args.folder}")
    return 0


def _lag(args: argparse.Namespace, console: Console) -> int:
    """Measure; 3 when the actions are off in time."""
    from dataclasses import asdict

    from cloud_trainer.world_model.data.lag import measure_lag

    report = measure_lag(recorded(args, [args.folder]))
    right = abs(report.best) <= args.tolerance
    said = (
        f"within the tolerance of {args.tolerance}" if right
        else f"off: train with \"lag\": {report.best + _assumed(args)} (here --lag {report.best + _assumed(args)})"
    )  # fmt: skip
    text = f"{report.table()}\n{report.episodes} episodes read with lag {_assumed(args)}; left over {report.best:+d}"
    emit(args, console, {**asdict(report), "read_with_lag": _assumed(args), "right": right}, f"{text}, {said}")
    return 0 if right else LATE


def _assumed(args: argparse.Namespace) -> int:
    from cloud_trainer.world_model.data.worldgym import MEASURED_LAG

    default = MEASURED_LAG if args.kind == "worldgym" else 0
    return default if args.lag is None else int(args.lag)


def _train(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.world_model.train import read_run
    from cloud_trainer.world_model.train import run as train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = read_run(args.run)
    train(config)
    folder = Path(config["folder"])
    lines = (folder / "progress.jsonl").read_text().splitlines() if (folder / "progress.jsonl").is_file() else []
    last = json.loads(lines[-1]) if lines else {}
    emit(args, console, {"checkpoint": str(folder / "checkpoint"), **last}, f"checkpoint: {folder / 'checkpoint'}")
    return 0


def _rollout(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.world_model.audit_cases import imagine_cases
    from cloud_trainer.world_model.audit_page import side_by_side
    from cloud_trainer.world_model.data.video import write_video
    from cloud_trainer.world_model.metrics import psnr
    from cloud_trainer.world_model.worlds import DreamConfig, load_world

    episodes = recorded(args, [args.folder])
    if not 0 <= args.episode < len(episodes):
        raise ConfigError(f"--episode {args.episode}: {args.folder} has episodes 0..{len(episodes) - 1}")
    episode = episodes[args.episode]
    dreamer = load_world(args.world_model, DreamConfig(steps=args.steps)).dreamer()
    (case,) = imagine_cases(dreamer, [episode], draws=1, start=args.start, seed=args.seed, flip_gripper=False)
    write_video(args.out, side_by_side(case.real_FHWC, case.imagined_KFHWC[0]))
    by_step = psnr(case.real_FHWC, case.imagined_KFHWC[0])[args.start + 1 :].tolist()
    mean = sum(by_step) / len(by_step)
    text = f"{episode.episode_id}: {len(by_step)} imagined steps, PSNR {mean:.1f} dB on average; {args.out}"
    found = {"episode": episode.episode_id, "psnr_db": mean, "psnr_db_by_step": by_step, "video": str(args.out)}
    emit(args, console, found, text)
    return 0

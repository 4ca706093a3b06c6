"""What a researcher does with a world model before the audit: convert, check the data's lag, train, roll out."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.wm_data import add_data_arguments, checked, dataset
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from cloud_trainer.world_model.data.check import Checked

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
    lag.add_argument("--tolerance", type=int, default=0, help="systematic lags up to this are accepted (default 0)")
    add_data_arguments(lag)
    train = actions.add_parser("train", help="train or refine; a run that was stopped goes on")
    train.add_argument("run", type=Path, help="run.json: see python -m cloud_trainer.world_model.dit.train --help")
    train.add_argument("--skip-broken", action="store_true", help="list and leave out episodes that cannot be read")
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
    from cloud_trainer.world_model.dit.codec import CodecConfig
    from cloud_trainer.world_model.dit.convert import convert_pt

    manifest = convert_pt(
        args.source, args.folder, rope=args.rope, codec_config=CodecConfig(kind="kl", folder=args.vae),
        heads=args.heads, max_frames=args.max_frames,
    )  # fmt: skip
    found = {"id": manifest.id, "folder": str(args.folder), "bytes": manifest.weights_bytes, **manifest.lineage}
    emit(args, console, found, f"{manifest.id} from the {manifest.lineage['entry']} weights in {args.folder}")
    return 0


def _lag(args: argparse.Namespace, console: Console) -> int:
    """Measure each batch of the dataset; 3 when the actions of one are off in time."""
    from dataclasses import asdict

    from cloud_trainer.world_model.data.lag import ConventionError

    found = checked(args, args.folder)
    if not found.lags:
        raise ConventionError(f"none of {len(found.readable)} episodes has 12 steps with motion; nothing to measure")
    late = found.late(args.tolerance)
    batches = {batch: {**asdict(report), "systematic": report.systematic} for batch, report in found.lags.items()}
    worst = max(found.lags, key=lambda batch: (batch in late, found.lags[batch].episodes))
    value = {
        **asdict(found.lags[worst]), "read_with_lag": _assumed(args), "right": not late, "batches": batches,
        "camera": found.camera, "cameras": found.cameras, "broken": dict(found.broken),
    }  # fmt: skip
    emit(args, console, value, "\n".join(_lag_lines(args, found, worst)))
    return LATE if late else 0


def _lag_lines(args: argparse.Namespace, found: Checked, shown: str) -> list[str]:
    """The table of one batch, then a line for each batch and for what else was noticed."""
    lines = [found.lags[shown].table()]
    for batch, report in found.lags.items():
        verdict = "in step"
        if batch in found.late(args.tolerance):
            verdict = f'off: train with "lag": {report.best} more than now (here --lag)'
            if isinstance(_assumed(args), int):
                right = report.best + int(_assumed(args))
                verdict = f'off: train with "lag": {right} (here --lag {right})'
        elif report.best:
            verdict = "within the tolerance" if report.systematic else "not systematic: smear or chance"
        what = f"{batch}: " if batch else ""
        lines.append(
            f"{what}{report.episodes} episodes read with lag {_assumed(args)}; left over {report.best:+d}, {verdict}"
        )
    if len(found.cameras) > 1:
        others = ", ".join(name for name in found.cameras if name != found.camera)
        lines.append(f"camera {found.camera} was read; --camera chooses another: {others}")
    if found.broken:
        lines += [f"left out: {found.summary()}", found.listing()]
    return lines


def _assumed(args: argparse.Namespace) -> int | str:
    """The lag a dataset is read with: a number, or how it is found."""
    from cloud_trainer.world_model.data.worldgym import MEASURED_LAG

    if args.lag is not None:
        return int(args.lag)
    if args.kind == "bridge_raw":
        return "by date"
    return MEASURED_LAG if args.kind == "worldgym" else 0


def _train(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.world_model.dit.run_config import read_run
    from cloud_trainer.world_model.dit.train import run as train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = read_run(args.run)
    if args.skip_broken:
        config = config.changed(data=tuple(one.changed(skip_broken=True) for one in config.data))
    train(config)
    folder = config.folder
    lines = (
        (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()
        if (folder / "progress.jsonl").is_file()
        else []
    )
    last = json.loads(lines[-1]) if lines else {}
    emit(args, console, {"checkpoint": str(folder / "checkpoint"), **last}, f"checkpoint: {folder / 'checkpoint'}")
    return 0


def _rollout(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.jobs.lab import film_rollout

    source = dataset(args, args.folder)
    if not 0 <= args.episode < len(source):
        raise ConfigError(f"--episode {args.episode}: {args.folder} has episodes 0..{len(source) - 1}")
    episode = source.episode(args.episode)
    by_step = film_rollout(episode, args.world_model, args.out, steps=args.steps, start=args.start, seed=args.seed)
    mean = sum(by_step) / len(by_step)
    text = f"{episode.episode_id}: {len(by_step)} imagined steps, PSNR {mean:.1f} dB on average; {args.out}"
    found = {"episode": episode.episode_id, "psnr_db": mean, "psnr_db_by_step": by_step, "video": str(args.out)}
    emit(args, console, found, text)
    return 0

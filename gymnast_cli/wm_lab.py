"""What a researcher does with a world model before the audit: convert, check the data's lag, train, roll out."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.wm_data import add_data_arguments, described

if TYPE_CHECKING:
    from cloud_trainer.jobs.desk.datasets import Checked

LATE = 3
"""Exit code when a dataset's actions are off in time."""

Subparsers = Any


def add_arguments(actions: Subparsers) -> None:
    """Declare convert, show, lag, train and rollout."""
    convert = actions.add_parser("convert", help="a published WorldGym .pt into a checkpoint folder")
    convert.add_argument("source", type=Path, help="the .pt file; read by the restricted unpickler only")
    convert.add_argument("folder", type=Path, help="checkpoint folder to write; must not exist")
    convert.add_argument("--rope", choices=("standard", "pixel"), required=True, help="pixel: the Bridge-only model")
    convert.add_argument("--heads", type=int, default=16, help="attention heads; the file does not say")
    convert.add_argument("--max-frames", type=int, default=20, help="longest window; the file does not say")
    convert.add_argument("--vae", required=True, metavar="FOLDER", help="SD3 AutoencoderKL in diffusers' layout")
    show = actions.add_parser(
        "show", help="what a checkpoint takes, how far it was audited, and what it is refused for"
    )
    show.add_argument("folder", type=Path, help="checkpoint of a world model")
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
    rollout.add_argument(
        "--steps", type=int, help="denoising steps per frame of a DiT (default: as distilled, else 10)"
    )
    rollout.add_argument("--seed", type=int, default=0, help="of the model's noise")
    rollout.add_argument("--out", type=Path, default=Path("rollout.mp4"), help="video: real | imagined | difference")
    add_data_arguments(rollout)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do one of them."""
    actions = {"convert": _convert, "lag": _lag, "train": _train, "rollout": _rollout, "show": _show}
    return actions[args.action](args, console)


def _convert(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.jobs.desk.worlds import convert_world_model

    manifest = convert_world_model(
        args.source, args.folder, rope=args.rope, vae=args.vae, heads=args.heads, max_frames=args.max_frames
    )
    found = {"id": manifest.id, "folder": str(args.folder), "bytes": manifest.weights_bytes, **manifest.lineage}
    emit(args, console, found, f"{manifest.id} from the {manifest.lineage['entry']} weights in {args.folder}")
    return 0


def _show(args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    from cloud_trainer.jobs.desk.worlds import shown

    found = shown(args.folder)
    table = Table(title=found["id"], show_header=False)
    for name, value in found.items():
        if isinstance(value, dict):
            value = "\n".join(f"{key}: {part}" for key, part in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        if name != "id":
            table.add_row(name.replace("_", " "), "–" if value in (None, "") else str(value))
    emit(args, console, found, table)
    return 0


def _lag(args: argparse.Namespace, console: Console) -> int:
    """Measure each batch of the dataset; 3 when the actions of one are off in time."""
    from dataclasses import asdict

    from cloud_trainer.jobs.desk.datasets import assumed_lag, measured_lags

    config = described(args, args.folder)
    found, assumed = measured_lags(config, skip_broken=args.skip_broken), assumed_lag(config)
    late = found.late(args.tolerance)
    batches = {batch: {**asdict(report), "systematic": report.systematic} for batch, report in found.lags.items()}
    worst = max(found.lags, key=lambda batch: (batch in late, found.lags[batch].episodes))
    value = {
        **asdict(found.lags[worst]), "read_with_lag": assumed, "right": not late, "batches": batches,
        "camera": found.camera, "cameras": found.cameras, "broken": dict(found.broken),
    }  # fmt: skip
    emit(args, console, value, "\n".join(_lag_lines(found, worst, assumed, args.tolerance)))
    return LATE if late else 0


def _lag_lines(found: Checked, shown: str, assumed: int | str, tolerance: int) -> list[str]:
    """The table of one batch, then a line for each batch and for what else was noticed."""
    lines = [found.lags[shown].table()]
    for batch, report in found.lags.items():
        verdict = "in step"
        if batch in found.late(tolerance):
            verdict = f'off: train with "lag": {report.best} more than now (here --lag)'
            if isinstance(assumed, int):
                right = report.best + assumed
                verdict = f'off: train with "lag": {right} (here --lag {right})'
        elif report.best:
            verdict = "within the tolerance" if report.systematic else "not systematic: smear or chance"
        what = f"{batch}: " if batch else ""
        lines.append(f"{what}{report.episodes} episodes read with lag {assumed}; left over {report.best:+d}, {verdict}")
    if len(found.cameras) > 1:
        others = ", ".join(name for name in found.cameras if name != found.camera)
        lines.append(f"camera {found.camera} was read; --camera chooses another: {others}")
    if found.broken:
        lines += [f"left out: {found.summary()}", found.listing()]
    return lines


def _train(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.jobs.desk.worlds import train_world_model

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    checkpoint, last = train_world_model(args.run, skip_broken=args.skip_broken)
    emit(args, console, {"checkpoint": str(checkpoint), **last}, f"checkpoint: {checkpoint}")
    return 0


def _rollout(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.jobs.desk.worlds import roll_out

    name, by_step = roll_out(
        described(args, args.folder), args.episode, args.world_model, args.out, steps=args.steps, start=args.start,
        seed=args.seed,
    )  # fmt: skip
    mean = sum(by_step) / len(by_step)
    text = f"{name}: {len(by_step)} imagined steps, PSNR {mean:.1f} dB on average; {args.out}"
    found = {"episode": name, "psnr_db": mean, "psnr_db_by_step": by_step, "video": str(args.out)}
    emit(args, console, found, text)
    return 0

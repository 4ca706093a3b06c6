"""`gymnast wm distil`: a world model that takes fewer sampling steps, taught by one that takes more."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.wm_data import add_data_arguments, reader
from gymnast_cli.wm_lab import Subparsers

REFUSED = 3
"""Exit code when the student audits worse than its teacher."""
SETTINGS = ("iterations", "batch_size", "learning_rate", "steps", "widths", "teacher_steps", "guidance", "device")


def add_arguments(actions: Subparsers) -> None:
    """Declare the action."""
    distil = actions.add_parser("distil", help="fewer sampling steps: teach a student on its own rollouts; a run that "
                                "was stopped goes on")  # fmt: skip
    distil.add_argument("episodes", type=Path, nargs="+", help=".mcap files, or folders of data: rollouts begin in "
                        "them and play their actions; every fourth is held out")  # fmt: skip
    add_data_arguments(distil)
    distil.add_argument("--world-model", type=Path, required=True, metavar="FOLDER", help="checkpoint of the teacher")
    distil.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoint of the student to write")
    distil.add_argument("--steps", type=int, metavar="N", help="of the student (default 1)")
    distil.add_argument("--widths", type=int, nargs=3, metavar="N", help="channels of a narrower compact student at "
                        "1/2, 1/4 and 1/8 resolution (default: the teacher's)")  # fmt: skip
    distil.add_argument("--iterations", type=int, metavar="N", help="optimiser steps (default 1200)")
    distil.add_argument("--batch-size", type=int, metavar="N", help="rollouts a step (default 12)")
    distil.add_argument("--learning-rate", type=float, metavar="RATE", help="peak (default 3e-4)")
    distil.add_argument("--teacher-steps", type=int, metavar="N", help="of a DiT as teacher (default 4)")
    distil.add_argument("--guidance", type=float, metavar="G", help="of a DiT as teacher (default 1, none)")
    distil.add_argument("--device", metavar="NAME", help="of a DiT (default auto)")
    distil.add_argument("--seed", type=int, default=0, help="of everything random")


def distil(args: argparse.Namespace, console: Console) -> int:
    """Distil; 3 when the student audits worse than its teacher."""
    from cloud_trainer.jobs.desk.distilling import distil_checkpoint
    from gymnast_core.jobs import DistilSettings

    given = {name: value for name in SETTINGS if (value := getattr(args, name)) is not None}
    found, refusal = distil_checkpoint(
        args.world_model, args.episodes, DistilSettings.model_validate(given), args.out, read=reader(args),
        seed=args.seed, report=console.print,
    )  # fmt: skip
    text = (
        f"{found.student} in {args.out}: PSNR {found.student_db:.2f} dB, its teacher's {found.teacher_db:.2f}\n"
        + (refusal or "it may take its teacher's place")
    )  # fmt: skip
    emit(args, console, {**asdict(found), "folder": str(args.out), "refusal": refusal}, text)
    return REFUSED if refusal else 0

"""`gymnast judge calibrate`: a judge's verdicts against operator labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import emit

if TYPE_CHECKING:
    from rich.table import Table

    from cloud_trainer.judge.trust import JudgeCalibration

REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare calibrate."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    calibrate = actions.add_parser("calibrate", help="precision and recall per task, with intervals")
    calibrate.add_argument("episodes", type=Path, nargs="+", help="labelled .mcap files or folders; held out")
    calibrate.add_argument(
        "--judge",
        type=Path,
        required=True,
        metavar="FOLDER|FILE",
        help="a checkpoint; or a .json/.toml naming an endpoint or a local model, see cloud_trainer/judge/choice.py",
    )
    calibrate.add_argument(
        "--world-model",
        type=Path,
        metavar="FOLDER",
        help="judge the episodes' dreams instead of their recordings: what RL will show it",
    )
    calibrate.add_argument("--floor", type=float, help="exit 3 unless every task's precision is proven above this")
    calibrate.add_argument("--out", type=Path, metavar="FILE", help="write the calibration here, for RL to ask")
    calibrate.add_argument("--seed", type=int, default=0, help="of the dreams")


def run(args: argparse.Namespace, console: Console) -> int:
    """Calibrate; 3 when the floor is not reached, another failure when the judge could not be asked."""
    from cloud_trainer.jobs.lab import calibrate_judge

    report, refusal = calibrate_judge(
        args.judge, args.episodes, world_model=args.world_model, floor=args.floor, seed=args.seed
    )
    if args.out is not None:
        report.write(args.out)
    emit(args, console, {**report.to_json(), "refusal": refusal}, table(report))
    if refusal:
        console.print(refusal, style="red", markup=False)
    return REFUSED if refusal else 0


def table(report: JudgeCalibration) -> Table:
    """The calibration for people."""
    from rich.table import Table

    shown = Table(title=f"{report.judge}, {report.confidence:.0%} intervals")
    for column in ("task", "labelled", "abstained", "precision", "recall"):
        shown.add_column(column, justify="left" if column == "task" else "right")
    for row in report.tasks:
        name = "all" if row.task == "*" else row.task
        shown.add_row(name, str(row.labelled), str(row.abstained), _interval(row.precision), _interval(row.recall))
    return shown


def _interval(interval: Any) -> str:
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]" if interval else "never said success"

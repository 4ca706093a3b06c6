"""`gymnast judge`: a judge's verdicts against operator labels, at a desk and at the trainer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, finite, trainer
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from cloud_trainer.jobs.desk.lab import JudgeCalibration
    from gymnast_client.judging import PrecisionTable, PrecisionView

REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare calibrate and precision."""
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
    precision = actions.add_parser("precision", help="where the trainer's judge may label real episodes, and why not")
    precision.add_argument("--task", default="", help="only this instruction")
    precision.add_argument("--evidence", action="store_true", help="with the episodes behind each row (--json)")
    add_trainer_arguments(precision)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    return _precision(args, console) if args.action == "precision" else _calibrate(args, console)


def _precision(args: argparse.Namespace, console: Console) -> int:
    with trainer(args) as there:
        found = there.judging.precision(task=args.task, evidence=args.evidence)
    emit(args, console, finite(asdict(found)), proofs(found))
    return 0


def proofs(found: PrecisionTable) -> Table:
    """What is proven, for people."""
    from rich.table import Table

    who = f"{found.judge} judges here" if found.judge else "no judge runs here (gymnast serve --judge)"
    shown = Table(title=who)
    for column in (
        "judge",
        "task",
        "scene",
        "labels",
        "success",
        "failure",
        "abstained",
        "labelled",
        "what is missing",
    ):
        shown.add_column(column, justify="right" if column in ("abstained", "labelled") else "left")
    for row in found.rows:
        success = f"{row.true_success}/{row.called_success} > {row.success_low:.2f}"
        failure = f"{row.true_failure}/{row.called_failure} > {row.failure_low:.2f}"
        cells = (row.judge, row.task, row.scene, labels_of(row), success, failure)
        shown.add_row(*map(one_line, cells), str(row.abstained), str(row.labelled), one_line(row.reason))
    return shown


def labels_of(row: PrecisionView) -> str:
    """Which labels a judge may give."""
    words = [word for word, may in (("success", row.labels_success), ("failure", row.labels_failure)) if may]
    return " and ".join(words) or "nothing"


def _calibrate(args: argparse.Namespace, console: Console) -> int:
    """Calibrate; 3 when the floor is not reached, another failure when the judge could not be asked."""
    from cloud_trainer.jobs.desk.lab import calibrate_judge

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

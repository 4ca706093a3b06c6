"""`gymnast wm`: convert a published model, show one, check data, train, distil, roll out, audit, plan, serve, ask.

The audit says how far a world model may be trusted, measured on recorded episodes it never saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli import wm_ask, wm_distil, wm_lab, wm_plan, wm_serve
from gymnast_cli.connect import add_override_argument, emit
from gymnast_cli.wm_data import add_data_arguments, reader

if TYPE_CHECKING:
    from rich.table import Table

    from cloud_trainer.jobs.desk.lab import AuditReport

REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    wm_lab.add_arguments(actions)
    wm_distil.add_arguments(actions)
    wm_serve.add_arguments(actions)
    wm_plan.add_arguments(actions)
    wm_ask.add_arguments(actions)
    audit = actions.add_parser("audit", help="real against imagined, with a page of videos")
    audit.add_argument("episodes", type=Path, nargs="+", help=".mcap files, or folders of data; held out of training")
    add_data_arguments(audit)
    audit.add_argument("--world-model", type=Path, required=True, metavar="FOLDER", help="checkpoint to audit")
    audit.add_argument("--judge", type=Path, metavar="FOLDER", help="checkpoint that judges the dreams")
    audit.add_argument("--parent", type=Path, metavar="FOLDER", help="checkpoint it must not audit worse than")
    audit.add_argument(
        "--tracker", type=Path, nargs="+", default=[], metavar="PATH",
        help="other episodes of the same camera, to read the gripper by (default: every fourth of those given)",
    )  # fmt: skip
    audit.add_argument(
        "--parts", nargs="+", metavar="PART",
        help="measure and demand only these of: outcomes pictures objects motion gripper trust (default: all)",
    )  # fmt: skip
    audit.add_argument("--pictures", type=int, metavar="N", help="dream at most N of them frame by frame (default all)")
    audit.add_argument("--start", type=int, default=0, help="step from which the model goes on alone")
    add_override_argument(audit)
    audit.add_argument("--out", type=Path, default=Path("audit"), help="folder for audit.json and audit.html")
    audit.add_argument("--seed", type=int, default=0, help="of the model's noise")
    bounds = actions.add_parser(
        "bounds", help="calibrate the gates to a world model that is known to be good: writes its bounds.json"
    )
    bounds.add_argument("episodes", type=Path, nargs="+", help=".mcap files or folders; held out of training, labelled")
    bounds.add_argument("--world-model", type=Path, required=True, metavar="FOLDER", help="as it is known to be good")
    bounds.add_argument("--judge", type=Path, required=True, metavar="FOLDER", help="checkpoint that judges the dreams")
    bounds.add_argument(
        "--refined", type=Path, nargs="+", default=[], metavar="FOLDER",
        help="models refined from it that are known to be good as well: before practice they must pass too",
    )  # fmt: skip
    bounds.add_argument(
        "--gates", nargs="+", metavar="GATE", help="only these of: improve adapt promotion; the others stay"
    )
    bounds.add_argument(
        "--parts", nargs="+", metavar="PART",
        help="only bounds of these parts of the audit: outcomes pictures objects motion obedience; the others stay",
    )  # fmt: skip
    bounds.add_argument("--seed", type=int, default=0, help="of the model's noise and of the draws")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do one action."""
    here = {"audit": _audit, "bounds": _bounds, "distil": wm_distil.distil, "serve": wm_serve.serve, "ask": wm_ask.ask,
            "plan": wm_plan.plan, "adopt-planner": wm_plan.adopt_planner,
            "train-planner": wm_plan.train_planner}  # fmt: skip
    return here[args.action](args, console) if args.action in here else wm_lab.run(args, console)


def _bounds(args: argparse.Namespace, console: Console) -> int:
    """Audit the untouched model over and over, and write what each gate may demand of it and its children."""
    from cloud_trainer.jobs.desk.lab import calibrate_bounds
    from gymnast_cli.stages import Stages

    with Stages(console) as stages:
        found = calibrate_bounds(
            args.world_model, args.judge, args.episodes, refined=args.refined, gates=args.gates, parts=args.parts,
            seed=args.seed, stage=stages.stage,
        )  # fmt: skip
    emit(args, console, found, f"bounds of {found['world_model']} are in {found['file']}")
    return 0


def _audit(args: argparse.Namespace, console: Console) -> int:
    """Audit; 3 when reinforcement learning would be refused, or the parent is better."""
    from cloud_trainer.jobs.desk.episodes import episode_files
    from cloud_trainer.jobs.desk.lab import audit_world
    from gymnast_core.jobs.audit import PARTS, AuditConfig

    config = AuditConfig(parts=tuple(args.parts or PARTS), pictures=args.pictures, start=args.start)
    if args.kind == "mcap":
        episode_files([*args.episodes, *args.tracker])  # a wrong path is reported before a large model is read
    report, refusal = audit_world(
        args.world_model, args.episodes, args.tracker, read=reader(args), config=config, judge=args.judge,
        parent=args.parent, overrides=dict(args.override), out=args.out, seed=args.seed,
    )  # fmt: skip
    result = {**report.summary(), "world_model": report.model, "trusted": not refusal, "refusal": refusal,
              "overridden": {name: why for name, why in args.override if name in report.broken},
              "page": str(args.out / "audit.html")}  # fmt: skip
    emit(args, console, result, table(report))
    console.print(f"{refusal or 'within the bounds'}; page: {args.out / 'audit.html'}", markup=False)
    return REFUSED if refusal else 0


def table(report: AuditReport) -> Table:
    """The bounded numbers for people."""
    from rich.table import Table

    from cloud_trainer.jobs.desk.lab import scalars

    shown = Table(title=f"Audit of {report.model}")
    for column in ("bound", "measured", "demanded", ""):
        shown.add_column(column, justify="left" if column == "bound" else "right")
    for name, value in scalars(report).items():
        demanded = report.bounds[name]
        measured = "–" if value != value else f"{value:.3g}"
        shown.add_row(name, measured, "" if demanded is None else f"{demanded:.3g}", "broken" * (name in report.broken))
    if report.trust is not None:
        broken = "broken" * ("coverage" in report.broken)
        shown.add_row("coverage", f"{report.trust['coverage']:.0%} {report.trust['verdict']}", "85-95 %", broken)
    return shown

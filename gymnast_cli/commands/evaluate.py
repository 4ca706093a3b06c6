"""`gymnast evaluate`: checkpoints compared on a started robot, the same start states for all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from rich.console import Console

from gymnast_cli.connect import add_robot_arguments, checkpoint_on_robot, emit, robot, task_list, temperature, whole
from gymnast_cli.retrying import add_retry_arguments, retried, retry_of, retry_table
from gymnast_core.evaluation.cards import IntervalFigures, PairedDifference, SuccessCount, SuccessCounts
from gymnast_core.seeds import block

if TYPE_CHECKING:
    from rich.table import Table

    from gymnast_core.evaluation.results import Trials

FIRST_SEED = block("evaluate").start
"""Never trained on, never chosen with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "checkpoints",
        nargs="*",
        default=["current"],
        help="'current', 'staged', ids or folders; the first is what the others are compared with",
    )
    count, seed, sample = (whole("evaluate", name) for name in ("seed_count", "seed_start", "temperature_seed"))
    add_robot_arguments(parser)
    parser.add_argument("--tasks", type=task_list, default="lift,push,put,drawer", help="names or instructions")
    parser.add_argument("--count", type=count, default=25, help="start states per task (default 25)")
    parser.add_argument("--scene", default="standard", help="look of the simulated world")
    parser.add_argument("--seed-start", type=seed, default=FIRST_SEED, help="first start state")
    parser.add_argument(
        "--sample",
        type=sample,
        default=-1,
        metavar="SEED",
        help="sample with this seed; default: greedy",
    )
    parser.add_argument("--temperature", type=temperature, help="with --sample (default: the policy's own)")
    parser.add_argument(
        "--no-record", action="store_true", help="a quick look: the trainer's calibration ledger never sees it"
    )
    add_retry_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the whole result here as JSON")
    parser.add_argument("--timeout-s", type=float, default=3600.0, help="longest wait")


def run(args: argparse.Namespace, console: Console) -> int:
    """Evaluate and print successes with Wilson intervals, and the paired difference to the first."""
    from gymnast_cli.stages import Stages, ended, shown
    from gymnast_core.evaluation.results import trials_of

    retry = retry_of(args)
    with robot(args) as client, Stages(console) as stages, stages.stage("evaluate") as advance:
        names = [checkpoint_on_robot(client, name) for name in args.checkpoints]
        result = client.evaluate(
            tasks=args.tasks, seed_start=args.seed_start, seed_count=args.count, checkpoints=names, scene=args.scene,
            temperature_seed=args.sample, temperature=args.temperature, record=not args.no_record, retry=retry,
            timeout_s=args.timeout_s, progress=lambda status: advance(*shown(status)),
        )  # fmt: skip
        ended(result["episodes"], advance)
    versions = list(dict.fromkeys(result["checkpoints"]))
    summary = summarise(trials_of(result, versions), versions)
    whole = {**{key: result[key] for key in ("run_id", "scene", "seed_start", "seed_count", "complete")}, **summary}
    whole |= retried(result)
    if args.out is not None:
        groups = {name: result[name] for name in ("groups",) if name in result}
        args.out.write_text(json.dumps({**whole, "episodes": result["episodes"], **groups}, indent=1))
    emit(args, console, whole, table(summary["policies"], args.scene))
    if retry is not None and not args.json:
        console.print(retry_table(result["retried"].items()))
    return 0 if result["complete"] else 1


class PolicySuccess(SuccessCounts):
    """What one policy of an evaluation came to, and its difference to the first one."""

    id: str
    interval: IntervalFigures | None
    difference: PairedDifference | None


class Summary(TypedDict):
    """An evaluation by policy."""

    policies: list[PolicySuccess]


def summarise(trials: Mapping[str, Trials], versions: Sequence[str]) -> Summary:
    """{policies: [{id, successes, n, interval, tasks, difference}]}; the difference is paired, to the first version."""
    from gymnast_core.evaluation.results import counts, difference
    from gymnast_core.evaluation.statistics import wilson_interval

    rows: list[PolicySuccess] = []
    for version in versions:
        known = [{key: won for key, won in trials[name].items() if won is not None} for name in (versions[0], version)]
        both = known[0].keys() & known[1].keys()  # a cancelled evaluation may lack a partner
        shared = [{key: won[key] for key in sorted(both)} for won in known]
        total = counts(trials[version])
        interval = wilson_interval(total["successes"], total["n"]).to_json() if total["n"] else None
        change = difference(*shared) if version != versions[0] and both else None
        rows.append({"id": version, "interval": interval, "difference": change, **total})
    return {"policies": rows}


def table(policies: Sequence[PolicySuccess], scene: str) -> Table:
    """The summary for people."""
    from rich.table import Table

    shown = Table(title=f"On the robot, scene {scene}, same start states")
    for column in ("checkpoint", "task", "success", "rate [95 %]", "difference [95 %]"):
        shown.add_column(column, justify="left" if column in ("checkpoint", "task") else "right")
    for row in policies:
        for name, count in row["tasks"].items():
            change = row["difference"]["tasks"].get(name) if row["difference"] else None
            shown.add_row("", name, *cells(count, change))
        shown.add_row(row["id"], "all", *cells(row, row["difference"]), style="bold", end_section=True)
    return shown


def cells(count: SuccessCount, change: IntervalFigures | None) -> list[str]:
    """successes/n, the rate with its interval, and the paired difference."""
    from gymnast_core.evaluation.statistics import wilson_interval

    unlabelled = f" ({count['unlabelled']} not labelled)" if count["unlabelled"] else ""
    if not count["n"]:
        return [f"0/0{unlabelled}", "", ""]
    interval = wilson_interval(count["successes"], count["n"])
    rate = f"{interval.mean:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
    paired = f"{change['mean']:+.0%} [{change['low']:+.0%}, {change['high']:+.0%}]" if change else ""
    return [f"{count['successes']}/{count['n']}{unlabelled}", rate, paired]

"""`gymnast ttt`: test-time training for one scene, as one action, through the robot's own service."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from gymnast_cli.connect import (
    add_robot_arguments,
    checkpoint_on_robot,
    emit,
    json_argument,
    robot,
    task_list,
)
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from gymnast_cli.adapt import AdaptOutcome, AdaptTrial
    from gymnast_ros.nodes.client import GraphClient

COLLECT_SEED = 950_000
EVALUATION_SEED = 2_900_000
REFUSED = 3
"""Exit code when there is nothing to keep: the dream is not trusted, or the adapted policy did not win."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--instruction", required=True, help="what the arm shall do; a task's name will do")
    parser.add_argument("--scene", required=True, help="name of the scene it stands in")
    parser.add_argument("--budget-s", type=float, default=120.0, help="deadline of the training job (default 120)")
    parser.add_argument(
        "--collect",
        type=int,
        default=40,
        metavar="N",
        help="real episodes to record there first: start frames and trust check (default 40)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--rollouts", type=int, default=0, help="imagined rollouts at most (default: the deadline)")
    parser.add_argument(
        "--mode", choices=("full", "lora"), default="full", help="train the whole policy, or a small adapter on it"
    )
    parser.add_argument("--world-model", default="", metavar="ID", help="checkpoint (default: the trainer's newest)")
    parser.add_argument("--judge", default="", metavar="ID", help="checkpoint (default: the trainer's newest)")
    parser.add_argument("--policy", default="", metavar="ID", help="to adapt (default: what the robot runs)")
    parser.add_argument("--config", type=json_argument, default={}, metavar="JSON|@FILE", help="of the training job")
    parser.add_argument("--count", type=int, default=20, help="start states per task of the trial (default 20)")
    parser.add_argument("--other-tasks", type=task_list, default="lift,push,put,drawer", help="must not be forgotten")
    parser.add_argument("--most-loss", type=float, default=0.10, help="tolerated on the other tasks (default 0.10)")
    parser.add_argument("--yes", action="store_true", help="keep a winner without asking")
    add_robot_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Collect, check trust, train, try, keep or revert; 3 when nothing was kept."""
    with robot(args) as client:
        current = args.policy or client.policy_version
        if not current:
            raise ConfigError("the robot does not say which policy it runs; give --policy ID")
        outcome, trial = _adapt_and_try(client, current, args, console)
        if trial is None:
            summary = {"kept": False, "reason": outcome.reason, "policy": current, "job": dict(outcome.job)}
            emit(args, console, summary, f"[yellow]nothing to try[/]: {escape(outcome.reason)}")
            return REFUSED
        if not args.json:
            console.print(table(trial, args.scene))
        kept = trial.kept and (args.yes or _approved(args, console, trial))
        if kept:
            client.swap(str(outcome.candidate))
    reason = trial.reason if kept or not trial.kept else "declined by the operator"
    summary = {"kept": kept, "reason": reason, "policy": outcome.candidate if kept else current,
               "candidate": outcome.candidate, "scene": dict(trial.scene), "other_tasks": dict(trial.other_tasks),
               "job": dict(outcome.job)}  # fmt: skip
    emit(args, console, summary, f"[bold]{'kept' if kept else 'reverted to ' + current}[/]: {reason}")
    return 0 if kept else REFUSED


def _adapt_and_try(
    client: GraphClient, current: str, args: argparse.Namespace, console: Console
) -> tuple[AdaptOutcome, AdaptTrial | None]:
    from gymnast_cli import adapt
    from gymnast_cli.results import KeepRule
    from gymnast_cli.stages import Stages

    spec = {"policy": current, "world_model": args.world_model, "judge": args.judge, "seed": args.seed,
            "budget_s": args.budget_s, "rollouts": args.rollouts, "mode": args.mode, "config": args.config}  # fmt: skip
    with Stages(console) as stages:
        with stages.stage("collect there and adapt") as advance:
            outcome = adapt.test_time_train(
                client, spec=spec, scene=args.scene, task=args.instruction, collect=args.collect,
                seed_start=COLLECT_SEED + args.seed * 1000, advance=advance, temperature_seed=args.seed,
            )  # fmt: skip
        if outcome.candidate is None:
            return outcome, None
        with stages.stage("try it on the arm") as advance:
            trial = adapt.try_adaptation(
                client, current=current, candidate=outcome.candidate,
                folder_of=partial(checkpoint_on_robot, client), scene=args.scene,
                task=args.instruction, other_tasks=_others(args), seed_start=EVALUATION_SEED + args.seed * 1000,
                seed_count=args.count, advance=advance, rule=KeepRule(loss=args.most_loss),
            )  # fmt: skip
    return outcome, trial


def _others(args: argparse.Namespace) -> list[str]:
    from gymnast_cli.adapt import instruction_of

    return [task for task in args.other_tasks if instruction_of(task) != instruction_of(args.instruction)]


def _approved(args: argparse.Namespace, console: Console, trial: AdaptTrial) -> bool:
    """Ask the operator; without a terminal there is nobody to ask, and nothing is swapped."""
    if args.json or not console.is_terminal:
        console.print("nobody to ask here; run again with --yes to keep a winner", style="yellow")
        return False
    return console.input(f"{trial.reason}. Keep it on this robot? [y/N] ").strip().lower() in ("y", "yes")


def table(trial: AdaptTrial, scene: str) -> Table:
    """Before and after, here and elsewhere."""
    from rich.table import Table

    from gymnast_cli.commands.evaluate import cells

    shown = Table(title="Test-time training, same start states, greedy")
    for column in ("where", "before", "after", "difference [95 %]"):
        shown.add_column(column, justify="left" if column == "where" else "right")
    for name, part in ((scene, trial.scene), ("other tasks", trial.other_tasks)):
        if part:
            before, after = cells(part["before"], None), cells(part["after"], part["difference"])
            shown.add_row(name, " ".join(before[:2]), " ".join(after[:2]), after[2])
    return shown

"""`gymnast collect`: episodes on a started robot."""

from __future__ import annotations

import argparse

from rich.console import Console

from gymnast_cli.connect import add_robot_arguments, emit, robot, task_list, temperature, whole
from gymnast_cli.retrying import add_retry_arguments, retried, retry_of, retry_table
from gymnast_core.seeds import block

FIRST_SEED = block("collect").start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    count, seed, sample = (whole("evaluate", name) for name in ("seed_count", "seed_start", "temperature_seed"))
    add_robot_arguments(parser)
    parser.add_argument("--tasks", type=task_list, default="lift,push,put,drawer", help="names or instructions")
    parser.add_argument("--count", type=count, default=25, help="episodes per task (default 25)")
    parser.add_argument("--scene", default="standard", help="look of the simulated world")
    parser.add_argument("--seed-start", type=seed, default=FIRST_SEED, help="first start state")
    parser.add_argument(
        "--sample",
        type=sample,
        default=0,
        metavar="SEED",
        help="of the policy's exploration; -1: greedy",
    )
    parser.add_argument("--temperature", type=temperature, help="at which it explores (default: the policy's own)")
    add_retry_arguments(parser)
    parser.add_argument("--keep-local", action="store_true", help="do not wait until the trainer has them")
    parser.add_argument("--timeout-s", type=float, default=3600.0, help="longest wait")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run and record the episodes; wait until each is acknowledged by the trainer."""
    from gymnast_cli.stages import Stages, ended, shown

    retry = retry_of(args)
    with robot(args) as client, Stages(console) as stages:
        with stages.stage("collect") as advance:
            result = client.evaluate(
                tasks=args.tasks, seed_start=args.seed_start, seed_count=args.count, scene=args.scene,
                temperature_seed=args.sample, temperature=args.temperature, record=True, purpose="collect", retry=retry,
                timeout_s=args.timeout_s, progress=lambda status: advance(*shown(status)),
            )  # fmt: skip
            ended(result["episodes"], advance)
        if not args.keep_local:
            with stages.stage("ship"):
                client.flush(timeout_s=args.timeout_s)
    episodes = result["episodes"]
    won = sum(row["success"] is True for row in episodes)
    unlabelled = sum(row["success"] is None for row in episodes)
    summary = {
        "episodes": len(episodes), "successes": won, "unlabelled": unlabelled, "complete": result["complete"],
        "shipped": not args.keep_local,
        "episode_ids": [row["episode_id"] for row in episodes],
        **retried(result),
    }  # fmt: skip
    where = "waiting in the spool" if args.keep_local else "at the trainer"
    asking = f", {unlabelled} not labelled" if unlabelled else ""
    emit(args, console, summary, f"{len(episodes)} episodes, {won} successful{asking}, {where}")
    if retry is not None and not args.json:
        console.print(retry_table(result["retried"].items()))
    return 0 if result["complete"] else 1

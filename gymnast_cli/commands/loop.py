"""`gymnast loop`: collect, refine, audit, train, canary, promote, again; unattended and resumable."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import (
    add_robot_arguments,
    add_trainer_arguments,
    checkpoint_on_robot,
    console_client,
    emit,
    jobs_client,
    robot,
)

if TYPE_CHECKING:
    from rich.table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("config", type=Path, help="TOML or JSON: schedule, budgets, stop conditions (config/loop.toml)")
    parser.add_argument("--rounds", type=int, help="instead of the file's")
    add_robot_arguments(parser)
    add_trainer_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run, or go on where it stopped."""
    from gymnast_cli.commands.ttt import only_robot
    from gymnast_cli.loop import Loop
    from gymnast_cli.loop_canary import Canary
    from gymnast_cli.stages import Stages
    from gymnast_core.loop_config import read_loop_config

    config = read_loop_config(args.config)
    if args.rounds is not None:
        config = replace(config, rounds=args.rounds)
    jobs = jobs_client(args)
    with console_client(args) as page, robot(args) as client, Stages(console) as stages:
        canary = Canary(page, config.robot or only_robot(page), config.tasks, config.scene)
        loop = Loop(config, client, jobs, canary, partial(checkpoint_on_robot, client), stages)
        history = loop.run()
    emit(args, console, history, table(history))
    console.print(f"{history['state']}; history: {config.folder / 'history.json'}")
    return 0


def table(history: Mapping[str, Any]) -> Table:
    """Success over the rounds, with intervals."""
    from rich.table import Table

    from gymnast_cli.commands.evaluate import cells

    shown = Table(title="The loop, same start states every round, greedy")
    for column in ("round", "policy", "success", "rate [95 %]", "gain [95 %]", "audit agreement", ""):
        shown.add_column(column)
    shown.add_row("0", history["base_policy"], *cells(history["before"], None))
    for row in history["rounds"]:
        note = row["refused"] or ("" if row.get("promoted") else "kept the old policy")
        audit = f"{row['audit']['agreement']:.2f}" if "audit" in row else ""
        shown.add_row(str(row["round"]), row["policy"], *cells(row.get("after", row["before"]), row.get("difference")),
                      audit, note)  # fmt: skip
    return shown

"""`gymnast loop`: collect, refine, audit, train, canary, promote, again; on the trainer, unattended and resumable."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_core.errors import GymnastError
from gymnast_core.json_values import number
from gymnast_core.loop_history import LoopHistory

if TYPE_CHECKING:
    from rich.table import Table

    from gymnast_cli.stages import Advance, Stages
    from gymnast_client import LoopProgress, LoopsClient

POLL_S = 0.5


class LoopFailedError(GymnastError):
    """A step of a loop failed for good; the message is its reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("config", type=Path, help="TOML or JSON: schedule, budgets, stop conditions (config/loop.toml)")
    parser.add_argument("--rounds", type=int, help="instead of the file's")
    parser.add_argument("--robot", default="", metavar="NAME", help="instead of the file's (default: the only one)")
    parser.add_argument("--detach", action="store_true", help="begin it and return; the page's Loop shows it")
    parser.add_argument("--stop", action="store_true", help="end the loop of this file after what it does now")
    add_trainer_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Begin it on the trainer, or go on where it stopped, and follow it; Ctrl-C leaves it to the trainer."""
    from gymnast_core.loop_config import read_loop_config

    config = read_loop_config(args.config)
    changes = {name: value for name, value in (("rounds", args.rounds), ("robot", args.robot)) if value}
    config = config.changed(**changes)
    with trainer(args) as there:
        if args.stop:
            view = there.loops.stop(config.name)
            said = f"loop {view.name} ends after what it does now"
            emit(args, console, {"said": said, **vars(view)}, said)
            return 0
        view = there.loops.begin(config)
        try:
            view = view if args.detach else followed(there.loops, config.name, console)
        except KeyboardInterrupt:
            view = there.loops.get(config.name)
    return result_of(view, args, console)


def followed(loops: LoopsClient, name: str, console: Console) -> LoopProgress:
    """Show a loop's steps until it ends; returns its last view."""
    from gymnast_cli.stages import Stages

    with Stages(console) as stages, Steps(stages) as steps:
        while (view := loops.get(name)).state == "running":
            steps.show(view)
            time.sleep(POLL_S)
    return view


class Steps:
    """One line of progress for each step of a loop."""

    def __init__(self, stages: Stages) -> None:
        self._stages, self._open = stages, ExitStack()
        self._step = ""
        self._advance: Advance | None = None

    def __enter__(self) -> Steps:
        """Nothing is shown yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the line that is shown."""
        self._open.close()

    def show(self, view: LoopProgress) -> None:
        """Take a new view in."""
        if view.step != self._step:
            self._open.close()
            self._step, self._advance = view.step, None
            if self._step:
                self._advance = self._open.enter_context(self._stages.stage(_named(self._step)))
        if self._advance is not None:
            self._advance(view.done, view.total, view.note)


def _named(step: str) -> str:
    """1/collect/25 as a person says it."""
    number, _, what = step.partition("/")
    return f"round {number}: {what.replace('/', ' ')}" if what else step


def result_of(view: LoopProgress, args: argparse.Namespace, console: Console) -> int:
    """Print where a loop is; returns the exit code: 0 for one that was stopped too, which was asked for.

    Raises:
        LoopFailedError: a step failed.
    """
    if view.state == "failed":
        raise LoopFailedError(f"{view.reason}; the same command goes on with this step")
    history, running = view.history, view.state == "running"
    emit(args, console, vars(view), table(history) if history else "")
    where = f"loop {view.name} on {view.robot}"
    if running:
        console.print(f"{where} goes on at the trainer; follow it with the same command, end it with --stop")
    else:
        again = "; it is not finished, and the same command goes on where it was" if view.state == "stopped" else ""
        console.print(f"{where}: {view.reason}{again}")
    return 0


def table(history: LoopHistory) -> Table:
    """Success over the rounds, with intervals."""
    from rich.table import Table

    from gymnast_cli.commands.evaluate import cells

    shown = Table(title="The loop, same start states every round, greedy")
    for column in ("round", "policy", "success", "rate [95 %]", "gain [95 %]", "audit agreement", ""):
        shown.add_column(column)
    shown.add_row("0", history["base_policy"], *cells(history["before"], None))
    for row in history["rounds"]:
        note = row["refused"] or ("" if row.get("promoted") else "kept the old policy")
        audit = f"{number(row['audit']['agreement']):.2f}" if "audit" in row else ""
        shown.add_row(str(row["round"]), row["policy"], *cells(row.get("after", row["before"]), row.get("difference")),
                      audit, note)  # fmt: skip
    return shown

"""`gymnast loop`: collect, refine, audit, train, canary, promote, again; on the trainer, unattended and resumable."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_core.errors import GymnastError
from gymnast_core.json_values import number
from gymnast_core.loop_history import LoopHistory
from gymnast_core.shipped import settings_file

if TYPE_CHECKING:
    from rich.table import Table

    from gymnast_cli.stages import Advance, Stages
    from gymnast_client import LoopProgress, LoopsClient
    from gymnast_core.loop_config import LoopConfig

AWAY_S = 300.0
"""How long the trainer may be away, e.g. being started again, before we stop following; the loop itself goes on."""


class LoopFailedError(GymnastError):
    """A step of a loop failed for good; the message is its reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    start = actions.add_parser("start", help="begin a loop, or go on where it stopped, and follow it")
    start.add_argument(
        "config", type=Path, nargs="?", default=settings_file("loop.toml"), metavar="FILE",
        help="TOML or JSON: schedule, budgets, stop conditions (default: config/loop.toml, or else the shipped one)",
    )  # fmt: skip
    start.add_argument("--rounds", type=int, help="instead of the file's")
    start.add_argument(
        "--robot", action="append", default=[], metavar="NAME",
        help="shares the episodes; may be repeated, instead of the file's (default: the only one that reports)",
    )  # fmt: skip
    start.add_argument("--detach", action="store_true", help="begin it and return; `gymnast loop watch` follows it")
    watch = actions.add_parser("watch", help="follow a loop until it ends; Ctrl-C leaves it to the trainer")
    show = actions.add_parser("show", help="a loop as it is now")
    stop = actions.add_parser("stop", help="end a loop after what it does now; started again, it goes on")
    for action in (watch, show, stop):
        action.add_argument("name", help="of the loop; `gymnast operate loops` lists them")
    for action in (start, watch, show, stop):
        add_trainer_arguments(action)


def run(args: argparse.Namespace, console: Console) -> int:
    """Begin, follow, show or stop one; Ctrl-C leaves it to the trainer."""
    config = _config(args) if args.action == "start" else None
    with trainer(args) as there:
        if args.action == "stop":
            view = there.loops.stop(args.name)
            said = f"loop {view.name} ends after what it does now"
            emit(args, console, {"said": said, **vars(view)}, said)
            return 0
        view = there.loops.get(args.name) if config is None else there.loops.begin(config)
        if args.action == "watch" or (args.action == "start" and not args.detach):
            try:
                view = followed(there.loops, view, console)
            except KeyboardInterrupt:
                view = there.loops.get(view.name)
    return result_of(view, args, console)


def _config(args: argparse.Namespace) -> LoopConfig:
    """The file's settings, with what the command line says instead."""
    from gymnast_core.loop_config import read_loop_config

    config = read_loop_config(args.config)
    changes: dict[str, object] = {"rounds": args.rounds} if args.rounds is not None else {}
    if args.robot:
        changes["robots"] = tuple(args.robot)
    return config.changed(**changes)


def followed(loops: LoopsClient, view: LoopProgress, console: Console) -> LoopProgress:
    """Show a loop's steps until it ends; returns its last view."""
    from gymnast_cli.stages import Stages

    with Stages(console) as stages, Steps(stages) as steps:
        for view in loops.watch(view.name, patience_s=AWAY_S):  # noqa: B020  # the newest one is returned
            steps.show(view)
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
                self._advance = self._open.enter_context(self._stages.stage(named(self._step)))
        if self._advance is not None:
            self._advance(view.done, view.total, view.note)


def named(step: str) -> str:
    """1/collect/25 as a person says it."""
    number, _, what = step.partition("/")
    return f"round {number}: {what.replace('/', ' ')}" if what else step


def result_of(view: LoopProgress, args: argparse.Namespace, console: Console) -> int:
    """Print where a loop is; returns the exit code: 0 for one that was stopped too, which was asked for.

    Raises:
        LoopFailedError: a step failed.
    """
    if view.state == "failed":
        raise LoopFailedError(f"{view.reason}; `gymnast loop start` with the same settings goes on with this step")
    history, running = view.history, view.state == "running"
    emit(args, console, vars(view), table(history) if history else "")
    where = f"loop {view.name} on {', '.join(view.robots)}"
    if running:
        parts = [named(view.step) if view.step else "" if history else "its first step is to come", view.note]
        now = ", ".join(filter(None, parts)) or "between two steps"
        console.print(
            f"{where} runs at the trainer ({now}). Follow it: gymnast loop watch {view.name}; "
            f"end it: gymnast loop stop {view.name}",
            markup=False,
        )
    else:
        again = "; it is not finished, and `gymnast loop start` goes on where it was" if view.state == "stopped" else ""
        console.print(f"{where}: {view.reason}{again}", markup=False)
        for name, why in history.get("behind", {}).items():
            console.print(
                f"{name} may still run another policy than {history['policy']}: {why}. When it is back: "
                f"gymnast loop start, or gymnast operate promote {history['policy']} --robot {name}",
                markup=False, style="yellow",
            )  # fmt: skip
    return 0


def table(history: LoopHistory) -> Table:
    """Success over the rounds, with intervals."""
    from rich.table import Table

    from gymnast_cli.commands.evaluate import cells

    shown = Table(title="The loop, same start states every round, greedy")
    for column in ("round", "policy", "success", "rate [95 %]", "gain [95 %]", "audit agreement", "sight", ""):
        shown.add_column(column)
    shown.add_row("0", history["base_policy"], *cells(history["before"], None))
    for row in history["rounds"]:
        note = row["refused"] or ("" if row.get("promoted") else "kept the old policy")
        if len(by := row.get("collected", {})) > 1:
            note = "; ".join(filter(None, [note, ", ".join(f"{name} recorded {n}" for name, n in by.items())]))
        audit = f"{number(row['audit']['agreement']):.2f}" if "audit" in row else ""
        sight = f"{number(found['sight']):.2f}" if (found := row.get("sight")) else ""
        shown.add_row(str(row["round"]), row["policy"], *cells(row.get("after", row["before"]), row.get("difference")),
                      audit, sight, note)  # fmt: skip
    return shown

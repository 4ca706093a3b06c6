"""`gymnast queue`: what robots shall do, in which order; kept by the trainer over restarts of either side."""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, task_list, temperature, trainer
from gymnast_cli.retrying import add_retry_arguments, retry_of
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonObject
from gymnast_core.queue import ADDED, PRIORITIES, USUAL_PRIORITY
from gymnast_core.sampling import USUAL_TEMPERATURE
from gymnast_core.seeds import block
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from gymnast_client import QueueEntryView, RestingQueue, Trainer
    from gymnast_core.queue import StartsSpec

POLL_S = 0.5
NOT_DONE = 3
"""Exit code when what was waited for was cancelled, or failed."""
FIRST = {"evaluation": block("evaluate").start, "episode": block("collect").start}
"""Kind of an entry -> its first start state, unless another is named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare list, add, pause, resume, cancel and move."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="open entries in the order in which they go, then ended ones")
    listing.add_argument("--robot", default="", metavar="NAME", help="only of this one")
    listing.add_argument("--entry", default="", metavar="ID", help="one entry, with the success of each robot and task")
    add = actions.add_parser("add", help="add an entry; robots that are named together share it")
    add.add_argument(
        "kind", choices=ADDED, help="episode: to learn from; evaluation: measures; practice: as gymnast practise"
    )
    add.add_argument("--robot", action="append", default=[], metavar="NAME", help="may be repeated (default: the only)")
    add.add_argument("--tasks", type=task_list, help="names or instructions")
    add.add_argument("--count", type=int, default=20, help="start states per task (default 20)")
    add.add_argument("--seed-start", type=int, help="first start state")
    add.add_argument("--checkpoint", default="", metavar="ID", help="default: the one that all of them run")
    add.add_argument("--scene", default="standard", help="the robots' name for where they stand")
    add.add_argument("--sample", type=int, metavar="SEED", help="of the policy's sampling; -1: greedy "
                     "(default: greedy to evaluate, 0 to collect)")  # fmt: skip
    add.add_argument("--temperature", type=temperature, help="of the policy's sampling (default: its own; to "
                     f"practise {USUAL_TEMPERATURE:g}, where it can be given one)")  # fmt: skip
    add.add_argument("--no-record", action="store_true", help="keep no recordings of an evaluation")
    add_retry_arguments(add)
    add.add_argument("--task", help="practice: what is to be learned")
    add.add_argument("--reset", help="practice: what undoes it")
    add.add_argument("--hours", type=float, help="practice: ends so long after it began")
    add.add_argument("--episodes", type=int, help="practice: ends after so many, too")
    add.add_argument("--tries", type=int, help="practice: failures of one skill in a row, then a person is called "
                     "(default: by its success)")  # fmt: skip
    add.add_argument("--priority", type=int, default=USUAL_PRIORITY, help=_PRIORITY)
    add.add_argument("--key", default="", help="the same one never adds a second entry")
    add.add_argument("--wait", action="store_true", help="until it has ended")
    rests = [
        actions.add_parser("pause", help="have an entry, or a robot's whole queue, rest after what is in hand"),
        actions.add_parser("resume", help="have it go on"),
    ]
    for rest in rests:
        rest.add_argument("entry_id", nargs="?", default="", metavar="ENTRY")
        rest.add_argument("--robot", default="", metavar="NAME", help="the whole queue of this one")
    rests[0].add_argument("--reason", default="", help="why a robot's queue rests, for others")
    cancel = actions.add_parser("cancel", help="end an entry; that of a trial, adaptation or loop ends with it")
    cancel.add_argument("entry_id", metavar="ENTRY")
    move = actions.add_parser("move", help="give an entry another place")
    move.add_argument("entry_id", metavar="ENTRY")
    place = move.add_mutually_exclusive_group(required=True)
    place.add_argument("--before", default="", metavar="ENTRY", help="another one, whose priority it takes")
    place.add_argument("--first", action="store_true", help="before all others")
    place.add_argument("--last", action="store_true", help="behind all others of its priority")
    place.add_argument("--priority", type=int, help=_PRIORITY)
    for action in (listing, add, *rests, cancel, move):
        add_trainer_arguments(action)


_PRIORITY = f"{PRIORITIES[0]} to {PRIORITIES[-1]}, higher goes first (usual: {USUAL_PRIORITY})"


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    actions = {"list": _list, "add": _add, "pause": _pause, "resume": _resume, "cancel": _cancel, "move": _move}
    with trainer(args) as there:
        return actions[args.action](there, args, console)


def _list(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    if args.entry:
        return _shown(there.queue.get(args.entry), args, console)
    rows, resting = list(there.queue.list(args.robot)), there.queue.resting()
    answer = {"entries": [asdict(row) for row in rows], "resting": [asdict(row) for row in resting]}
    emit(args, console, answer, table(rows))
    for rest in [] if args.json else resting:
        console.print(one_line(_rest(rest)))
    return 0


def _add(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    spec = _practice(args) if args.kind == "practice" else _starts(args)
    view = there.queue.add(args.kind, spec, robots=args.robot, priority=args.priority, key=args.key)
    if not args.wait:
        said = f"{view.entry_id} stands in the queue of {', '.join(view.robots)}: {view.what}"
        emit(args, console, asdict(view), one_line(said))
        return 0
    while not view.ended:
        time.sleep(POLL_S)
        view = there.queue.get(view.entry_id)
    _shown(view, args, console)
    return 0 if view.state == "done" else NOT_DONE


def _practice(args: argparse.Namespace) -> JsonObject:
    if args.retry is not None or args.retry_judge:
        raise ConfigError("--retry is for episodes and evaluations: practice tries on by itself")
    given = {name: getattr(args, name) for name in ("task", "reset", "hours")}
    if missing := [f"--{name}" for name, value in given.items() if value is None]:
        raise ConfigError(
            f"{', '.join(missing)} missing; e.g. gymnast queue add practice --task put --reset take --hours 3"
        )
    more = {"scene": args.scene, "checkpoint": args.checkpoint, "sample": args.sample, "tries": args.tries,
            "episodes": args.episodes, "temperature": args.temperature}  # fmt: skip
    return {**given, **{name: value for name, value in more.items() if value not in ("", None)}}


def _starts(args: argparse.Namespace) -> StartsSpec:
    from gymnast_core.queue import StartsSpec

    if not args.tasks:
        raise ConfigError(f"which tasks? {args.kind} needs --tasks, e.g. --tasks lift,push")
    first = FIRST[args.kind] if args.seed_start is None else args.seed_start
    sample = args.sample if args.sample is not None else -1 if args.kind == "evaluation" else 0
    return StartsSpec(
        tasks=tuple(args.tasks), seed_start=first, seed_count=args.count, checkpoint=args.checkpoint,
        scene=args.scene, temperature_seed=sample, temperature=args.temperature,
        record=not args.no_record, retry=retry_of(args),
    )  # fmt: skip


def _pause(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    if _names_entry(args):
        return _said(there.queue.pause(args.entry_id), "rests after what robots have in hand", args, console)
    return _robots(there.queue.pause_robot(args.robot, args.reason), f"the queue of {args.robot} rests", args, console)


def _resume(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    if _names_entry(args):
        return _said(there.queue.resume(args.entry_id), "goes on", args, console)
    return _robots(there.queue.resume_robot(args.robot), f"the queue of {args.robot} goes on", args, console)


def _cancel(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    view = there.queue.cancel(args.entry_id)
    return _said(view, "is cancelled; what was recorded stays" if view.ended else "ends with its flow", args, console)


def _move(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    view = there.queue.move(args.entry_id, before=args.before, first=args.first, last=args.last, priority=args.priority)
    return _said(view, f"has its new place, priority {view.priority}", args, console)


def _names_entry(args: argparse.Namespace) -> bool:
    if bool(args.entry_id) == bool(args.robot):
        raise ConfigError("name an entry, or a robot's whole queue by --robot NAME: one of the two")
    return bool(args.entry_id)


def _said(view: QueueEntryView, what: str, args: argparse.Namespace, console: Console) -> int:
    emit(args, console, asdict(view), one_line(f"{view.entry_id} ({view.kind} by {view.asked_by}) {what}"))
    return 0


def _robots(resting: Sequence[RestingQueue], said: str, args: argparse.Namespace, console: Console) -> int:
    emit(args, console, {"said": said, "resting": [asdict(row) for row in resting]}, one_line(said))
    return 0


def _shown(view: QueueEntryView, args: argparse.Namespace, console: Console) -> int:
    """One entry, and what it came to."""
    emit(args, console, asdict(view), table([view]))
    parts = {"tasks": view.result.get("tasks"), "robots": view.result.get("robots")}
    for part in [] if args.json else parts.values():
        for name, count in (part if isinstance(part, dict) else {}).items():
            console.print(one_line(f"  {name}: {rate(count)}"))
    return 0


def table(rows: Sequence[QueueEntryView]) -> Table:
    """Entries for people."""
    from rich.table import Table

    shown = Table(title=f"queue: {len(rows)}")
    for column in (
        "entry",
        "kind",
        "what",
        "robots",
        "prio",
        "by",
        "state",
        "done",
        "success [95 %]",
        "ends about",
        "",
    ):
        shown.add_column(column)
    for row in rows:
        done = f"{row.done}/{row.total}" if row.total else ""
        where = ", ".join(f"{name}*" if name in row.on else name for name in row.robots)
        cells = (
            row.entry_id, row.kind, row.what, where, row.priority, row.asked_by, row.state, done,
            rate(row.result.get("all")), _ends(row), row.note,
        )  # fmt: skip
        shown.add_row(*map(one_line, map(str, cells)))
    return shown


def rate(count: object) -> str:
    """Successes with their interval; empty without any."""
    if not isinstance(count, dict) or not count.get("n"):
        return ""
    open_ones = f", {count['unlabelled']} not labelled" if count["unlabelled"] else ""
    share = f"{count['rate']:.0%} [{count['low']:.0%}, {count['high']:.0%}]"
    return f"{count['successes']}/{count['n']} {share}{open_ones}"


def _ends(row: QueueEntryView) -> str:
    at_ns = row.ended_ns or row.estimated_end_ns
    return datetime.datetime.fromtimestamp(at_ns / 1e9).isoformat(" ", "minutes") if at_ns else ""


def _rest(row: RestingQueue) -> str:
    return f"the queue of {row.robot} rests, by {row.paused_by}{f': {row.reason}' if row.reason else ''}"

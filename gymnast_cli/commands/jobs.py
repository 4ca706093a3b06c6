"""`gymnast jobs`: training jobs at the trainer."""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, json_argument, trainer
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import KINDS
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from gymnast_client import JobsClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare submit, list, watch, cancel and schema."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    submit = actions.add_parser("submit", help="start one")
    submit.add_argument(
        "kind", choices=tuple(KINDS), help=", ".join(f"{name} ({kind.spec.summary})" for name, kind in KINDS.items())
    )
    submit.add_argument(
        "--spec",
        type=json_argument,
        required=True,
        metavar="JSON|@FILE",
        help="policy, world_model and judge ids, seed, config, ...; every setting: gymnast jobs schema KIND",
    )
    submit.add_argument("--key", default="", help="the same key never starts a second job (default: a random one)")
    submit.add_argument("--watch", action="store_true", help="stay until it has ended")
    _add_tensorboard(submit, "; needs --watch")
    listing = actions.add_parser("list", help="newest first")
    listing.add_argument("--state", default="", help="only these: waiting, running, done, failed, cancelled")
    watch = actions.add_parser("watch", help="follow one to its end; Ctrl-C leaves it running")
    watch.add_argument("job_id")
    _add_tensorboard(watch)
    cancel = actions.add_parser("cancel", help="stop one after its present iteration; what is finished is kept")
    cancel.add_argument("job_id")
    schema = actions.add_parser("schema", help="print what a kind can be asked for with, as JSON schema")
    schema.add_argument("kind", choices=tuple(KINDS), help="of job")
    schema.add_argument("--result", action="store_true", help="of what it leaves behind instead")
    for action in (submit, listing, watch, cancel):
        add_trainer_arguments(action)


def _add_tensorboard(parser: argparse.ArgumentParser, needs: str = "") -> None:
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="write its curves there as event files: "
                        f"tensorboard --logdir FOLDER{needs}")  # fmt: skip


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; watching returns 1 when the job failed."""
    if args.action == "schema":
        return _schema(args)
    with trainer(args) as there:
        actions = {"submit": _submit, "list": _list, "watch": _watch, "cancel": _cancel}
        return actions[args.action](there.jobs, args, console)


def _submit(jobs: JobsClient, args: argparse.Namespace, console: Console) -> int:
    if args.tensorboard is not None and not args.watch:
        raise ConfigError("--tensorboard writes what it sees of a job; add --watch, or gymnast serve --tensorboard")
    job = jobs.submit(args.kind, args.spec, args.key or f"cli-{secrets.token_hex(8)}")
    if args.watch:
        return _follow(jobs, job.job_id, args, console)
    emit(args, console, shown(job), f"{job.job_id}; follow it with: gymnast jobs watch {job.job_id}")
    return 0


def _schema(args: argparse.Namespace) -> int:
    kind = KINDS[args.kind]
    print(json.dumps((kind.result if args.result else kind.spec).model_json_schema(), indent=1))
    return 0


def _list(jobs: JobsClient, args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    found = [job for job in jobs.list() if args.state in ("", job.state)]
    table = Table(title=f"jobs: {len(found)}")
    for column in ("job", "kind", "state", "by", "error"):
        table.add_column(column, no_wrap=column != "error")
    for job in found:
        table.add_row(job.job_id, job.kind, job.state, job.submitted_by, one_line(job.error))
    emit(args, console, {"jobs": [shown(job) for job in found]}, table)
    return 0


def _watch(jobs: JobsClient, args: argparse.Namespace, console: Console) -> int:
    return _follow(jobs, args.job_id, args, console)


def _cancel(jobs: JobsClient, args: argparse.Namespace, console: Console) -> int:
    job = jobs.cancel(args.job_id)
    emit(args, console, shown(job), f"{job.job_id} is {job.state}; it stops after its present iteration")
    return 0


def _follow(jobs: JobsClient, job_id: str, args: argparse.Namespace, console: Console) -> int:
    from gymnast_cli.jobs import curves_of, ended_well, watch
    from gymnast_cli.stages import Stages

    with (
        Stages(console) as stages, stages.stage(job_id) as advance, curves_of(job_id, args.tensorboard) as keep,
    ):  # fmt: skip
        job = watch(jobs, job_id, advance, keep)
    emit(args, console, shown(job), f"{job_id} {job.state}" + (f": {job.error}" if job.error else ""))
    return 0 if ended_well(job) else 1


def shown(job: object) -> dict[str, object]:
    """A job as JSON values."""
    return {name: getattr(job, name) for name in ("job_id", "kind", "state", "error", "spec", "result")}

"""`gymnast weights`: checkpoints at the trainer, and other people's turned into ours."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli import convert_weights, hub
from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_cli.releases import fetched, releases_and_words, verified
from gymnast_core.records.release import EVERY_ROBOT
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from rich.text import Text

    from gymnast_client import CheckpointsClient, RobotWord
    from gymnast_core.records.release import Release


LOCAL = {"convert": convert_weights.run, "export": hub.export, "import": hub.take_in}
"""Actions that need no trainer, or not always."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    publish = actions.add_parser("publish", help="sign a checkpoint folder and offer it to robots (trainer or admin)")
    publish.add_argument("checkpoint", type=Path, help="folder with weights.safetensors and manifest.json")
    publish.add_argument("--robot", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    publish.add_argument(
        "--override-gate", default="", metavar="REASON",
        help="release it without a passed gate (admin); signed with your name, and shown in red",
    )  # fmt: skip
    listing = actions.add_parser("list", help="releases, oldest first, and what robots say of them")
    fetch = actions.add_parser("fetch", help="download a checkpoint, verified")
    fetch.add_argument("checkpoint_id")
    fetch.add_argument("into", type=Path, help="folder to write; must not exist")
    rollback = actions.add_parser(
        "rollback", help="order robots back to an earlier checkpoint, from their next episode on (admin)"
    )
    rollback.add_argument("checkpoint_id", help="one that was published, is kept by the trainer, or ran on the robot")
    rollback.add_argument("--reason", required=True, help="for whoever reads the log")
    rollback.add_argument(
        "--override-gate", default="", metavar="REASON",
        help="where it never ran and was not gated; signed with your name, and shown in red",
    )  # fmt: skip
    rollback.add_argument("--robot", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    for action in (publish, listing, fetch, rollback):
        add_trainer_arguments(action)
    hub.add_arguments(actions)
    convert_weights.add_arguments(
        actions.add_parser(
            "convert", help="turn a published OpenVLA, pi0 or pi0.5 folder into a checkpoint; no trainer"
        )
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    if args.action in LOCAL:
        return LOCAL[args.action](args, console)
    with trainer(args) as there:
        actions = {"publish": _publish, "list": _list, "fetch": _fetch, "rollback": _rollback}
        return actions[args.action](there.checkpoints, args, console)


def _publish(weights: CheckpointsClient, args: argparse.Namespace, console: Console) -> int:
    document = weights.publish(args.checkpoint, robots=tuple(args.robot), override_reason=args.override_gate.strip())
    release = verified(document, args)
    emit(args, console, shown(release), f"{release.checkpoint_id}: release {release.sequence}, offered to robots")
    return 0


def _list(weights: CheckpointsClient, args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    found, words = releases_and_words(weights, args)
    table = Table(title=f"releases: {len(found)}")
    for column in ("release", "what", "checkpoint", "robots", "bytes", "gate", "robots say"):
        table.add_column(column, no_wrap=column == "checkpoint")
    for release in found:
        row = (release.kind, release.checkpoint_id, ", ".join(release.robots), f"{release.weights_size:,}")
        said = [spoken(word) for word in words if word.checkpoint_id == release.checkpoint_id]
        table.add_row(str(release.sequence), *row, _gate(release), "\n".join(said))
    emit(
        args,
        console,
        {"releases": [shown(release) for release in found], "words": [vars(word) for word in words]},
        table,
    )
    return 0


def _fetch(weights: CheckpointsClient, args: argparse.Namespace, console: Console) -> int:
    release = fetched(weights, args, args.checkpoint_id, args.into)
    emit(args, console, {**shown(release), "folder": str(args.into)}, f"{args.into}: {release.checkpoint_id}, verified")
    return 0


def _rollback(weights: CheckpointsClient, args: argparse.Namespace, console: Console) -> int:
    document = weights.roll_back(
        args.checkpoint_id, robots=tuple(args.robot), reason=args.reason, override_reason=args.override_gate.strip()
    )
    release = verified(document, args)
    whom = ", ".join("all robots" if name == EVERY_ROBOT else name for name in release.robots)
    text = (
        f"{release.checkpoint_id} runs again on {whom} from the next episode on (release {release.sequence}); "
        "`gymnast operate robots` shows when each says so"
    )
    emit(args, console, shown(release), text)
    return 0


def _gate(release: Release) -> Text:
    """What a release says for itself at a robot's gate; an override in red."""
    from rich.text import Text

    if (word := release.override) is not None:
        return Text(one_line(f"OVERRIDDEN by {word.by}: {word.reason} ({word.found})"), style="bold red")
    return Text(release.gate.record if release.gate is not None else "")


def spoken(word: RobotWord) -> str:
    """What a robot said of a checkpoint, in words: who, what, why, and when the trainer heard it first."""
    why = f": {word.reason}" if word.reason else ""
    what = {"runs": "runs it", "ran": "ran it", "refused": "turned it down"}.get(word.word, word.word)
    at = datetime.datetime.fromtimestamp(word.at_ns / 1e9).isoformat(" ", "seconds")
    return f"{word.robot} {what}{why} ({at})"


def shown(release: Release) -> dict[str, object]:
    """A release as JSON values, without the manifest."""
    names = ("sequence", "kind", "checkpoint_id", "weights_size", "published_ns", "expires_ns", "reason")
    parts = {name: asdict(part) for name in ("gate", "override") if (part := getattr(release, name)) is not None}
    return {**{name: getattr(release, name) for name in names}, "robots": list(release.robots), **parts}

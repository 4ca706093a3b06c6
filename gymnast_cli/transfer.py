"""`gymnast episodes import` and `export`: datasets of other people's formats, into a trainer and out of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import emit, trainer
from gymnast_cli.wm_data import add_reading_arguments, reading
from gymnast_core.episodes import labelled_copy
from gymnast_core.errors import ConfigError
from gymnast_core.extensions import DATASETS, installed
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import NotFoundError

if TYPE_CHECKING:
    from cloud_trainer.jobs.desk.transfer import Imported, Outgoing
    from gymnast_client import EpisodeView, Trainer

KINDS = {"lerobot": "lerobot", "rlds": "rlds", "bridge": "bridge_raw", "mcap": "mcap", "worldgym": "worldgym"}
"""Format on the command line -> kind of a dataset."""
OUTCOMES = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNLABELLED)
_CHECKED_S = 60.0
_SHOWN = 10


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of import."""
    parser.add_argument("format", choices=(*KINDS, *installed(DATASETS)), help="of the dataset")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="its folder; of mcap files or folders")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="write episode files here, instead of to a trainer")
    parser.add_argument("--instruction", default="", help="of every episode, in place of the dataset's own")
    parser.add_argument(
        "--outcome", choices=[outcome.value for outcome in OUTCOMES], default=Outcome.UNLABELLED.value,
        help="of every episode (default unlabelled)",
    )  # fmt: skip
    add_reading_arguments(parser)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of export."""
    parser.add_argument("out", type=Path, help="folder to write; it appears when it is whole")
    parser.add_argument("--format", required=True, choices=("lerobot", "rlds", "mcap"), help="what to write")
    parser.add_argument(
        "--from", dest="local", type=Path, nargs="+", default=[], metavar="PATH",
        help="episode files, or folders of them, instead of a trainer's",
    )  # fmt: skip
    parser.add_argument(
        "--frames", choices=("video", "jpeg"), default="video",
        help="lerobot: h264 (default), or the recorded JPEGs byte for byte",
    )  # fmt: skip
    parser.add_argument("--skip-broken", action="store_true", help="list and leave out what does not fit the others")


def run_import(args: argparse.Namespace, console: Console) -> int:
    """Bring a dataset in."""
    from cloud_trainer.jobs.desk import transfer

    said = transfer.Said(args.robot or WIDOWX_250S.name, Outcome(args.outcome), args.instruction)
    config = reading(args, KINDS.get(args.format, args.format))
    found = [transfer.incoming(path, said, config) for path in args.paths]
    if args.into is not None:
        if inside := [path for path in args.paths if args.into.resolve().is_relative_to(path.resolve())]:
            raise ConfigError(f"{args.into} lies in {inside[0]}, which is only read; name a folder elsewhere")
        folder = transfer.EpisodeFolder(args.into)
        done = [transfer.bring_in(one, folder, skip_broken=args.skip_broken) for one in found]
        return _report(args, console, done, str(args.into), ())
    with trainer(args) as there:
        done = [transfer.bring_in(one, _AtTrainer(there), skip_broken=args.skip_broken) for one in found]
        checked = there.episodes.checked([name for one in done for name in one.added], timeout_s=_CHECKED_S)
    return _report(args, console, done, args.trainer, checked)


@dataclass(frozen=True)
class _AtTrainer:
    """A trainer as a place that has each episode at most once."""

    there: Trainer

    def has(self, episode_id: str) -> bool:
        """Whether its catalogue has it, in whatever state."""
        try:
            self.there.episodes.get(episode_id)
        except NotFoundError:
            return False
        return True

    def put(self, path: Path) -> None:
        """Send a file."""
        self.there.episodes.upload(path)


def _report(
    args: argparse.Namespace, console: Console, done: Iterable[Imported], where: str, checked: Iterable[EpisodeView]
) -> int:
    added = [name for one in done for name in one.added]
    known = [name for one in done for name in one.known]
    broken = [{"episode": number, "reason": reason} for one in done for number, reason in one.broken]
    refused = {row.episode_id: row.reason for row in checked if row.state == "quarantined"}
    waiting = [row.episode_id for row in checked if row.state == "committed"]
    lines = [f"{len(added)} episodes imported to {where}; {len(known)} were there before"]
    lines += [f"left out, episode {one['episode']}: {one['reason']}" for one in broken[:_SHOWN]]
    lines += [f"{len(broken)} were left out"] if broken else []
    lines += [f"quarantined, {name}: {reason}" for name, reason in list(refused.items())[:_SHOWN]]
    lines += [f"{len(refused)} were quarantined by the trainer"] if refused else []
    lines += [f"{len(waiting)} are still being checked: `gymnast episodes list`"] if waiting else []
    found = {"added": added, "known": known, "broken": broken, "quarantined": refused, "unchecked": waiting}
    emit(args, console, {"to": where, **found}, "\n".join(lines))
    return 3 if refused else 0


def run_export(args: argparse.Namespace, console: Console) -> int:
    """Write a dataset."""
    from cloud_trainer.jobs.desk import transfer

    if args.local:
        if given := [f"--{name}" for name in ("robot", "state", "outcome") if getattr(args, name)]:
            raise ConfigError(f"{' '.join(given)} choose among a trainer's episodes; with --from name the files")
        return _write(args, console, transfer.local_episodes(args.local))
    with trainer(args) as there:
        rows = there.episodes.newest(args.limit, outcome=args.outcome, state=args.state or "valid", robot=args.robot)
        wanted = [transfer.Outgoing(row.episode_id, partial(_fetched, there, row)) for row in list(rows)[::-1]]
        return _write(args, console, wanted)


def _fetched(there: Trainer, row: EpisodeView, folder: Path) -> Path:
    """An episode's file, with the label of the catalogue."""
    path = there.episodes.fetch(row, folder / f"{row.episode_id}.mcap")
    return labelled_copy(path, folder / "labelled", Outcome(row.outcome), row.labelled_by)


def _write(args: argparse.Namespace, console: Console, wanted: list[Outgoing]) -> int:
    from cloud_trainer.jobs.desk import transfer

    if args.format == "mcap":
        done = transfer.copy_out(wanted, args.out)
    else:
        done = transfer.export(
            wanted, args.out, form=args.format, video=args.frames == "video", skip_broken=args.skip_broken
        )
    broken = [{"episode": name, "reason": reason} for name, reason in done.broken]
    lines = [f"{len(done.episodes)} episodes are in {args.out}"]
    lines += [f"{done.before} of them were written before"] if done.before else []
    lines += [f"left out, {one['episode']}: {one['reason']}" for one in broken]
    found = {"folder": str(args.out), "episodes": list(done.episodes), "before": done.before, "broken": broken}
    emit(args, console, found, "\n".join(lines))
    return 0

"""`gymnast episodes`: recorded episodes at the trainer, or as files."""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli import transfer, viewers
from gymnast_cli.connect import add_trainer_arguments, emit, finite, trainer
from gymnast_cli.plain import plain
from gymnast_core.episodes.bag import BagContents, contents
from gymnast_core.errors import ConfigError
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from gymnast_client import EpisodeView, Trainer
    from gymnast_core.types import Episode

FIELDS = ("episode_id", "robot", "instruction", "outcome", "labelled_by", "steps", "policy_version", "state", "reason",
          "digest", "size")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="in order of arrival")
    _add_filters(listing)
    waiting = actions.add_parser("unlabelled", help="what waits for a person's label: judges abstained, or contradict")
    waiting.add_argument("--limit", type=int, default=60, help="at most so many, the newest (default 60)")
    label = actions.add_parser("label", help="set or correct a label; your certificate says who did")
    label.add_argument("episode_id")
    label.add_argument("outcome", choices=("success", "failure", "unlabelled"))
    show = actions.add_parser("show", help="what is in an episode file; --film draws it")
    show.add_argument("episode", help="an .mcap file, or the id of one the trainer has")
    show.add_argument("--film", type=Path, metavar="FILE.png", help="write a film strip")
    viewers.add_arguments(actions.add_parser("open", help="look at an episode in rerun or Foxglove"))
    retract = actions.add_parser("retract", help="withdraw one; what was made from it is listed, and no more promoted")
    retract.add_argument("episode_id")
    retract.add_argument("--reason", required=True, help="for whoever meets the block later")
    bring = actions.add_parser("import", help="a dataset of another format, or episode files, into a trainer")
    transfer.add_import_arguments(bring)
    write = actions.add_parser("export", help="episodes as a dataset of another format")
    transfer.add_export_arguments(write)
    _add_filters(write)
    for action in (listing, waiting, label, show, retract, bring, write):
        add_trainer_arguments(action)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare which of a trainer's episodes are meant."""
    parser.add_argument("--robot", default="", help="only of this one")
    parser.add_argument("--state", default="", choices=("", "committed", "valid", "quarantined"), help="only these")
    parser.add_argument(
        "--outcome", default="", choices=("", "success", "failure", "abstain", "unlabelled"), help="only these"
    )
    parser.add_argument("--limit", type=int, default=1000, help="at most so many, the newest (default 1000)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    actions = {"list": _list, "unlabelled": _unlabelled, "label": _label, "show": _show, "open": viewers.run,
               "retract": _retract, "import": transfer.run_import, "export": transfer.run_export}  # fmt: skip
    return actions[args.action](args, console)


def _list(args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    with trainer(args) as there:
        rows = _newest(there, args)[::-1]
    table = Table(title=f"episodes: {len(rows)}")
    for column in ("episode", "outcome", "instruction", "robot", "by", "state"):
        table.add_column(column, no_wrap=True, min_width=7 if column == "outcome" else None)
    for row in rows:
        cells = (row.episode_id, row.outcome, row.instruction, row.robot, row.labelled_by)
        table.add_row(*map(one_line, (*cells, row.reason or row.state)))
    emit(args, console, {"episodes": [shown(row) for row in rows]}, table)
    return 0


def _unlabelled(args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    with trainer(args) as there:
        rows = list(there.judging.doubts(args.limit))
    table = Table(title=f"episodes that wait for a label: {len(rows)}")
    for column in ("episode", "why", "label", "instruction", "scene", "what judges found"):
        table.add_column(column, no_wrap=column == "episode")
    for row in rows:
        found = "; ".join(f"{one.judge}: {one.outcome.value}, {one.reason}" for one in row.judgements)
        cells = (row.episode_id, row.kind, row.outcome, row.instruction, row.scene, found)
        table.add_row(*map(one_line, cells))
    emit(args, console, {"episodes": [finite(asdict(row)) for row in rows]}, table)
    return 0


def _newest(there: Trainer, args: argparse.Namespace) -> list[EpisodeView]:
    return list(there.episodes.newest(args.limit, outcome=args.outcome, state=args.state, robot=args.robot))


def _label(args: argparse.Namespace, console: Console) -> int:
    from gymnast_core.types import Outcome

    with trainer(args) as there:
        row = there.episodes.label(args.episode_id, Outcome(args.outcome))
    emit(args, console, shown(row), f"{row.episode_id}: {row.outcome}, by {row.labelled_by}")
    return 0


def _show(args: argparse.Namespace, console: Console) -> int:
    if (path := Path(args.episode)).is_file() and (held := contents(path)).is_flight_record:
        return _show_flight(args, console, held)
    episode, where = _episode(args)
    facts = {
        "episode_id": episode.episode_id, "instruction": episode.instruction, "outcome": episode.outcome.value,
        "labelled_by": episode.labelled_by, "steps": episode.steps, "truncated_reason": episode.truncated_reason,
        "policy_versions": list(dict.fromkeys(episode.policy_versions)), "metadata": dict(episode.metadata),
        "cameras": {name: list(frames.shape[1:]) for name, frames in episode.images.items()},
        "file": where,
    }  # fmt: skip
    if args.film is not None:
        facts["film"] = str(_film(episode, args.film))
    emit(args, console, facts, in_words(facts))
    return 0


def in_words(facts: Mapping[str, Any]) -> str:
    """What is in an episode file, a line each; metadata as if it stood beside the rest."""
    rest = {name: value for name, value in facts["metadata"].items() if name not in facts}
    lines = {name: plain(value) for name, value in {**facts, **rest}.items() if name != "metadata"}
    lines["cameras"] = ", ".join(f"{one_line(name)} {size[1]} x {size[0]}" for name, size in facts["cameras"].items())
    if isinstance(made := rest.get("created_ns"), int):
        lines["created_ns"] = datetime.datetime.fromtimestamp(made / 1e9).isoformat(" ", "seconds")
    names = {"created_ns": "recorded", "truncated_reason": "cut"}
    shown = {names.get(name, one_line(name).replace("_", " ")): text for name, text in lines.items()}
    return "\n".join(f"{name:>17}: {text}" for name, text in shown.items())


def _show_flight(args: argparse.Namespace, console: Console, held: BagContents) -> int:
    """A flight record has no steps and no label: its topics."""
    seconds = (held.last_ns - held.first_ns) / 1e9
    lines = [f"{args.episode} is a flight record: what the gate saw in the last {seconds:.1f} s before a stop"]
    lines += [f"{count:>6}  {topic}  {kind}" for (topic, kind), count in sorted(held.counts.items())]
    lines += [f"Look at it with `gymnast view {args.episode}`, or play it below /flight with `gymnast replay`"]
    counts = {topic: count for (topic, _), count in held.counts.items()}
    facts = {"file": args.episode, "flight_record": True, "seconds": seconds, "topics": counts}
    emit(args, console, facts, "\n".join(lines))
    return 0


def _episode(args: argparse.Namespace) -> tuple[Episode, str]:
    """An episode from a file, or from the trainer with the catalogue's label; and where it was found."""
    from gymnast_core.episodes import read_episode
    from gymnast_core.types import Outcome

    if Path(args.episode).is_file():
        return read_episode(Path(args.episode), compressed=True), args.episode
    if not args.trainer:
        raise ConfigError(f"{args.episode!r} is no file; if it is an id, give --trainer HOST:PORT to ask for it")
    with trainer(args) as there, tempfile.TemporaryDirectory() as folder:
        row = there.episodes.get(args.episode)
        episode = read_episode(there.episodes.fetch(row, Path(folder) / "episode.mcap"))
    return replace(episode, outcome=Outcome(row.outcome), labelled_by=row.labelled_by), f"at {args.trainer}"


def _film(episode: Episode, path: Path, most: int = 8) -> Path:
    """Up to eight frames side by side."""
    import cv2
    import numpy as np

    frames = next(iter(episode.images.values()))
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))
    strip = np.concatenate([frames[index] for index in chosen], axis=1)
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(strip[..., ::-1]))[1].tobytes())
    return path


def _retract(args: argparse.Namespace, console: Console) -> int:
    with trainer(args) as there:
        touched = there.episodes.retract(args.episode_id, args.reason)
    rows = [{"id": made.id, "kind": made.kind} for made in touched if made.kind not in ("label", "dataset")]
    made = "".join(f"\n  {row['kind']} {row['id']}" for row in rows)
    text = f"Made from it, no longer promotable:{made}" if made else "Nothing was made from it."
    done = f"{args.episode_id} is retracted and will not be trained on again. {text}"
    emit(args, console, {"retracted": args.episode_id, "touched": rows}, done)
    return 0


def shown(row: EpisodeView) -> dict[str, object]:
    """An episode as JSON values."""
    return {**{name: getattr(row, name) for name in FIELDS}, "metadata": dict(row.metadata)}

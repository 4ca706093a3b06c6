"""`gymnast episodes open`: an episode of the trainer, or a file, in a viewer that is installed here."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_core.errors import ConfigError

FOXGLOVE = ("foxglove-studio", "foxglove")
"""What its application is called on a path."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("episode", help="an .mcap file, or the id of one the trainer has")
    parser.add_argument("--viewer", choices=("rerun", "foxglove"), default="rerun", help="(default rerun)")
    parser.add_argument("--into", type=Path, metavar="FOLDER",
                        help="where the file of an id is kept (default: a new temporary folder)")  # fmt: skip
    add_trainer_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Open it; the viewer stays when this returns."""
    require, start = {"rerun": (_rerun, _in_rerun), "foxglove": (_foxglove, _in_foxglove)}[args.viewer]
    require()  # before anything is fetched
    path = Path(args.episode)
    path = (path if path.is_file() else _fetched(args)).absolute()
    start(path)
    said = {"file": str(path), "viewer": args.viewer}
    emit(args, console, said, f"{path} is open in {args.viewer}")
    return 0


def _fetched(args: argparse.Namespace) -> Path:
    if not args.trainer:
        raise ConfigError(f"{args.episode!r} is no file; if it is an id, give --trainer HOST:PORT to ask for it")
    folder = args.into or Path(tempfile.mkdtemp(prefix="gymnast-episode-"))
    folder.mkdir(parents=True, exist_ok=True)
    with trainer(args) as there:
        row = there.episodes.get(args.episode)
        return there.episodes.fetch(row, folder / f"{row.episode_id}.mcap")


def _rerun() -> None:
    from gymnast_cli.screen import check_screen, rerun_module

    rerun_module()
    check_screen()


def _foxglove() -> str:
    """Return its program.

    Raises:
        ConfigError: it is not installed; the message says how to get it.
    """
    found = next(filter(None, map(shutil.which, FOXGLOVE)), None)
    if found is None:
        raise ConfigError(
            f"Foxglove is not installed: none of {', '.join(FOXGLOVE)} is on the path. Get it from "
            "https://foxglove.dev/download, or use --viewer rerun"
        )
    return found


def _in_foxglove(path: Path) -> None:
    quiet = subprocess.DEVNULL
    shell = 'exec "$@" &'  # a child of nobody's here: the viewer stays, and is not waited for
    subprocess.run(
        ["/bin/sh", "-c", shell, "sh", _foxglove(), str(path)],
        start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet, check=True,
    )  # fmt: skip


def _in_rerun(path: Path) -> None:
    from gymnast_cli.screen import RerunScreen, show_file

    screen = RerunScreen(None, f"{path.stem}-{time.time_ns()}")
    try:
        show_file(path, screen)
    finally:
        screen.close()

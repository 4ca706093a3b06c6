"""Datasets of other people's formats: brought in as episodes, and written from them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from cloud_trainer.world_model.data.described import DatasetConfig
from cloud_trainer.world_model.data.export.exporter import NOTHING, Exported, Outgoing, export
from cloud_trainer.world_model.data.files import below
from cloud_trainer.world_model.data.incoming import Incoming, Said
from cloud_trainer.world_model.data.mcap import header_of
from gymnast_core.episodes.durable import move_durably
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.json_values import JsonObject

__all__ = [
    "Destination",
    "EpisodeFolder",
    "Exported",
    "Imported",
    "Outgoing",
    "Said",
    "bring_in",
    "copy_out",
    "export",
    "incoming",
    "local_episodes",
]


class Destination(Protocol):
    """Where imported episodes go."""

    def has(self, episode_id: str) -> bool:
        """Whether it is there already."""
        ...

    def put(self, path: Path) -> None:
        """Take an episode file."""
        ...


@dataclass(frozen=True)
class EpisodeFolder:
    """A folder of episode files.

    Attributes:
        folder: which; made when missing.
    """

    folder: Path

    def has(self, episode_id: str) -> bool:
        """Whether its file is there."""
        return (self.folder / f"{episode_id}.mcap").exists()

    def put(self, path: Path) -> None:
        """Copy a file under its own name, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".importing-") as made:
            copy = Path(made) / f"{header_of(path).episode_id}.mcap"
            copy.write_bytes(path.read_bytes())
            move_durably(copy, self.folder / copy.name)


@dataclass(frozen=True)
class Imported:
    """What became of an import.

    Attributes:
        added: ids of the episodes that are new.
        known: ids of those that were there.
        broken: number and complaint of those left out.
    """

    added: tuple[str, ...]
    known: tuple[str, ...]
    broken: tuple[tuple[int, str], ...]


def incoming(path: Path, said: Said, config: JsonObject) -> Incoming:
    """Open what somebody wants to bring in.

    Args:
        path: a dataset's folder; of kind mcap also one file.
        said: of every episode that does not say so itself.
        config: the dataset as run.json describes it, without its folder.

    Raises:
        ConfigError: there is no such dataset, or it has no episodes.
    """
    files = [path] if config["kind"] == "mcap" and path.is_file() else None
    found = (
        Incoming.of_files(files, said)
        if files
        else Incoming.of(DatasetConfig.model_validate({**config, "folder": str(path)}), said)
    )
    if not len(found):
        raise ConfigError(f"no {found.kind} episodes in {path}; is {found.kind} the right format?")
    return found


def bring_in(found: Incoming, to: Destination, *, skip_broken: bool) -> Imported:
    """Bring every episode of a dataset to a place that has each at most once; called again, it goes on.

    Args:
        found: the dataset, which is only read.
        to: the place.
        skip_broken: leave out what cannot be read.

    Raises:
        CorruptError: an episode cannot be read; those before it are brought in.
        ConfigError: its numbers are not what was declared.
    """
    added, known, broken = list[str](), list[str](), list[tuple[int, str]]()
    for index in range(len(found)):
        try:
            episode_id = found.episode_id(index)
            if to.has(episode_id):
                known.append(episode_id)
                continue
            with tempfile.TemporaryDirectory(prefix="gymnast-import-") as made:
                to.put(found.file(index, Path(made)))
            added.append(episode_id)
        except (CorruptError, ConfigError) as error:
            if not skip_broken:
                raise
            broken.append((index, str(error)))
    return Imported(tuple(added), tuple(known), tuple(broken))


def local_episodes(paths: Sequence[Path]) -> list[Outgoing]:
    """Return the episodes in some files, and in all files below some folders, each once.

    Raises:
        CorruptError: a file is no episode.
    """
    files = [file for path in paths for file in (below(path, ".mcap") if path.is_dir() else [path])]
    found = {header_of(file).episode_id: file for file in files}
    return [Outgoing(episode_id, partial(_itself, file)) for episode_id, file in found.items()]


def _itself(file: Path, folder: Path) -> Path:
    return file


def copy_out(wanted: Sequence[Outgoing], out: Path) -> Exported:
    """Write episodes as files into a folder; those that are there already stay.

    Raises:
        ConfigError: nothing to export.
    """
    if not wanted:
        raise ConfigError(NOTHING)
    to, before = EpisodeFolder(out), 0
    for one in wanted:
        if to.has(one.episode_id):
            before += 1
            continue
        with tempfile.TemporaryDirectory(prefix="gymnast-export-") as made:
            to.put(one.file(Path(made)))
    return Exported(tuple(one.episode_id for one in wanted), before, ())

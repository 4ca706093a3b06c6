"""The robot's outbox: finished episodes on disk until the trainer has them for good."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blake3 import blake3

from gymnast_core.episodes.durable import move_durably, sync_file
from gymnast_core.episodes.messages import checked_id
from gymnast_core.episodes.recovery import recover
from gymnast_core.episodes.writer import EPISODE_SUFFIX
from gymnast_core.errors import ConfigError, ContractError, DiskFullError

LOG = logging.getLogger(__name__)
_SEPARATOR = "~"
_DIGEST_HEX = 64


@dataclass(frozen=True)
class SpoolEntry:
    """One episode waiting to be shipped.

    Attributes:
        path: the file.
        episode_id: from its name.
        digest: hex BLAKE3 of the file, taken when it was enqueued.
        size: bytes.
        enqueued_ns: wall clock of the file, for ordering and display alone.
    """

    path: Path
    episode_id: str
    digest: str
    size: int
    enqueued_ns: int


@dataclass(frozen=True)
class SpoolUsage:
    """How full the spool is.

    Attributes:
        entries: episodes waiting.
        bytes: their size together.
        free_bytes: left on the file system.
        full: new episodes must wait; show it to the operator.
        dropped: episodes deleted by the drop_oldest policy since this object was made.
    """

    entries: int
    bytes: int
    free_bytes: int
    full: bool
    dropped: int


def file_digest(path: Path) -> str:
    """Hex BLAKE3 of a file, read in pieces.

    Source:
        BLAKE3 specification, O'Connor, Aumasson, Neves, Wilcox-O'Hearn 2020; 32 bytes of output.
    """
    digest = blake3()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _is_named(name: str) -> bool:
    """Whether this may be an entry's."""
    return _SEPARATOR in name and name.endswith(EPISODE_SUFFIX)


class Spool:
    """A folder with recording/ (being written), pending/ (to be shipped) and refused/ (the trainer will not have it).

    An entry is one file whose name carries id and digest, so one rename makes it and one unlink ends it. Several
    processes may use one spool: a recorder enqueues while an uplink ships.

    Args:
        folder: created when missing; all of it on one file system.
        min_free_bytes: the spool is full when less than this is left on the file system.
        max_bytes: the spool is full when pending episodes exceed this; None for no limit of its own.
        on_full: "pause" refuses new episodes (check_space raises); "drop_oldest" deletes the oldest pending ones.

    Raises:
        ConfigError: an unknown policy.
    """

    def __init__(
        self,
        folder: Path,
        *,
        min_free_bytes: int = 256 << 20,
        max_bytes: int | None = None,
        on_full: Literal["pause", "drop_oldest"] = "pause",
    ) -> None:
        if on_full not in ("pause", "drop_oldest"):
            raise ConfigError(f"on_full must be 'pause' or 'drop_oldest', got {on_full!r}")
        self.folder = folder
        self.recording_folder = folder / "recording"
        self._pending = folder / "pending"
        self._refused = folder / "refused"
        self._min_free_bytes = min_free_bytes
        self._max_bytes = max_bytes
        self._on_full = on_full
        self._dropped = 0
        for part in (self.recording_folder, self._pending, self._refused):
            part.mkdir(parents=True, exist_ok=True)

    def enqueue(self, episode: Path) -> SpoolEntry:
        """Hand a finished episode over; after this returns it survives a power cut.

        Args:
            episode: <episode_id>.mcap on the spool's file system, normally in recording_folder. It is moved.

        Raises:
            ContractError: the name is no episode id, or the file is missing.
        """
        episode_id = checked_id(episode.name.removesuffix(EPISODE_SUFFIX), "episode id")
        if not episode.is_file():
            known = [entry for entry in self.entries() if entry.episode_id == episode_id]
            if known:  # a recovery was faster
                return known[0]
            raise ContractError(f"{episode} does not exist; enqueue a finished episode")
        sync_file(episode)
        digest, status = file_digest(episode), episode.stat()
        target = self._pending / f"{episode_id}{_SEPARATOR}{digest}{EPISODE_SUFFIX}"
        move_durably(episode, target)  # from here on an uplink may ship and remove it at any moment
        if self._on_full == "drop_oldest":
            self._make_room(keep=target)
        return SpoolEntry(target, episode_id, digest, status.st_size, status.st_mtime_ns)

    def entries(self) -> list[SpoolEntry]:
        """Episodes waiting, oldest first."""
        found = []
        for path in self._pending.glob(f"*{_SEPARATOR}*{EPISODE_SUFFIX}"):
            if not path.is_file():
                continue  # a stray folder or pipe would hold up the episodes behind it
            try:
                found.append(self._entry(path))
            except FileNotFoundError:
                continue  # shipped and removed meanwhile
        return sorted(found, key=lambda entry: (entry.enqueued_ns, entry.episode_id))

    def strays(self) -> list[Path]:
        """What lies among the episodes and is none: a folder, a pipe, a file of another name; it is never sent."""
        with os.scandir(self._pending) as found:
            return sorted(Path(file.path) for file in found if not (_is_named(file.name) and file.is_file()))

    def is_empty(self) -> bool:
        """Nothing waits; as quick with a thousand episodes as with one."""
        with os.scandir(self._pending) as found:
            return not any(_is_named(file.name) and file.is_file() for file in found)

    def remove(self, entry: SpoolEntry) -> None:
        """Delete an episode the trainer has acknowledged; nothing else may call this.

        Not flushed: an episode that a power cut brings back is sent again and acknowledged as known.
        """
        entry.path.unlink(missing_ok=True)

    def set_aside(self, entry: SpoolEntry, reason: str) -> Path:
        """Keep an episode the trainer refused for good, with the reason beside it, out of the queue."""
        target = self._refused / entry.path.name
        target.with_suffix(".reason").write_text(reason + "\n", encoding="utf-8")
        move_durably(entry.path, target)
        LOG.error("episode_refused episode=%s reason=%s kept=%s", entry.episode_id, reason, target)
        return target

    def refused(self) -> list[Path]:
        """Episodes the trainer refused, for the operator to look at."""
        return sorted(self._refused.glob(f"*{EPISODE_SUFFIX}"))

    def usage(self) -> SpoolUsage:
        """Count what waits and what is left."""
        entries = self.entries()
        size = sum(entry.size for entry in entries)
        free = shutil.disk_usage(self.folder).free
        full = free < self._min_free_bytes or (self._max_bytes is not None and size > self._max_bytes)
        return SpoolUsage(len(entries), size, free, full, self._dropped)

    def check_space(self) -> None:
        """Ask before an episode starts.

        Raises:
            DiskFullError: the spool is full and its policy is "pause".
        """
        if self._on_full == "pause" and (usage := self.usage()).full:
            raise DiskFullError(
                f"spool {self.folder} is full: {usage.entries} episodes of {usage.bytes} bytes wait, "
                f"{usage.free_bytes} bytes are free; connect the trainer or free space, nothing was dropped"
            )

    def recover(self) -> list[SpoolEntry]:
        """Call once at start: finish what a crash interrupted and enqueue it."""
        recover(self.recording_folder)
        return [self.enqueue(path) for path in sorted(self.recording_folder.glob(f"*{EPISODE_SUFFIX}"))]

    def _entry(self, path: Path) -> SpoolEntry:
        episode_id, _, digest = path.name.removesuffix(EPISODE_SUFFIX).partition(_SEPARATOR)
        status = path.stat()
        return SpoolEntry(path, episode_id, digest[:_DIGEST_HEX], status.st_size, status.st_mtime_ns)

    def _make_room(self, keep: Path) -> None:
        for entry in self.entries():
            if not self.usage().full:
                return
            if entry.path != keep:
                LOG.warning("episode_dropped episode=%s bytes=%d policy=drop_oldest", entry.episode_id, entry.size)
                self.remove(entry)
                self._dropped += 1
        os.sync()

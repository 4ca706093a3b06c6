"""An append-only file of JSON lines in which every line carries the hash of the one before it.

No entry, nor their order, can be changed afterwards without the change being named. A line torn by a crash is
dropped when the file is opened again: it was never acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.episodes.durable import FULL_ERRNOS
from gymnast_core.errors import CorruptError, DiskFullError, StorageError
from gymnast_core.json_values import JsonObject
from gymnast_core.records.manifest import canonical_json

GENESIS = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        sequence: 0, 1, 2, ...
        kind: what happened.
        data: JSON values.
        previous: hash of the line before; GENESIS for the first.
        hash: SHA-256 of the canonical JSON of the four above.
    """

    sequence: int
    kind: str
    data: JsonObject
    previous: str
    hash: str

    @staticmethod
    def after(sequence: int, previous: str, kind: str, data: JsonObject) -> Entry:
        """Return the next entry of a chain."""
        body = [sequence, kind, data, previous]
        return Entry(sequence, kind, data, previous, hashlib.sha256(canonical_json(body)).hexdigest())


class Journal:
    """One such file, open for appending by one process at a time; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and check its chain.

        Raises:
            CorruptError: a line was changed, removed or reordered; the message names it.
            StorageError: another process has it open.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise StorageError(f"{path} is open in another process; end that one first") from error
        try:
            self._entries = self._recover()
        except CorruptError:
            self._file.close()
            raise

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry so far, oldest first."""
        with self._lock:
            return tuple(self._entries)

    @property
    def head(self) -> str:
        """Hash of the newest entry; keep it elsewhere to notice a cut tail."""
        with self._lock:
            return self._entries[-1].hash if self._entries else GENESIS

    def append(self, kind: str, data: Mapping[str, object]) -> Entry:
        """Write one entry durably and return it."""
        with self._lock:
            previous = self._entries[-1].hash if self._entries else GENESIS
            entry = Entry.after(len(self._entries), previous, kind, json.loads(canonical_json(data)))
            self._write(canonical_json(entry.__dict__) + b"\n")
            self._entries.append(entry)
            return entry

    def _write(self, line: bytes) -> None:
        """Append whole or not at all: what a full disk cut short would spoil the line after it."""
        whole = os.fstat(self._file.fileno()).st_size
        try:
            if os.write(self._file.fileno(), line) < len(line):
                raise OSError(errno.ENOSPC, "no space left")
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), whole)
            kind = DiskFullError if error.errno in FULL_ERRNOS else StorageError
            raise kind(f"{self.path} takes no entry ({error.strerror}); nothing was done, try again") from error

    def close(self) -> None:
        """Close and unlock; safe to call twice."""
        self._file.close()

    def _recover(self) -> list[Entry]:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            self._file.truncate(whole)
        return read_chain(data[:whole], self.path)


def read_chain(data: bytes, name: object) -> list[Entry]:
    """Parse and check the lines of a journal.

    Args:
        data: whole lines.
        name: of the file, for messages.

    Raises:
        CorruptError: a line was changed, removed or reordered; the message names it.
    """
    entries: list[Entry] = []
    previous = GENESIS
    for number, line in enumerate(data.splitlines()):
        try:
            stored = Entry(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise CorruptError(f"{name}, line {number + 1} is not an entry: {error}") from error
        expected = Entry.after(number, previous, stored.kind, stored.data)
        if stored != expected:
            raise CorruptError(f"{name}, line {number + 1} was changed: its hash or place in the chain does not fit")
        entries.append(stored)
        previous = stored.hash
    return entries

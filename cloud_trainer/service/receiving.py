"""One episode on its way in: its staging file, its running digest, and its owner."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.episodes.durable import FULL_ERRNOS
from gymnast_core.errors import CorruptError, DiskFullError
from gymnast_core.wire.codec import Chunk
from gymnast_core.wire.errors import (
    ChunkCorruptError,
    DigestError,
    InvalidMessageError,
    OffsetError,
    SizeError,
    SupersededError,
)

_READ_BYTES = 1 << 20
_WRITE_BACK_BYTES = 16 << 20


class Receiving:
    """One episode being received: its staging file, its running digest, and its owner."""

    def __init__(
        self,
        path: Path,
        row: EpisodeRow,
        write_back: Callable[[int], None] = lambda descriptor: None,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self._write_back, self._on_full = write_back, on_full
        self._written_back = 0
        self.row = row
        self.lock = threading.Lock()
        self.superseded = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._digest = blake3()
        self.offset = self._take_stock()

    def _take_stock(self) -> int:
        """Make what is there durable, hash it, and return how much it is."""
        size = os.fstat(self._file).st_size
        if size > self.row.size:
            os.ftruncate(self._file, 0)
            size = 0
        if size:
            os.fsync(self._file)
        at = 0
        while at < size:
            piece = os.pread(self._file, min(_READ_BYTES, size - at), at)
            self._digest.update(piece)
            at += len(piece)
        return size

    def write(self, chunk: Chunk) -> None:
        """Append a chunk.

        Raises:
            SupersededError: a newer stream owns the episode.
            OffsetError: a gap, an overlap or a replay.
            SizeError: more bytes than announced.
            ChunkCorruptError: its CRC does not fit.
            DiskFullError: no space.
        """
        with self.lock:
            self._check(chunk)
            data = memoryview(chunk.data)
            at = self.offset
            try:
                while data:
                    written = os.pwrite(self._file, data, at)
                    data, at = data[written:], at + written
            except OSError as error:
                if error.errno in FULL_ERRNOS:
                    os.ftruncate(self._file, self.offset)
                    self._on_full()
                    raise DiskFullError(f"the trainer's disk is full; {self.offset} bytes are kept") from error
                raise
            self._digest.update(chunk.data)
            self.offset = at
            if at - self._written_back >= _WRITE_BACK_BYTES:
                self._written_back = at
                self._write_back(os.dup(self._file))

    def _check(self, chunk: Chunk) -> None:
        if self.superseded:
            raise SupersededError(f"episode {self.row.episode_id} is being sent on a newer stream")
        if not chunk.data:
            raise InvalidMessageError(f"an empty chunk at {chunk.offset}")
        if chunk.offset != self.offset:
            raise OffsetError(f"chunk at {chunk.offset}, the file ends at {self.offset}")
        if self.offset + len(chunk.data) > self.row.size:
            raise SizeError(f"{self.offset + len(chunk.data)} bytes came, {self.row.size} were announced")
        try:
            chunk.check()
        except CorruptError as error:
            raise ChunkCorruptError(str(error)) from error

    def seal(self) -> None:
        """Check size and digest and make the bytes durable.

        Raises:
            OffsetError: fewer bytes than announced.
            DigestError: other bytes than announced; they are thrown away.
            SupersededError: a newer stream owns the episode.
        """
        with self.lock:
            if self.superseded:
                raise SupersededError(f"episode {self.row.episode_id} is being sent on a newer stream")
            if self.offset != self.row.size:
                raise OffsetError(f"commit after {self.offset} of {self.row.size} bytes; open again and send the rest")
            if (found := self._digest.hexdigest()) != self.row.digest:
                os.ftruncate(self._file, 0)
                raise DigestError(f"the bytes have digest {found}, announced was {self.row.digest}")
            os.fsync(self._file)

    def close(self) -> None:
        """Stop; what is in the file stays for the next attempt."""
        with self.lock:
            self.superseded = True
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

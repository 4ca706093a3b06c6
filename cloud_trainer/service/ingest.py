"""Episodes in: plain functions on files and stores, no network in here.

An episode is acknowledged only when its digest fits, its bytes are fsynced and renamed into the blob store, and the
catalogue has committed it. Until then its bytes wait in staging/, where an interrupted upload goes on at their end.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from cloud_trainer.service.config import Limits
from cloud_trainer.store.folder import checked_digest
from cloud_trainer.store.protocols import AddResult, BlobStore, EpisodeRow, MetaStore
from gymnast_core.episodes.durable import FULL_ERRNOS
from gymnast_core.episodes.messages import SCHEMA_VERSION, checked_id
from gymnast_core.errors import ContractError, CorruptError, DiskFullError, GymnastError
from gymnast_core.wire.codec import CHUNK_BYTES, Chunk
from gymnast_core.wire.errors import (
    BusyError,
    ChunkCorruptError,
    CreditError,
    DigestError,
    IdReusedError,
    InvalidIdError,
    InvalidMessageError,
    OffsetError,
    QuotaError,
    SizeError,
    SupersededError,
    TooLargeError,
)
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)
_GROUP = 64
_READ_BYTES = 1 << 20
_WRITE_BACK_BYTES = 16 << 20
_FULL_PAUSE_S = 0.5


@dataclass(frozen=True)
class Opening:
    """What a sender says about an episode before sending it."""

    episode_id: str
    size: int
    digest: str
    schema: str


class Receiving:
    """One episode being received: its staging file, its running digest, and who owns it."""

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


class Ingest:
    """The receiving side of the whole service.

    Args:
        staging: folder for episodes under way, on the blob store's file system where that is a folder.
        blobs: where finished ones go.
        meta: the catalogue.
        limits: sizes and quotas.
        on_commit: called with the rows after each group is acknowledged (validation).
        commit_threads: commits prepared at once (digest, fsync, rename).
    """

    def __init__(
        self,
        staging: Path,
        blobs: BlobStore,
        meta: MetaStore,
        limits: Limits,
        *,
        on_commit: Callable[[list[EpisodeRow]], None] = lambda rows: None,
        commit_threads: int = 8,
    ) -> None:
        staging.mkdir(parents=True, exist_ok=True)
        self.limits = limits
        self._staging, self._blobs, self._meta, self._on_commit = staging, blobs, meta, on_commit
        self._receiving: dict[tuple[str, str], Receiving] = {}
        self._lock = threading.Lock()
        self._full_until = 0.0
        self._pool = ThreadPoolExecutor(commit_threads, thread_name_prefix="commit")
        self._groups: queue.SimpleQueue[tuple[EpisodeRow, Future[AddResult]] | None] = queue.SimpleQueue()
        self._committer = threading.Thread(target=self._commit_groups, name="commit-groups", daemon=True)
        self._committer.start()

    def open(self, peer: Peer, opening: Opening) -> Receiving | None:
        """Start or continue an episode; None when it is committed already.

        Raises:
            InvalidIdError, InvalidMessageError, TooLargeError: a field makes no sense.
            IdReusedError: the id is committed with another digest.
            QuotaError: the tenant is full.
            DiskFullError: this disk is full.
        """
        self._check_opening(opening)
        if (known := self._meta.episode(peer.tenant, opening.episode_id)) is not None:
            if known.digest != opening.digest:
                raise IdReusedError(f"episode {opening.episode_id} exists with digest {known.digest}")
            self._staged(peer, opening).unlink(missing_ok=True)  # a kill may have come between catalogue and unlink
            return None
        row = EpisodeRow(0, peer.tenant, opening.episode_id, peer.name, opening.digest, opening.size, 0)
        key = (peer.tenant, opening.episode_id)
        path = self._staged(peer, opening)
        with self._lock:
            if (older := self._receiving.pop(key, None)) is not None:
                older.close()  # the newer stream wins: the old one is a dead peer's more often than not
            self._check_room(peer, opening)
            path.parent.mkdir(exist_ok=True)
            self._drop_other_content(path, opening)
            receiving = Receiving(path, row, self._write_back, self._disk_was_full)
            self._receiving[key] = receiving
        return receiving

    def commit(self, receiving: Receiving) -> Future[AddResult]:
        """Seal, store and register an episode; the result is the time to acknowledge it.

        The future raises what seal() raises, DiskFullError, or IdReusedError.
        """
        try:
            return self._pool.submit(self._commit, receiving)
        except RuntimeError as error:
            raise BusyError("the service is stopping; send this episode again later") from error

    def release(self, receiving: Receiving) -> None:
        """Let go of an episode whose stream ended; its bytes stay in staging."""
        key = (receiving.row.tenant, receiving.row.episode_id)
        with self._lock:
            if self._receiving.get(key) is receiving:
                del self._receiving[key]
        receiving.close()

    def close(self) -> None:
        """Finish the commits under way and stop."""
        self._pool.shutdown(wait=True)
        self._groups.put(None)
        self._committer.join()
        with self._lock:
            for receiving in self._receiving.values():
                receiving.close()
            self._receiving.clear()

    def _disk_was_full(self) -> None:
        """A write failed for lack of space: take no new episode for a moment, so that none is sent in vain."""
        self._full_until = time.monotonic() + _FULL_PAUSE_S

    def _write_back(self, descriptor: int) -> None:
        """Let the disk write while more comes, so that the flush at the end is short."""

        def sync() -> None:
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                LOG.warning("write_back_failed error=%s", error)  # the fsync before the acknowledgement decides
            finally:
                os.close(descriptor)

        try:
            self._pool.submit(sync)
        except RuntimeError:
            os.close(descriptor)  # the service is stopping

    def _check_opening(self, opening: Opening) -> None:
        try:
            checked_id(opening.episode_id, "episode id")
        except ContractError as error:
            raise InvalidIdError(str(error)) from error
        checked_digest(opening.digest)
        if opening.schema != SCHEMA_VERSION:
            raise InvalidMessageError(f"schema {opening.schema[:40]!r} is not {SCHEMA_VERSION!r}")
        if not 0 < opening.size <= self.limits.episode_bytes:
            raise TooLargeError(f"episode of {opening.size} bytes; 1 to {self.limits.episode_bytes} are accepted")

    def _check_room(self, peer: Peer, opening: Opening) -> None:
        usage, limits = self._meta.usage(peer.tenant), self.limits
        coming = [other.row.size for (tenant, _), other in self._receiving.items() if tenant == peer.tenant]
        episodes, size = usage.episodes + len(coming), usage.bytes + sum(coming)
        if size + opening.size > limits.tenant_bytes or episodes >= limits.tenant_episodes:
            raise QuotaError(
                f"tenant {peer.tenant!r} has {episodes} episodes of {size} bytes, under way included; the quota is "
                f"{limits.tenant_episodes} and {limits.tenant_bytes}: ask an admin for more"
            )
        free = shutil.disk_usage(self._staging).free
        if free - opening.size < limits.min_free_bytes or time.monotonic() < self._full_until:
            raise DiskFullError(
                f"the trainer has {free} bytes left; nothing was dropped, it takes episodes again later"
            )

    def _staged(self, peer: Peer, opening: Opening) -> Path:
        return self._staging / peer.tenant / f"{opening.episode_id}~{opening.digest}.part"

    def _drop_other_content(self, path: Path, opening: Opening) -> None:
        """Remove staged bytes of the same id with another digest: they were never acknowledged."""
        for stale in path.parent.glob(f"{opening.episode_id}~*"):
            if stale.stem != path.stem:
                stale.unlink()

    def _commit(self, receiving: Receiving) -> AddResult:
        receiving.seal()
        sealed = receiving.path.with_suffix(".sealed")
        sealed.unlink(missing_ok=True)
        os.link(receiving.path, sealed)  # the staged name stays: a kill before the catalogue knows costs no resending
        self._blobs.put_file(sealed, receiving.row.digest)
        done: Future[AddResult] = Future()
        self._groups.put((receiving.row, done))
        result = done.result()
        self.release(receiving)
        receiving.path.unlink(missing_ok=True)
        if result == "conflict":
            raise IdReusedError(f"episode {receiving.row.episode_id} was committed with another digest meanwhile")
        return result

    def _commit_groups(self) -> None:
        """Register episodes, as many as are waiting, in one transaction: one flush for all of them."""
        while (first := self._groups.get()) is not None:
            group = [first]
            while len(group) < _GROUP and not self._groups.empty():
                if (more := self._groups.get()) is None:
                    self._groups.put(None)
                    break
                group.append(more)
            self._register(group)

    def _register(self, group: list[tuple[EpisodeRow, Future[AddResult]]]) -> None:
        now = time.time_ns()
        rows = [EpisodeRow(**{**vars(row), "received_ns": now}) for row, _ in group]
        try:
            results = self._meta.add_episodes(rows)
        except GymnastError as error:
            for _, done in group:
                done.set_exception(error)
            return
        for (_, done), result in zip(group, results, strict=True):
            done.set_result(result)
        self._on_commit([row for row, result in zip(rows, results, strict=True) if result == "added"])


class Credit:
    """The byte-credit window of one stream.

    Args:
        window: bytes that may be under way at once.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._left = window
        self._owed = 0
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        """A chunk has come.

        Raises:
            CreditError: more than was granted.
        """
        with self._lock:
            if size > self._left:
                raise CreditError(f"a chunk of {size} bytes came with {self._left} bytes of credit left")
            self._left -= size

    def earn(self, size: int) -> int:
        """A chunk is written; returns the credit to grant now, 0 for not yet."""
        with self._lock:
            self._owed += size
            if self._owed < min(2 * CHUNK_BYTES, self.window // 8):
                return 0
            granted, self._owed = self._owed, 0
            self._left += granted
            return granted

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

from cloud_trainer.records.graph_check import OWN_IDS
from cloud_trainer.service.config import Limits
from cloud_trainer.service.quota import Quota
from cloud_trainer.service.receiving import Receiving
from cloud_trainer.store.folder import checked_digest
from cloud_trainer.store.protocols import AddResult, BlobStore, EpisodeRow, MetaStore
from gymnast_core.episodes.messages import SCHEMA_VERSION, checked_id
from gymnast_core.errors import ContractError, DiskFullError, GymnastError
from gymnast_core.wire.errors import (
    BusyError,
    IdReusedError,
    InvalidIdError,
    InvalidMessageError,
    TooLargeError,
)
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)
_GROUP = 64
_GATHER_S = 0.005
_FULL_PAUSE_S = 0.5


_Commit = tuple[EpisodeRow, "Future[AddResult]"]


@dataclass(frozen=True)
class Opening:
    """What a sender says about an episode before sending it."""

    episode_id: str
    size: int
    digest: str
    schema: str


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
        commit_threads: int = 16,
    ) -> None:
        staging.mkdir(parents=True, exist_ok=True)
        self.limits = limits
        self._staging, self._blobs, self._meta, self._on_commit = staging, blobs, meta, on_commit
        self._receiving: dict[tuple[str, str], Receiving] = {}
        self._lock = threading.Lock()
        self._quota = Quota(meta, limits)
        self._full_until = 0.0
        self._pool = ThreadPoolExecutor(commit_threads, thread_name_prefix="commit")
        self._group_size, self._under_way = min(commit_threads, _GROUP), 0
        self._groups: queue.SimpleQueue[_Commit | None] = queue.SimpleQueue()
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
                raise IdReusedError(
                    f"episode {opening.episode_id} is here with other content (digest {known.digest}); what is stored "
                    "never changes, so send yours under an id of its own"
                )
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
            future = self._pool.submit(self._commit, receiving)
        except RuntimeError as error:
            raise BusyError("the service is stopping; send this episode again later") from error
        self._count(1)
        future.add_done_callback(lambda done: self._count(-1))
        return future

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
        if OWN_IDS.match(opening.episode_id):
            raise InvalidIdError(f"episode id {opening.episode_id!r} is like the trainer's own records; choose another")
        checked_digest(opening.digest)
        if opening.schema != SCHEMA_VERSION:
            raise InvalidMessageError(f"schema {opening.schema[:40]!r} is not {SCHEMA_VERSION!r}")
        if not 0 < opening.size <= self.limits.episode_bytes:
            raise TooLargeError(f"episode of {opening.size} bytes; 1 to {self.limits.episode_bytes} are accepted")

    def _check_room(self, peer: Peer, opening: Opening) -> None:
        coming = [other.row.size for (tenant, _), other in self._receiving.items() if tenant == peer.tenant]
        self._quota.check(peer.tenant, [*coming, opening.size])
        free = shutil.disk_usage(self._staging).free
        if free - opening.size < self.limits.min_free_bytes or time.monotonic() < self._full_until:
            raise DiskFullError(
                f"the trainer has {free} bytes left; nothing was dropped, it takes episodes again later"
            )

    def _staged(self, peer: Peer, opening: Opening) -> Path:
        return self._staging / peer.tenant / f"{opening.episode_id}~{opening.digest}.part"

    def _drop_other_content(self, path: Path, opening: Opening) -> None:
        """Remove staged bytes of the same id with another digest: they were never acknowledged."""
        with os.scandir(path.parent) as found:  # quicker than glob: this is asked for every episode
            for stale in found:
                if stale.name.startswith(f"{opening.episode_id}~") and not stale.name.startswith(f"{path.stem}."):
                    Path(stale.path).unlink()

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

    def _count(self, change: int) -> None:
        with self._lock:
            self._under_way += change

    def _commit_groups(self) -> None:
        """Register episodes in groups: one transaction and one flush for all of them."""
        while (first := self._groups.get()) is not None:
            self._register(self._gather(first))

    def _gather(self, first: _Commit) -> list[_Commit]:
        """Those that wait, and for a moment those about to: a transaction costs the same for one and for many."""
        group, until = [first], time.monotonic() + _GATHER_S
        while len(group) < min(self._group_size, self._under_way):
            try:
                more = self._groups.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                self._groups.put(None)
                break
            group.append(more)
        return group

    def _register(self, group: list[_Commit]) -> None:
        now = time.time_ns()
        rows = [EpisodeRow(**{**vars(row), "received_ns": now}) for row, _ in group]
        try:
            results = self._meta.add_episodes(rows)
        except GymnastError as error:
            for _, done in group:
                done.set_exception(error)
            return
        added = [row for row, result in zip(rows, results, strict=True) if result == "added"]
        self._quota.add(added)
        for (_, done), result in zip(group, results, strict=True):
            done.set_result(result)
        self._on_commit(added)

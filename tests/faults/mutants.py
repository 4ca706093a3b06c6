"""Bugs that the injector must find: each is one thing a careless implementation leaves out."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace

from cloud_trainer.service import ingest, session
from cloud_trainer.store import sql_meta
from gymnast_core.episodes import spool as spool_module
from gymnast_core.wire.errors import OffsetError
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb
from gymnast_ros.uplink import upload


def no_fsync() -> None:
    """Server: acknowledges bytes that are in the page cache alone (the patched disk leaves fsync out)."""


def early_acknowledgement() -> None:
    """Server: acknowledges when the commit message comes, then commits."""

    def commit(self, channel):
        receiving = self._episodes.get(channel)
        if receiving is not None:
            self._committed(channel, receiving.row.episode_id, duplicate=False)
        original(self, channel)

    original, session.UploadSession._commit = session.UploadSession._commit, commit


def no_integrity() -> None:
    """Server: checks neither CRC nor digest."""

    def seal(self):
        with self.lock:
            os.fsync(self._file)

    def check(self, chunk):
        if chunk.offset != self.offset:
            raise OffsetError("gap")

    ingest.Receiving.seal, ingest.Receiving._check = seal, check


def no_dedupe() -> None:
    """Server: every arrival is a new row."""

    def add(self, rows):
        return original(self, [replace(row, episode_id=f"{row.episode_id}#{next(numbers)}") for row in rows])

    numbers = itertools.count(time.monotonic_ns())
    original, sql_meta.SqlMetaStore.add_episodes = sql_meta.SqlMetaStore.add_episodes, add


def acknowledgement_before_catalogue() -> None:
    """Server: acknowledges after the rename, before the catalogue knows."""

    def register(self, group):
        for _, done in group:
            done.set_result("added")

    ingest.Ingest._register = register


def full_disk_ignored() -> None:
    """Server: takes a failed write for a successful one; its running digest is that of what should be there."""

    def pwrite(descriptor, data, offset):
        try:
            return original(descriptor, data, offset)
        except OSError:
            return len(data)

    original, os.pwrite = os.pwrite, pwrite


def delete_before_acknowledgement() -> None:
    """Robot: deletes an episode when its last byte is sent."""

    def next_chunk(self):
        message = original(self)
        if isinstance(message, pb.UploadRequest) and message.WhichOneof("message") == "commit":
            self._spool.remove(self._sending[message.commit.channel].entry)
        return message

    original, upload.UploadStream._next_chunk = upload.UploadStream._next_chunk, next_chunk


def dropped_when_refused() -> None:
    """Robot: throws away what the trainer cannot take just now."""

    def fail(self, refusal):
        if refusal.channel in self._sending:
            self._spool.remove(self._sending[refusal.channel].entry)
        original(self, refusal)

    original, upload.UploadStream._fail = upload.UploadStream._fail, fail


def broken_link_taken_for_success() -> None:
    """Robot: believes that what was under way when the link broke has arrived."""

    def run(self):
        try:
            original(self)
        finally:
            for sending in list(self._sending.values()):
                self._spool.remove(sending.entry)

    original, upload.UploadStream.run = upload.UploadStream.run, run


def no_spool_fsync() -> None:
    """Robot: enqueues without fsync (the patched disk leaves it out)."""


SERVER: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        no_fsync,
        early_acknowledgement,
        no_integrity,
        no_dedupe,
        acknowledgement_before_catalogue,
        full_disk_ignored,
    )
}
ROBOT: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (delete_before_acknowledgement, dropped_when_refused, broken_link_taken_for_success, no_spool_fsync)
}
LYING_FSYNC = ("no_fsync", "no_spool_fsync")
assert spool_module.Spool  # the modules under test are imported before a fork

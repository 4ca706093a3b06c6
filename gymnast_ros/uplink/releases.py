"""Takes in what the trainer publishes for this robot: verifies, fetches, verifies again, stages."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
from blake3 import blake3

from gymnast_client.checkpoints import signed_document
from gymnast_client.download import BlobDownload
from gymnast_client.link import Link
from gymnast_client.waits import Waits
from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import (
    CheckpointError,
    CorruptError,
    DiskFullError,
    RejectedBridgeError,
    TransientBridgeError,
)
from gymnast_core.records.delta import apply_delta
from gymnast_core.records.manifest import WEIGHTS_NAME
from gymnast_core.records.release import DowngradeError, Release
from gymnast_core.records.signing import SignedDocument
from gymnast_core.wire.gymnast.v1 import weights_pb2, weights_pb2_grpc
from gymnast_ros.uplink.robot_store import RobotStore

LOG = logging.getLogger(__name__)
_BROKEN: tuple[type[Exception], ...] = (TransientBridgeError, CorruptError, DiskFullError, ValueError)
"""After these a download is tried again."""


class ReleaseIntake:
    """See the module.

    Args:
        link: to the trainer.
        store: where checkpoints are staged.
        stop: set when the uplink ends.
        report: called with what happened: kind and JSON values.
        broken: called with every failure of the link; it is tried again.
    """

    def __init__(
        self, link: Link, store: RobotStore, stop: threading.Event, *, report: Callable[..., None],
        broken: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        self._link, self._store, self._stop = link, store, stop
        self._report, self._broken = report, broken

    def watch(self, heard: Callable[[], None]) -> None:
        """Take in what is published after the newest release that is known, until the stream or the uplink ends.

        Args:
            heard: called with every release that arrives, before it is looked into.

        Raises:
            BridgeError: the trainer is away, or refuses this robot.
        """
        stub = weights_pb2_grpc.WeightsServiceStub(self._link.channel())
        call = stub.Watch(weights_pb2.WatchRequest(after_sequence=self._store.highest))
        ender = threading.Thread(target=lambda: (self._stop.wait(), call.cancel()), daemon=True)
        ender.start()
        try:
            for message in call:
                heard()
                self.take(signed_document(message))
        except grpc.RpcError as failure:
            if not self._stop.is_set():
                raise self._link.failure(failure) from failure

    def take(self, document: SignedDocument) -> None:
        """Verify, fetch, verify, stage; a release that is not for us is reported and passed over."""
        try:
            release = self._store.check(document)
        except DowngradeError as error:
            LOG.info("release_known detail=%s", error)
            return
        except CheckpointError as error:
            self._report("release_refused", error=type(error).__name__, detail=str(error), release=_named(document))
            return
        if not release.by_id and release.manifest.get("kind") != "policy":
            self._store.skip(document)
            return
        try:
            gate = self._gate(release)
            note = self._store.check_gate(release, gate)  # before the weights, which are large
            here = release.by_id or release.checkpoint_id in self._store.held()
            lineage = None if here else self._lineage(release)
            folder = self._store.stage(document, None if here else self._fetch(release), lineage, gate)
            self._report(
                "staged", checkpoint_id=folder.name, sequence=release.sequence, release=release.kind, gate=note.how,
                **{name: said for name, said in (("by", note.by), ("reason", note.reason)) if said},
            )  # fmt: skip
        except CheckpointError as error:
            self._store.refuse(release, str(error))
            name = release.checkpoint_id
            self._report("release_refused", error=type(error).__name__, detail=str(error), release=name)

    def _fetch(self, release: Release) -> Path:
        """The verified weights of a release: here already, from a delta, or whole."""
        target, waits = self._store.download_folder / release.weights_digest, Waits()
        if target.is_file() or self._rebuild(release, target):
            return target
        return self._download(release.weights_digest, release.weights_size, target, waits)

    def _lineage(self, release: Release) -> bytes | None:
        """What a release names beside its manifest; None where it holds the lineage itself."""
        return self._blob(release.lineage_digest, release.lineage_size) if release.lineage_digest else None

    def _gate(self, release: Release) -> bytes | None:
        """The gate record that a release names; None where it names none, or nobody here asks for one."""
        if release.gate is None or self._store.gate.mode == "off":
            return None
        try:
            return self._blob(
                release.gate.digest, release.gate.size, broken=(TransientBridgeError, DiskFullError, ValueError)
            )
        except (
            RejectedBridgeError,
            CorruptError,
        ) as error:  # gone or altered at the trainer: the release shows nothing
            LOG.warning("gate_record_unusable checkpoint=%s error=%s", release.checkpoint_id, error)
            return None

    def _blob(self, digest: str, size: int, broken: tuple[type[Exception], ...] = _BROKEN) -> bytes:
        """A small blob, whole: here already, or fetched now."""
        target = self._store.download_folder / digest
        if not target.is_file():
            self._download(digest, size, target, Waits(), broken)
        return target.read_bytes()

    def _rebuild(self, release: Release, target: Path) -> bool:
        """Make the weights from a delta to a checkpoint we hold; False sends for the whole file instead."""
        for delta in release.deltas:
            if delta.base_id not in self._store.held():
                continue
            part = self._download(delta.digest, delta.size, target.with_suffix(".delta"), Waits())
            try:
                base = (self._store.path(delta.base_id) / WEIGHTS_NAME).read_bytes()
                weights = apply_delta(base, part.read_bytes(), release.weights_size)
                if (found := blake3(weights).hexdigest()) != release.weights_digest:
                    raise CorruptError(f"the delta to {delta.base_id} gives {found}, not {release.weights_digest}")
                write_durably(target, weights)
            except (CorruptError, CheckpointError) as error:
                LOG.warning("delta_unusable base=%s error=%s", delta.base_id, error)
                continue
            finally:
                part.unlink()
            self._report("rebuilt_from_delta", checkpoint_id=release.checkpoint_id, base=delta.base_id, size=delta.size)
            return True
        return False

    def _download(
        self, digest: str, size: int, target: Path, waits: Waits, broken: tuple[type[Exception], ...] = _BROKEN
    ) -> Path:
        """Fetch a blob, however often the link breaks; the ranges that are there stay."""
        while True:
            download = BlobDownload(self._link, digest, size, target, stopped=self._stop.is_set)
            try:
                return download.run()
            except broken as error:
                self._broken(error)
                if self._stop.is_set():
                    raise TransientBridgeError("stopped") from error
                self._link.reconnect()
                self._stop.wait(waits.next_s())


def _named(document: SignedDocument) -> str:
    """What an unverified release claims to be, for the log."""
    try:
        return str(json.loads(document.payload)["checkpoint_id"])[:80]
    except (ValueError, KeyError, TypeError):
        return "unreadable"

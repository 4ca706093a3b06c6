"""Checkpoints out: check, store, number, sign, offer.

One class, and so a long file: all that is signed is signed here.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cloud_trainer.store.protocols import BlobStore, CheckpointRow, MetaStore, ReleaseRow
from gymnast_core.episodes.durable import sync_file
from gymnast_core.episodes.spool import file_digest
from gymnast_core.records.delta import encode_delta
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.gate_rule import GateOverride, GateSeal
from gymnast_core.records.manifest import MANIFEST_NAME, Manifest, canonical_json, read_checkpoint
from gymnast_core.records.release import EVERY_ROBOT, LINEAGE_WITHIN_BYTES, SECOND_NS, Delta, Release
from gymnast_core.records.signing import SignedDocument, SigningKey
from gymnast_core.records.weights import check_safetensors
from gymnast_core.wire.codec import MAX_MESSAGE_BYTES
from gymnast_core.wire.errors import NotFoundError, TooLargeError

LOG = logging.getLogger(__name__)
_DELTA_LIMIT = 4 << 30
_WORTH_IT = 0.7
_WATCH_PAGE = 16
_BELIEVED_S = 10.0
MOST_RELEASE_BYTES = MAX_MESSAGE_BYTES - 4096
"""A release that no message holds is not signed; one that an older version signed is passed over (fits())."""
Within = AbstractContextManager[None]
"""What a release becomes durable inside of: Trail.committing, so that it and its entry in the log are one."""


class Publisher:
    """Signs and stores releases; watchers wait here.

    Args:
        blobs: where weights go.
        meta: the catalogue.
        key: signs releases.
        staging: folder for copies under way.
        valid_s: default life of a release.
        shelves: folder of the checkpoints that the trainer keeps of a tenant and may never have published; each may
            be rolled back to.
        gate_of: (tenant, checkpoint, robots) -> the gate record that goes out with a release; None knows none.
    """

    def __init__(
        self, blobs: BlobStore, meta: MetaStore, key: SigningKey, staging: Path, *, valid_s: int,
        shelves: Callable[[str], Path] | None = None,
        gate_of: Callable[[str, str, Sequence[str]], GateRecord | None] = lambda tenant, checkpoint, robots: None,
    ) -> None:  # fmt: skip
        self._gate_of = gate_of
        self._blobs, self._meta, self._key, self._valid_s = blobs, meta, key, valid_s
        self._staging, self._shelves = staging, shelves
        self._changed = threading.Condition()
        self._newest: dict[str, tuple[float, int]] = {}
        self._passed_over: set[tuple[str, int]] = set()
        staging.mkdir(parents=True, exist_ok=True)

    def publish(
        self,
        tenant: str,
        folder: Path,
        *,
        robots: Sequence[str] = (EVERY_ROBOT,),
        valid_s: int | None = None,
        promote: bool = False,
        override: GateOverride | None = None,
        within: Within | None = None,
    ) -> tuple[Release, SignedDocument]:
        """Publish a checkpoint folder (gymnast_core.records.manifest); it is copied, the folder stays as it is.

        Args:
            tenant: the tenant it belongs to.
            folder: with weights.safetensors and manifest.json.
            robots: which robots get it; "*" is every one.
            valid_s: how long it may be installed.
            promote: these robots run it from their next episode on; else it is an offer, for a trial or a swap there.
            override: an administrator's word where the gate was not passed.
            within: entered for the moment in which checkpoint and release are registered.

        Returns:
            The release and its signed form.

        Raises:
            CheckpointError: the folder is no intact checkpoint, or its weights are no safetensors.
            IdReusedError: the id is taken by other weights.
            DiskFullError: no space.
        """
        manifest, weights = read_checkpoint(folder)
        check_safetensors(memoryview(weights))
        copy = self._staging / f"publish-{manifest.id}-{threading.get_ident()}"
        copy.write_bytes(weights)
        sync_file(copy)
        return self.publish_file(
            tenant, manifest, copy, robots=robots, valid_s=valid_s, promote=promote, override=override, within=within
        )

    def publish_file(
        self,
        tenant: str,
        manifest: Manifest,
        weights: Path,
        *,
        robots: Sequence[str],
        valid_s: int | None = None,
        promote: bool = False,
        override: GateOverride | None = None,
        within: Within | None = None,
    ) -> tuple[Release, SignedDocument]:
        """Publish a durable, checked weights file, which is consumed; see publish()."""
        row = self._stored(tenant, manifest, weights)
        kind = "promotion" if promote else "release"
        return self._release(kind, row, robots, valid_s, "", within, override)

    def _stored(self, tenant: str, manifest: Manifest, weights: Path) -> CheckpointRow:
        """Store a durable weights file, which is consumed; returns the row that is still to be registered."""
        digest, size = file_digest(weights), weights.stat().st_size
        self._blobs.put_file(weights, digest)
        return CheckpointRow(tenant, manifest.id, manifest.kind, manifest.to_bytes(), digest, size, time.time_ns())

    def take_in(self, tenant: str, manifest: Manifest, weights: Path) -> None:
        """Register a checkpoint that is offered to nobody yet; its durable weights file is consumed."""
        row = self._stored(tenant, manifest, weights)
        self._meta.prepare_checkpoint(row)
        self._meta.add_checkpoint(row)

    def rollback(
        self, tenant: str, checkpoint_id: str, *, robots: Sequence[str], reason: str, holders: Sequence[str] = (),
        within: Within | None = None, override: GateOverride | None = None,
    ) -> tuple[Release, SignedDocument]:  # fmt: skip
        """Order a tenant's robots back to a checkpoint that was published, is on the shelf, or ran on them.

        Args:
            tenant: the robots' tenant.
            checkpoint_id: what they run from their next episode on.
            robots: which; empty is every one.
            reason: travels with the order.
            holders: robots that say they hold it: without a copy here, it is for them alone, by its id.
            within: as in publish().
            override: as in publish(), for robots that it never ran on.

        Raises:
            NotFoundError: neither this trainer nor one of the robots has it.
        """
        row = self._meta.checkpoint(tenant, checkpoint_id) or self._from_shelf(tenant, checkpoint_id)
        if row is not None:
            return self._release("rollback", row, robots or (EVERY_ROBOT,), None, reason, within, override)
        named = [name for name in holders if not robots or name in robots or EVERY_ROBOT in robots]
        missing = [name for name in robots if name != EVERY_ROBOT and name not in named]
        if not named or missing:
            whom = ", ".join(missing) or "no robot that reports here"
            raise NotFoundError(
                f"checkpoint {checkpoint_id[:80]!r} was never published here, and {whom} holds it"
                f"{' not' if missing else ''}; give it to the trainer: gymnast weights publish FOLDER"
            )
        by_id = CheckpointRow(tenant, checkpoint_id, "policy", b"{}", "", 0, 0)
        return self._release("rollback", by_id, named, None, reason, within)

    def _from_shelf(self, tenant: str, checkpoint_id: str) -> CheckpointRow | None:
        """Take in a checkpoint that the trainer keeps and never published; None when there is none of this id."""
        shelf = None if self._shelves is None else self._shelves(tenant)
        if shelf is None or {"/", "\0"} & set(checkpoint_id) or not (shelf / checkpoint_id / MANIFEST_NAME).is_file():
            return None
        manifest, weights = read_checkpoint(shelf / checkpoint_id)
        copy = self._staging / f"shelf-{manifest.id}-{secrets.token_hex(8)}"
        copy.write_bytes(weights)
        sync_file(copy)
        return self._stored(tenant, manifest, copy)

    def _compact(self, manifest: dict[str, Any]) -> tuple[Mapping[str, Any], str, int]:
        """A manifest as a release holds it, with digest and size of its lineage where that is a blob of its own."""
        lineage = canonical_json(manifest.get("lineage", {}))
        if len(lineage) <= LINEAGE_WITHIN_BYTES:
            return manifest, "", 0
        return {**manifest, "lineage": {}}, self._stored_blob("lineage", lineage), len(lineage)

    def _seal(self, row: CheckpointRow, robots: Sequence[str]) -> GateSeal | None:
        """The gate record of a checkpoint as a release names it; its bytes are a blob from then on."""
        record = self._gate_of(row.tenant, row.checkpoint_id, robots) if row.kind == "policy" else None
        if record is None:
            return None
        data = record.to_bytes()
        return GateSeal(record.id, self._stored_blob("gate", data), len(data), row.tenant)

    def readable(self, signed: SignedDocument | ReleaseRow, *, gates: bool) -> SignedDocument:
        """Return a release as its reader takes it: one from before gates refuses fields that it does not know.

        Args:
            signed: as it was signed.
            gates: the reader knows gate records; else it gets the same release without, signed anew.
        """
        document = SignedDocument(signed.payload, signed.key_id, signed.signature)
        release = None if gates else Release.from_bytes(signed.payload)
        if release is None or (release.gate is None and release.override is None):
            return document
        return self._key.sign(release.ungated().to_bytes())

    def _stored_blob(self, name: str, data: bytes) -> str:
        """Store bytes durably; returns their digest."""
        copy = self._staging / f"{name}-{secrets.token_hex(8)}"
        copy.write_bytes(data)
        sync_file(copy)
        digest = file_digest(copy)
        self._blobs.put_file(copy, digest)
        return digest

    def _deltas(self, row: CheckpointRow, parents: Sequence[str]) -> Iterator[Delta]:
        """Differences to those parents that robots may hold, where they are worth it."""
        for parent in parents:
            base = self._meta.checkpoint(row.tenant, parent)
            if base is None or base.weights_size != row.weights_size or row.weights_size > _DELTA_LIMIT:
                continue
            new = self._blobs.local_path(row.weights_digest).read_bytes()
            data = encode_delta(self._blobs.local_path(base.weights_digest).read_bytes(), new)
            if data is None or len(data) > _WORTH_IT * len(new):
                continue
            yield Delta(parent, self._stored_blob("delta", data), len(data))

    def watch(self, tenant: str, after: int, wait_s: float) -> list[ReleaseRow]:
        """A tenant's next releases with a higher sequence, at most 16; waits a while for one when there is none.

        The newest sequence is known here, so that hundreds of robots that wait ask the catalogue nothing.
        """
        with self._changed:
            if after >= self._newest_of(tenant):
                self._changed.wait(wait_s)
            if after >= self._newest_of(tenant):
                return []
        return self._meta.releases(tenant, after, _WATCH_PAGE)

    def fits(self, row: ReleaseRow) -> bool:
        """Whether a message holds a release; one of an older version that is too large is named in the log, once."""
        if len(row.payload) <= MOST_RELEASE_BYTES:
            return True
        with self._changed:
            known = (row.tenant, row.sequence) in self._passed_over
            self._passed_over.add((row.tenant, row.sequence))
        if not known:
            LOG.error(
                "release_passed_over tenant=%s sequence=%d checkpoint=%s bytes=%d: no message holds it, robots never "
                "see it; offer or promote that checkpoint again", row.tenant, row.sequence, row.checkpoint_id,
                len(row.payload),
            )  # fmt: skip
        return False

    def _newest_of(self, tenant: str) -> int:
        """Sequence of a tenant's newest release; the catalogue is asked now and then, whoever else writes into it."""
        asked_s, newest = self._newest.get(tenant, (-_BELIEVED_S, 0))
        if time.monotonic() - asked_s > _BELIEVED_S:
            newest = self._meta.newest_release(tenant)
            self._newest[tenant] = (time.monotonic(), newest)
        return newest

    def wake(self) -> None:
        """Let waiting watchers look again."""
        with self._changed:
            self._changed.notify_all()

    def _released(self, tenant: str) -> None:
        with self._changed:
            self._newest.pop(tenant, None)
        self.wake()

    def _release(
        self,
        kind: Any,
        row: CheckpointRow,
        robots: Sequence[str],
        valid_s: int | None,
        reason: str,
        within: Within | None,
        override: GateOverride | None = None,
    ) -> tuple[Release, SignedDocument]:
        manifest, digest, size = self._compact(json.loads(row.manifest))
        deltas = tuple(self._deltas(row, manifest.get("parents", ())))
        now = time.time_ns()
        unnumbered = Release(
            kind=kind,
            sequence=0,
            checkpoint_id=row.checkpoint_id,
            manifest=manifest,
            weights_digest=row.weights_digest,
            weights_size=row.weights_size,
            published_ns=now,
            expires_ns=now + (valid_s or self._valid_s) * SECOND_NS,
            robots=tuple(robots),
            deltas=deltas,
            reason=reason,
            lineage_digest=digest,
            lineage_size=size,
            gate=self._seal(row, robots),
            override=override,
        )
        if (size := len(unnumbered.to_bytes())) > MOST_RELEASE_BYTES:
            raise TooLargeError(
                f"the release of {row.checkpoint_id} takes {size} bytes, a robot accepts {MOST_RELEASE_BYTES}; shorten "
                "the configuration and statistics in its manifest, or name fewer robots"
            )

        def sign(sequence: int) -> ReleaseRow:
            signed = self._key.sign(replace(unnumbered, sequence=sequence).to_bytes())
            return ReleaseRow(row.tenant, sequence, row.checkpoint_id, signed.payload, signed.key_id, signed.signature)

        if row.weights_digest:
            self._meta.prepare_checkpoint(row)
        with within or nullcontext(), self._meta.transaction():
            if row.weights_digest:
                self._meta.add_checkpoint(row)
            added = self._meta.add_release(sign)
            self._meta.after_commit(partial(self._released, row.tenant))
        LOG.info(
            "published checkpoint=%s kind=%s sequence=%d robots=%s", row.checkpoint_id, kind, added.sequence, robots
        )
        release = replace(unnumbered, sequence=added.sequence)
        return release, SignedDocument(added.payload, added.key_id, added.signature)

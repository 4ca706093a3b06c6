"""WeightsService: checkpoints come in, releases and bytes go out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import CheckpointHandlers, ImportHandlers, LogHandlers
from cloud_trainer.service.reach import BlobReach
from cloud_trainer.service.servicers.messages import (
    MOST_CHARACTERS,
    MOST_NAMES,
    bounded,
    fitting,
    page_size,
    pieces,
    reads_gates,
    signed_release,
)
from cloud_trainer.service.stopping import Stopping
from cloud_trainer.service.upload_weights import received_checkpoint
from cloud_trainer.store.protocols import BlobStore, ReleaseRow
from gymnast_core.records.hub_folder import HubOrigin
from gymnast_core.records.signing import SignedDocument
from gymnast_core.wire.codec import CHUNK_BYTES, Chunk, crc32c
from gymnast_core.wire.errors import InvalidMessageError
from gymnast_core.wire.gymnast.v1 import weights_pb2
from gymnast_core.wire.gymnast.v1.weights_pb2 import SignedRelease
from gymnast_core.wire.identity import Peer

_MOST_VALID_S = 10 * 366 * 86_400
_WATCH_S = 1.0


class WeightsServicer:
    """Checkpoints."""

    def __init__(
        self, checkpoints: CheckpointHandlers, imports: ImportHandlers, log: LogHandlers, blobs: BlobStore,
        reach: BlobReach, limits: Limits, stopping: Stopping, staging: Path,
    ) -> None:  # fmt: skip
        self._imports = imports
        self._checkpoints, self._log, self._blobs, self._reach = checkpoints, log, blobs, reach
        self._limits, self._stopping, self._staging = limits, stopping, staging

    def Publish(
        self, requests: Iterator[weights_pb2.PublishRequest], peer: Peer, context: grpc.ServicerContext
    ) -> weights_pb2.SignedRelease:
        """Receive, check and offer a checkpoint."""
        with received_checkpoint(requests, self._staging, self._limits) as (manifest, weights, opening):
            robots, valid_s = bounded("robots", opening.robots, MOST_NAMES), opening.valid_for_s
            if valid_s > _MOST_VALID_S:
                raise InvalidMessageError(f"valid_for_s {valid_s} is more than ten years, {_MOST_VALID_S} s")
            bounded("characters of a reason", opening.override_reason, MOST_CHARACTERS)
            delivered = self._checkpoints.deliver(
                peer, manifest, weights, robots=robots, valid_s=valid_s or None, override=opening.override_reason
            )
        return self._readable(delivered[1], context)

    def Import(
        self, requests: Iterator[weights_pb2.PublishRequest], peer: Peer, context: grpc.ServicerContext
    ) -> weights_pb2.ImportReply:
        """Receive and check a checkpoint from outside, and keep it."""
        with received_checkpoint(requests, self._staging, self._limits) as (manifest, weights, opening):
            origin = HubOrigin(opening.origin.name, opening.origin.card_sha256)
            known = self._imports.take_in(peer, manifest, weights, origin)
        return weights_pb2.ImportReply(checkpoint_id=manifest.id, known=known)

    def _readable(self, signed: SignedDocument | ReleaseRow, context: grpc.ServicerContext) -> SignedRelease:
        return signed_release(self._checkpoints.readable(signed, gates=reads_gates(context)))

    def Watch(
        self, request: weights_pb2.WatchRequest, peer: Peer, context: grpc.ServicerContext
    ) -> Iterator[weights_pb2.SignedRelease]:
        """Releases for this peer, old and new."""
        after = request.after_sequence
        while context.is_active():
            self._stopping.check()
            rows, after = self._checkpoints.watch(peer, after, _WATCH_S)
            for row in rows:
                yield self._readable(row, context)

    def ListReleases(
        self, request: weights_pb2.ListReleasesRequest, peer: Peer, context: grpc.ServicerContext
    ) -> weights_pb2.ListReleasesReply:
        """A page, and what robots say of its checkpoints."""
        rows = self._checkpoints.releases(peer, after=request.after_sequence, limit=page_size(request.limit))
        releases = fitting(self._readable(row, context) for row in rows)
        words = self._checkpoints.words(peer, [row.checkpoint_id for row in rows[: len(releases)]])
        return weights_pb2.ListReleasesReply(
            releases=releases, words=[weights_pb2.RobotWord(**vars(word)) for word in words]
        )

    def Fetch(self, request: weights_pb2.FetchRequest, peer: Peer, context: grpc.ServicerContext) -> Iterator[Chunk]:
        """A range of a blob that an episode, checkpoint or delta of the caller's own consists of."""
        self._reach.check(peer, request.digest)
        size = self._blobs.size(request.digest)
        end = min(size, request.offset + request.length) if request.length else size
        if request.offset > size:
            raise InvalidMessageError(f"offset {request.offset} is beyond the blob's {size} bytes")
        at = request.offset
        while at < end:
            self._stopping.check()
            data = self._blobs.read(request.digest, at, min(CHUNK_BYTES, end - at))
            yield Chunk(0, at, crc32c(data), data)
            at += len(data)

    def Rollback(
        self, request: weights_pb2.RollbackRequest, peer: Peer, context: grpc.ServicerContext
    ) -> weights_pb2.SignedRelease:
        """Order robots back."""
        robots = bounded("robots", request.robots, MOST_NAMES)
        bounded("characters of a reason", request.reason, MOST_CHARACTERS)
        bounded("characters of a reason", request.override_reason, MOST_CHARACTERS)
        signed = self._checkpoints.roll_back(
            peer, request.checkpoint_id, robots, request.reason, override=request.override_reason
        )[1]
        return self._readable(signed, context)

    def Why(
        self, request: weights_pb2.WhyRequest, peer: Peer, context: grpc.ServicerContext
    ) -> Iterator[weights_pb2.BlobChunk]:
        """Where a record comes from, as JSON in pieces: an answer about 100,000 episodes is larger than a message."""
        if request.graph:
            text = self._log.lineage_json(peer, request.record_id)
        else:
            text = json.dumps(self._log.why(peer, request.record_id, verify=request.verify), default=str)
        yield from pieces(text.encode())

"""CheckpointService: what an administrator offers and promotes."""

from __future__ import annotations

import grpc

from cloud_trainer.service.handlers import CheckpointHandlers, KnownCheckpoint
from cloud_trainer.service.servicers.messages import MOST_NAMES, bounded, fitting, page_after, signed_release
from gymnast_core.wire.gymnast.v1 import checkpoints_pb2, weights_pb2
from gymnast_core.wire.identity import Peer


class CheckpointServicer:
    """Checkpoints by id."""

    def __init__(self, checkpoints: CheckpointHandlers) -> None:
        self._checkpoints = checkpoints

    def List(
        self, request: checkpoints_pb2.ListCheckpointsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> checkpoints_pb2.ListCheckpointsReply:
        """A page, newest first."""
        rows = list(self._checkpoints.all(peer).values())
        page = page_after(rows, lambda row: row.manifest.id, request.after, request.limit)
        return checkpoints_pb2.ListCheckpointsReply(
            checkpoints=fitting(_checkpoint(row, self._checkpoints.has_won(peer, row.manifest.id)) for row in page)
        )

    def Offer(
        self, request: checkpoints_pb2.OfferRequest, peer: Peer, context: grpc.ServicerContext
    ) -> weights_pb2.SignedRelease:
        """Let robots stage it."""
        robots = bounded("robots", request.robots, MOST_NAMES)
        return signed_release(self._checkpoints.offer(peer, request.checkpoint_id, robots)[1])

    def Promote(
        self, request: checkpoints_pb2.OfferRequest, peer: Peer, context: grpc.ServicerContext
    ) -> weights_pb2.SignedRelease:
        """Have robots run it."""
        robots = bounded("robots", request.robots, MOST_NAMES)
        return signed_release(self._checkpoints.promote(peer, request.checkpoint_id, robots)[1])


def _checkpoint(known: KnownCheckpoint, won: bool) -> checkpoints_pb2.Checkpoint:
    manifest = known.manifest
    return checkpoints_pb2.Checkpoint(
        checkpoint_id=manifest.id, kind=manifest.kind, architecture=manifest.architecture, parents=manifest.parents,
        bytes=known.bytes, since_ns=known.since_ns, published=bool(known.digest), won=won,
    )  # fmt: skip

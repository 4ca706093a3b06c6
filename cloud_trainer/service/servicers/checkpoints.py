"""CheckpointService: what an administrator offers and promotes."""

from __future__ import annotations

import grpc

from cloud_trainer.service.handlers import CheckpointHandlers, GateHandlers, KnownCheckpoint
from cloud_trainer.service.servicers.messages import (
    MOST_CHARACTERS,
    MOST_NAMES,
    bounded,
    fitting,
    page_after,
    reads_gates,
    signed_release,
)
from gymnast_core.wire.gymnast.v1 import checkpoints_pb2, weights_pb2
from gymnast_core.wire.identity import Peer


class CheckpointServicer:
    """Checkpoints by id."""

    def __init__(self, checkpoints: CheckpointHandlers, gates: GateHandlers) -> None:
        self._checkpoints, self._gates = checkpoints, gates

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
        reason = _reason(request)
        signed = self._checkpoints.offer(peer, request.checkpoint_id, robots, override=reason)[1]
        return signed_release(self._checkpoints.readable(signed, gates=reads_gates(context)))

    def Promote(
        self, request: checkpoints_pb2.OfferRequest, peer: Peer, context: grpc.ServicerContext
    ) -> weights_pb2.SignedRelease:
        """Have robots run it."""
        robots = bounded("robots", request.robots, MOST_NAMES)
        reason = _reason(request)
        signed = self._checkpoints.promote(peer, request.checkpoint_id, robots, override=reason)[1]
        return signed_release(self._checkpoints.readable(signed, gates=reads_gates(context)))

    def Gate(
        self, request: checkpoints_pb2.GateRequest, peer: Peer, context: grpc.ServicerContext
    ) -> checkpoints_pb2.GateReply:
        """Begin the gates that are missing, and offer it where that is asked for."""
        robots = bounded("robots", request.robots, MOST_NAMES)
        if not request.offer:
            begun, signed = self._gates.begin(peer, request.checkpoint_id, robots), None
        else:
            begun, signed = self._gates.offer(peer, request.checkpoint_id, robots)
        release = None if signed is None else self._checkpoints.readable(signed[1], gates=reads_gates(context))
        return checkpoints_pb2.GateReply(
            jobs=[checkpoints_pb2.GateJob(**vars(one)) for one in begun],
            release=None if release is None else signed_release(release),
        )

    def Gates(
        self, request: checkpoints_pb2.GatesRequest, peer: Peer, context: grpc.ServicerContext
    ) -> checkpoints_pb2.GatesReply:
        """The newest records of a checkpoint that a message holds, oldest first."""
        newest = fitting(
            checkpoints_pb2.GateFound(record_id=record.id, record_json=record.to_bytes().decode())
            for record in reversed(self._gates.of(peer, request.checkpoint_id))
        )
        return checkpoints_pb2.GatesReply(records=reversed(newest))


def _reason(request: checkpoints_pb2.OfferRequest) -> str:
    bounded("characters of a reason", request.override_reason, MOST_CHARACTERS)
    return request.override_reason


def _checkpoint(known: KnownCheckpoint, won: bool) -> checkpoints_pb2.Checkpoint:
    manifest = known.manifest
    return checkpoints_pb2.Checkpoint(
        checkpoint_id=manifest.id, kind=manifest.kind, architecture=manifest.architecture, parents=manifest.parents,
        bytes=known.bytes, since_ns=known.since_ns, published=bool(known.digest), won=won,
    )  # fmt: skip

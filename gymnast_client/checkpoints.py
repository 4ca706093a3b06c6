"""Checkpoints: published, offered, promoted, taken back, fetched; and where they come from."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_client.checkpoint_upload import upload_checkpoint
from gymnast_client.client import Client, same_fields
from gymnast_client.download import BlobDownload
from gymnast_client.reading import read_object
from gymnast_core.json_values import JsonObject
from gymnast_core.records.gate_record import GateRecord, GateRun
from gymnast_core.records.manifest import Manifest
from gymnast_core.records.release import Release
from gymnast_core.records.signing import SignedDocument
from gymnast_core.wire.gymnast.v1 import checkpoints_pb2, checkpoints_pb2_grpc, weights_pb2, weights_pb2_grpc

if TYPE_CHECKING:  # what it takes along, few clients need
    from gymnast_core.records.hub_folder import HubOrigin

_WHY_DEADLINE_S = 120.0
_OFFER_DEADLINE_S = 120.0
_FIELDS = ("checkpoint_id", "kind", "architecture", "parents", "bytes", "since_ns", "published", "won")
_WORD = ("robot", "checkpoint_id", "word", "reason", "release", "at_ns")


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint that the trainer has.

    Attributes:
        checkpoint_id: never reused.
        kind: policy, world_model or judge.
        architecture: what reads it.
        parents: ids of what it was trained from.
        bytes: of its weights.
        since_ns: the trainer's wall clock, when it came to be known.
        published: robots may have been offered it.
        won: a trial that says it may be promoted.
    """

    checkpoint_id: str
    kind: str
    architecture: str
    parents: tuple[str, ...]
    bytes: int
    since_ns: int
    published: bool
    won: bool


@dataclass(frozen=True)
class RobotWord:
    """What a robot said of a checkpoint.

    Attributes:
        robot: its name.
        checkpoint_id: about which.
        word: runs, ran or refused.
        reason: of a refusal.
        release: the promotion or rollback it acted on; 0 for none.
        at_ns: the trainer's wall clock, when it was heard first.
    """

    robot: str
    checkpoint_id: str
    word: str
    reason: str
    release: int
    at_ns: int


class CheckpointsClient(Client):
    """Checkpoints. Releases are signed; whoever acts on one verifies it (Identity.trusted_keys)."""

    def list(self) -> Iterator[CheckpointView]:
        """Every checkpoint of the trainer, newest first."""
        rows = self._rows(
            lambda channel: checkpoints_pb2_grpc.CheckpointServiceStub(channel).List,
            lambda after: checkpoints_pb2.ListCheckpointsRequest(after=after),
            lambda reply: reply.checkpoints,
            lambda row: row.checkpoint_id,
        )
        return (CheckpointView(**same_fields(row, _FIELDS)) for row in rows)

    def offer(self, checkpoint_id: str, robots: Sequence[str] = (), *, override_reason: str = "") -> SignedDocument:
        """Let robots stage a checkpoint, for a trial; no name is every robot.

        Args:
            checkpoint_id: of the policy.
            robots: their names.
            override_reason: why it goes out although a robot asks for a gate record that it has not (admin); it is
                signed with the caller's name, and shown wherever the checkpoint runs.

        Raises:
            NotPossibleError: it is unknown or no policy, or a robot is.
            NotTrustedError: something it was made from was withdrawn, or a gate record is missing; see gate().
        """
        request = checkpoints_pb2.OfferRequest(
            checkpoint_id=checkpoint_id, robots=list(robots), override_reason=override_reason
        )
        return signed_document(
            self._link.once(
                lambda channel: checkpoints_pb2_grpc.CheckpointServiceStub(channel).Offer,
                request,
                timeout_s=_OFFER_DEADLINE_S,
            )
        )

    def promote(self, checkpoint_id: str, robots: Sequence[str] = (), *, override_reason: str = "") -> SignedDocument:
        """Have robots run a checkpoint that has won its trial, from their next episode on; as offer().

        Raises:
            NotTrustedError: also where it has not won.
        """
        request = checkpoints_pb2.OfferRequest(
            checkpoint_id=checkpoint_id, robots=list(robots), override_reason=override_reason
        )
        return signed_document(
            self._link.once(
                lambda channel: checkpoints_pb2_grpc.CheckpointServiceStub(channel).Promote,
                request,
                timeout_s=_OFFER_DEADLINE_S,
            )
        )

    def gate(self, checkpoint_id: str, robots: Sequence[str] = ()) -> builtins.list[GateRun]:
        """Gate a checkpoint against what robots run, where these ask for a record that it has not.

        Args:
            checkpoint_id: of the policy.
            robots: their names; none is every one that reports.

        Returns:
            The jobs, to be followed with JobsClient; none where every robot would take it in.

        Raises:
            NotPossibleError: it, or what a robot runs, is not known to the trainer, or is no policy.
        """
        return self._gate(checkpoint_id, robots, offer=False)[0]

    def gate_and_offer(
        self, checkpoint_id: str, robots: Sequence[str] = ()
    ) -> tuple[builtins.list[GateRun], SignedDocument | None]:
        """Offer a checkpoint to robots, at once or when it has passed the gate that a robot asks for.

        Returns:
            The gates that were begun, as gate() does, and the release to those robots that wait for none.

        Raises:
            GymnastError: as gate() and offer().
        """
        return self._gate(checkpoint_id, robots, offer=True)

    def _gate(
        self, checkpoint_id: str, robots: Sequence[str], *, offer: bool
    ) -> tuple[builtins.list[GateRun], SignedDocument | None]:
        request = checkpoints_pb2.GateRequest(checkpoint_id=checkpoint_id, robots=list(robots), offer=offer)
        reply = self._link.once(
            lambda channel: checkpoints_pb2_grpc.CheckpointServiceStub(channel).Gate,
            request,
            timeout_s=_OFFER_DEADLINE_S,
        )
        begun = [GateRun(one.job_id, one.incumbent, tuple(one.robots)) for one in reply.jobs]
        return begun, signed_document(reply.release) if reply.HasField("release") else None

    def gates(self, checkpoint_id: str) -> builtins.list[GateRecord]:
        """What gates found of a checkpoint, oldest first."""
        request = checkpoints_pb2.GatesRequest(checkpoint_id=checkpoint_id)
        reply = self._link.call(lambda channel: checkpoints_pb2_grpc.CheckpointServiceStub(channel).Gates, request)
        return [GateRecord.from_bytes(one.record_json.encode()) for one in reply.records]

    def publish(
        self, folder: Path, *, robots: Sequence[str] = (), valid_for_s: int = 0, override_reason: str = ""
    ) -> SignedDocument:
        """Upload a checkpoint folder and have it signed and offered.

        Raises:
            CheckpointError: the folder is no intact checkpoint.
            NotTrustedError: a robot asks for a gate record that it has not: it is at the trainer now, see gate().
            RejectedBridgeError: the trainer refused it.
        """
        opening = weights_pb2.PublishOpen(robots=list(robots), valid_for_s=valid_for_s, override_reason=override_reason)
        return signed_document(
            upload_checkpoint(
                self._link, lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).Publish, folder, opening
            )
        )

    def import_checkpoint(self, folder: Path, origin: HubOrigin) -> bool:
        """Have the trainer take in a checkpoint folder from outside (admin); it is offered to no robot.

        Args:
            folder: with weights.safetensors and manifest.json; see gymnast_core.records.hub_folder.
            origin: where it came from.

        Returns:
            Whether the trainer knew it already; what it has recorded of it stays then.

        Raises:
            CheckpointError: the folder is no intact checkpoint.
            NotPermittedError: the caller is no administrator.
            RejectedBridgeError: the trainer refused it, e.g. as it contradicts what is recorded there.
        """
        opening = weights_pb2.PublishOpen(origin=weights_pb2.Origin(name=origin.name, card_sha256=origin.card_sha256))
        reply = upload_checkpoint(
            self._link, lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).Import, folder, opening
        )
        return bool(reply.known)

    def releases(self, after: int = 0, limit: int = 100) -> builtins.list[SignedDocument]:
        """A page, in order; not verified yet."""
        return self.releases_and_words(after, limit)[0]

    def releases_and_words(
        self, after: int = 0, limit: int = 100
    ) -> tuple[builtins.list[SignedDocument], builtins.list[RobotWord]]:
        """A page, and what robots said of its checkpoints."""
        request = weights_pb2.ListReleasesRequest(after_sequence=after, limit=limit)
        reply = self._link.call(lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).ListReleases, request)
        return [signed_document(release) for release in reply.releases], [robot_word(word) for word in reply.words]

    def roll_back(
        self, checkpoint_id: str, *, robots: Sequence[str] = (), reason: str, override_reason: str = ""
    ) -> SignedDocument:
        """Order robots back to an earlier checkpoint; one that never ran there needs a gate record, or an override."""
        request = weights_pb2.RollbackRequest(
            checkpoint_id=checkpoint_id, robots=list(robots), reason=reason, override_reason=override_reason
        )
        return signed_document(
            self._link.call(lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).Rollback, request)
        )

    def why(self, record_id: str, *, verify: bool = False) -> JsonObject:
        """Where a checkpoint comes from.

        Args:
            record_id: usually a checkpoint.
            verify: have every hash of the chain recomputed.

        Raises:
            NotFoundError: the trainer has no record of it.
            CorruptError: the answer was damaged on the way.
        """
        answer = self._why(weights_pb2.WhyRequest(record_id=record_id, verify=verify))
        return read_object(answer.decode(errors="replace"), f"where {record_id} comes from")

    def lineage_json(self, record_id: str) -> bytes:
        """Everything above a checkpoint as JSON: {nodes: [{id, kind, payload}], edges: [[child, role, parent]]}.

        Raises:
            NotFoundError: the trainer has no record of it.
            CorruptError: the answer was damaged on the way.
        """
        return self._why(weights_pb2.WhyRequest(record_id=record_id, graph=True))

    def _why(self, request: weights_pb2.WhyRequest) -> bytes:
        return self._link.pieces(
            lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).Why,
            request,
            str(request.record_id),
            timeout_s=_WHY_DEADLINE_S,
        )

    def fetch(self, release: Release, into: Path) -> Path:
        """Download the weights of a release, verified by their digest."""
        return BlobDownload(self._link, release.weights_digest, release.weights_size, into).run()

    def manifest(self, release: Release, beside: Path) -> Manifest:
        """Return the whole manifest of a release; a long lineage is fetched by its digest.

        Args:
            release: whose signature was verified.
            beside: a file that is written for as long as the lineage is on its way.

        Raises:
            CheckpointError: it is not the manifest of this checkpoint.
        """
        if not release.lineage_digest:
            return release.whole_manifest()
        path = BlobDownload(self._link, release.lineage_digest, release.lineage_size, beside).run()
        lineage = path.read_bytes()
        path.unlink()
        return release.whole_manifest(lineage)


def signed_document(message: weights_pb2.SignedRelease) -> SignedDocument:
    """A SignedRelease message as a document."""
    return SignedDocument(bytes(message.payload), str(message.key_id), bytes(message.signature))


def robot_word(message: weights_pb2.RobotWord) -> RobotWord:
    """A RobotWord message as a view."""
    return RobotWord(**same_fields(message, _WORD))

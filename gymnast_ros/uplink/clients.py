"""What people and programs ask of the trainer: jobs, episodes, checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from gymnast_core.errors import CorruptError, RejectedBridgeError, TransientBridgeError
from gymnast_core.job import JobEvent, JobView
from gymnast_core.records.manifest import read_checkpoint
from gymnast_core.records.signing import SignedDocument
from gymnast_core.types import Outcome
from gymnast_core.wire.codec import CHUNK_BYTES, crc32c
from gymnast_core.wire.errors import NotFoundError
from gymnast_core.wire.gymnast.v1 import (
    jobs_pb2,
    jobs_pb2_grpc,
    trajectories_pb2,
    trajectories_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
)
from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink.download import BlobDownload
from gymnast_ros.uplink.link import Backoff, Link

_PUBLISH_DEADLINE_S = 3600.0
_EVENTS_DEADLINE_S = 300.0
_WHY_DEADLINE_S = 120.0


@dataclass(frozen=True)
class EpisodeView:
    """An episode as the trainer's catalogue has it; digest and policy_version are empty while its trial is blinded."""

    sequence: int
    episode_id: str
    robot: str
    digest: str
    size: int
    state: str
    reason: str
    instruction: str
    outcome: str
    labelled_by: str
    steps: int
    policy_version: str
    metadata: Mapping[str, Any]
    received_ns: int


@dataclass(frozen=True)
class MadeFrom:
    """Something an episode went into: a label, data set, checkpoint, ..."""

    id: str
    kind: str


class Client:
    """Owns a link."""

    def __init__(self, address: str, identity: Path | Identity | None, *, insecure: bool = False) -> None:
        self._link = Link(address, identity, insecure=insecure)

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def __enter__(self) -> Any:
        """Use as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.close()


class JobsClient(Client):
    """Jobs.

    Args:
        address: host:port of the trainer.
        identity: identity folder.
        insecure: no TLS.
    """

    def submit(self, kind: str, spec: Mapping[str, Any], key: str) -> JobView:
        """Ask for work; the same key gives the same job, so this may be repeated.

        Raises:
            IdReusedError: the key was used for something else.
        """
        request = jobs_pb2.SubmitRequest(kind=kind, spec_json=json.dumps(dict(spec)), idempotency_key=key)
        return _job(self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Submit, request))

    def get(self, job_id: str) -> JobView:
        """One job."""
        request = jobs_pb2.JobId(job_id=job_id)
        return _job(self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Get, request))

    def list(self, limit: int = 100, state: str = "") -> list[JobView]:
        """Newest first."""
        request = jobs_pb2.ListJobsRequest(limit=limit, state=state)
        reply = self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).List, request)
        return [_job(job) for job in reply.jobs]

    def cancel(self, job_id: str) -> JobView:
        """Stop it."""
        request = jobs_pb2.JobId(job_id=job_id)
        return _job(self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Cancel, request))

    def watch(self, job_id: str, after: int = 0, *, patience_s: float = 60.0) -> Iterator[JobEvent]:
        """Every event once, in order, until the job has ended; goes on across broken links and restarts.

        Args:
            job_id: which.
            after: sequence of the last event already seen.
            patience_s: give up after being without a trainer for so long.

        Raises:
            RejectedBridgeError: no such job.
            TransientBridgeError: the trainer stayed away.
        """
        backoff, away_since = Backoff(), time.monotonic()
        while True:
            request = jobs_pb2.EventsRequest(job_id=job_id, after_sequence=after)
            try:
                stub = jobs_pb2_grpc.JobServiceStub(self._link.channel())
                for event in stub.Events(request, timeout=_EVENTS_DEADLINE_S):
                    after, away_since = event.sequence, time.monotonic()
                    backoff.reset()
                    yield JobEvent(event.sequence, event.time_ns, event.kind, json.loads(event.data_json))
            except grpc.RpcError as failure:
                error = self._link.failure(failure)
                if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # a job may be silent for long; asked again
                    away_since = time.monotonic()
                    continue
                if isinstance(error, RejectedBridgeError) or time.monotonic() - away_since > patience_s:
                    raise error from failure
                self._link.reconnect()
                time.sleep(backoff.next_s())
                continue
            return

    def wait(self, job_id: str) -> JobView:
        """Follow a job to its end."""
        for _ in self.watch(job_id):
            continue
        return self.get(job_id)

    def claim(self, kinds: Sequence[str] = (), lease_s: int = 60) -> JobView | None:
        """For a trainer in another process: take the oldest waiting job."""
        request = jobs_pb2.ClaimRequest(kinds=list(kinds), lease_s=lease_s)
        job = self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Claim, request)
        return _job(job) if job.job_id else None

    def report(
        self,
        job_id: str,
        events: Sequence[tuple[str, Mapping[str, Any]]] = (),
        *,
        state: str = "",
        result: Mapping[str, Any] | None = None,
        error: str = "",
    ) -> JobView:
        """For a trainer in another process: tell events, keep the claim, end the job; a repeat tells events twice."""
        told = [jobs_pb2.JobEvent(kind=kind, data_json=json.dumps(dict(data))) for kind, data in events]
        request = jobs_pb2.ReportRequest(
            job_id=job_id, events=told, state=state, result_json=json.dumps(dict(result or {})), error=error
        )
        return _job(self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Report, request))


class EpisodesClient(Client):
    """The catalogue of episodes."""

    def list(self, *, after: int = 0, limit: int = 500, state: str = "", robot: str = "") -> list[EpisodeView]:
        """A page in order of arrival."""
        request = trajectories_pb2.ListEpisodesRequest(after_sequence=after, limit=limit, state=state, robot=robot)
        reply = self._link.call(
            lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).ListEpisodes, request
        )
        return [_episode(episode) for episode in reply.episodes]

    def get(self, episode_id: str) -> EpisodeView:
        """One episode.

        Raises:
            NotFoundError: no such episode.
        """
        request = trajectories_pb2.ListEpisodesRequest(episode_id=episode_id)
        reply = self._link.call(
            lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).ListEpisodes, request
        )
        if not reply.episodes:
            raise NotFoundError(f"the trainer has no episode {episode_id!r}; see `gymnast episodes list`")
        return _episode(reply.episodes[0])

    def label(self, episode_id: str, outcome: Outcome) -> EpisodeView:
        """Set or correct a label; our certificate says who did."""
        request = trajectories_pb2.LabelEpisodeRequest(episode_id=episode_id, outcome=outcome.value)
        return _episode(
            self._link.call(lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).LabelEpisode, request)
        )

    def retract(self, episode_id: str, reason: str) -> Sequence[MadeFrom]:
        """Withdraw one; our certificate says who did. Returns everything that was made from it, oldest first.

        Raises:
            NotFoundError: no such episode.
        """
        request = trajectories_pb2.RetractEpisodeRequest(episode_id=episode_id, reason=reason)
        reply = self._link.call(
            lambda channel: trajectories_pb2_grpc.TrajectoryServiceStub(channel).RetractEpisode, request
        )
        return [MadeFrom(node.id, node.kind) for node in reply.touched]

    def fetch(self, episode: EpisodeView, into: Path) -> Path:
        """Download the file of an episode, verified by its digest.

        Raises:
            TransientBridgeError: it is a run of a trial that is not decided, and the file names who acted.
        """
        if not episode.digest:
            raise TransientBridgeError(
                f"{episode.episode_id} is a run of a blinded trial, and its file names who acted; ask again when the "
                "trial is decided: gymnast operate evaluations"
            )
        return BlobDownload(self._link, episode.digest, episode.size, into).run()


class WeightsClient(Client):
    """Checkpoints, from the publisher's side."""

    def publish(self, folder: Path, *, robots: Sequence[str] = (), valid_for_s: int = 0) -> SignedDocument:
        """Upload a checkpoint folder and have it signed and offered.

        Raises:
            CheckpointError: the folder is no intact checkpoint.
            RejectedBridgeError: the trainer refused it.
        """
        manifest, weights = read_checkpoint(folder)
        opening = weights_pb2.PublishOpen(manifest=manifest.to_bytes(), robots=list(robots), valid_for_s=valid_for_s)

        def requests() -> Iterator[weights_pb2.PublishRequest]:
            yield weights_pb2.PublishRequest(open=opening)
            for at in range(0, len(weights), CHUNK_BYTES):
                data = weights[at : at + CHUNK_BYTES]
                chunk = weights_pb2.BlobChunk(offset=at, crc32c=crc32c(data), data=data)
                yield weights_pb2.PublishRequest(chunk=chunk)

        stub = weights_pb2_grpc.WeightsServiceStub(self._link.channel())
        try:
            return signed_document(stub.Publish(requests(), timeout=_PUBLISH_DEADLINE_S))
        except grpc.RpcError as failure:
            raise self._link.failure(failure) from failure

    def releases(self, after: int = 0, limit: int = 100) -> list[SignedDocument]:
        """A page, in order; not verified yet."""
        return self.releases_and_words(after, limit)[0]

    def releases_and_words(self, after: int = 0, limit: int = 100) -> tuple[list[SignedDocument], list[dict[str, Any]]]:
        """A page, and what robots said of its checkpoints: {robot, checkpoint_id, word, reason, release, at_ns}."""
        request = weights_pb2.ListReleasesRequest(after_sequence=after, limit=limit)
        reply = self._link.call(lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).ListReleases, request)
        names = [field.name for field in weights_pb2.RobotWord.DESCRIPTOR.fields]
        words = [{name: getattr(word, name) for name in names} for word in reply.words]
        return [signed_document(release) for release in reply.releases], words

    def rollback(self, checkpoint_id: str, *, robots: Sequence[str] = (), reason: str = "") -> SignedDocument:
        """Order robots back to an earlier checkpoint."""
        request = weights_pb2.RollbackRequest(checkpoint_id=checkpoint_id, robots=list(robots), reason=reason)
        return signed_document(
            self._link.call(lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).Rollback, request)
        )

    def why(self, record_id: str, *, verify: bool = False) -> dict[str, Any]:
        """Where a checkpoint comes from.

        Args:
            record_id: usually a checkpoint.
            verify: have every hash of the chain recomputed.

        Raises:
            NotFoundError: the trainer has no record of it.
            CorruptError: the answer was damaged on the way.
        """
        return dict(json.loads(self._why(weights_pb2.WhyRequest(record_id=record_id, verify=verify))))

    def lineage_json(self, record_id: str) -> bytes:
        """Everything above a checkpoint as JSON: {nodes: [{id, kind, payload}], edges: [[child, role, parent]]}.

        Raises:
            NotFoundError: the trainer has no record of it.
            CorruptError: the answer was damaged on the way.
        """
        return self._why(weights_pb2.WhyRequest(record_id=record_id, graph=True))

    def _why(self, request: Any) -> bytes:
        stub, text = weights_pb2_grpc.WeightsServiceStub(self._link.channel()), bytearray()
        try:
            for chunk in stub.Why(request, timeout=_WHY_DEADLINE_S):
                if chunk.offset != len(text) or crc32c(chunk.data) != chunk.crc32c:
                    raise CorruptError(
                        f"the answer about {request.record_id} is damaged at byte {len(text)}; ask again"
                    )
                text += chunk.data
        except grpc.RpcError as failure:
            raise self._link.failure(failure) from failure
        return bytes(text)


def signed_document(message: Any) -> SignedDocument:
    """A SignedRelease message as a document."""
    return SignedDocument(bytes(message.payload), str(message.key_id), bytes(message.signature))


def _job(message: Any) -> JobView:
    return JobView(
        job_id=message.job_id,
        kind=message.kind,
        spec=json.loads(message.spec_json or "{}"),
        state=message.state,
        submitted_by=message.submitted_by,
        result=json.loads(message.result_json or "{}"),
        error=message.error,
        cancel_requested=message.cancel_requested,
        created_ns=message.created_ns,
        last_event=message.last_event,
    )


def _episode(message: Any) -> EpisodeView:
    names = [name for name in EpisodeView.__dataclass_fields__ if name != "metadata"]
    fields = {name: getattr(message, name) for name in names}
    return EpisodeView(**fields, metadata=json.loads(message.metadata_json or "{}"))

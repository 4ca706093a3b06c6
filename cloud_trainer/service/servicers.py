"""gRPC in and out: messages to calls, errors to status codes, and nothing else."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from cloud_trainer.records.trail import Trails, overrides_in
from cloud_trainer.service.config import Limits
from cloud_trainer.service.ingest import Ingest
from cloud_trainer.service.publish import Publisher
from cloud_trainer.service.reach import BlobReach
from cloud_trainer.service.robots import RobotBoard
from cloud_trainer.service.session import UploadSession
from cloud_trainer.service.upload_weights import receive_checkpoint
from cloud_trainer.service.words import RobotWords
from cloud_trainer.store.protocols import (
    BlobStore,
    EpisodeRow,
    JobEnd,
    JobRow,
    MetaStore,
    ReleaseRow,
    new_job_id,
)
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.bounds import parsed_object
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.job import FINAL_STATES, JobEvent
from gymnast_core.records.signing import EVERY_ROBOT
from gymnast_core.types import Outcome
from gymnast_core.wire.codec import CHUNK_BYTES, Chunk, crc32c
from gymnast_core.wire.errors import (
    BusyError,
    IdleStreamError,
    InvalidMessageError,
    NotFoundError,
    NotPermittedError,
    QuotaError,
    TooLargeError,
)
from gymnast_core.wire.gymnast.v1 import jobs_pb2, trajectories_pb2, weights_pb2
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)
_POLL_S = 0.2
_DRAIN_S = 20.0
_PAGE = 500
_PAGE_BYTES = 1 << 20
_BACKLOG = 256
_MOST_NAMES = 1000
_MOST_EVENTS = 1000
_MOST_VALID_S = 10 * 366 * 86_400
_MOST_CHARACTERS = 2000
_Message = TypeVar("_Message", bound=Message)


def json_field(text: str, limits: Limits) -> dict[str, Any]:
    """Parse a JSON object of a message.

    Raises:
        TooLargeError: longer than the limit.
        InvalidMessageError: no JSON object.
    """
    if len(text) > limits.json_bytes:
        raise TooLargeError(f"a JSON document of {len(text)} characters; at most {limits.json_bytes} are accepted")
    try:
        return parsed_object(text or "{}", "a JSON document", limits.json_bytes)
    except CorruptError as error:
        raise InvalidMessageError(str(error)) from error


def bounded(what: str, values: Sequence[Any], most: int) -> list[Any]:
    """Return the values of a repeated field, or characters of a text, before anything is done with them.

    Raises:
        TooLargeError: more than so many.
    """
    if len(values) > most:
        raise TooLargeError(f"{len(values)} {what}; at most {most} are accepted in one message")
    return list(values)


class Stopping:
    """Notifies long calls that the service is going down."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Begin to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise BusyError once the service is stopping."""
        if self._event.is_set():
            raise BusyError("the service is stopping; connect again later")


class TrajectoryServicer:
    """Episodes."""

    def __init__(
        self, ingest: Ingest, meta: MetaStore, trails: Trails, limits: Limits, stopping: Stopping,
        blinded: Callable[[EpisodeRow], bool],
    ) -> None:  # fmt: skip
        self._blinded = blinded
        self._ingest, self._meta, self._limits, self._stopping = ingest, meta, limits, stopping
        self._trails = trails

    def Upload(self, requests: Iterator[Any], peer: Peer, context: Any) -> Iterator[trajectories_pb2.UploadReply]:
        """A reader thread feeds the session; this generator sends what it answers."""
        self._stopping.check()
        replies: queue.SimpleQueue[trajectories_pb2.UploadReply | GymnastError | None] = queue.SimpleQueue()
        session = UploadSession(self._ingest, peer, replies.put)
        reader = threading.Thread(target=self._read, args=(requests, session, replies, context), daemon=True)
        reader.start()  # it ends with the call, whose messages it reads
        yield from self._answer(session, replies)

    def _shown(self, row: EpisodeRow) -> trajectories_pb2.Episode:
        """Without its policy, and without the address of its file, which names it, until its trial is decided."""
        return _episode(replace(row, policy_version="", digest="") if self._blinded(row) else row)

    def _read(self, requests: Iterator[Any], session: UploadSession, replies: Any, context: Any) -> None:
        try:
            for request in requests:
                if not self._has_room(replies, context):
                    context.cancel()  # which also frees the thread that waits to send
                    return
                session.handle(request)
        except GymnastError as error:
            replies.put(error)
        except Exception as error:  # noqa: BLE001  # gRPC's own, when the peer goes away
            LOG.info("upload_stream_ended reason=%s", type(error).__name__)
        finally:
            session.finish(_DRAIN_S)
            replies.put(None)

    def _has_room(self, replies: Any, context: Any) -> bool:
        """Wait for a peer that does not read what it is answered; False when it has not for too long."""
        until = time.monotonic() + self._limits.idle_stream_s
        while replies.qsize() > _BACKLOG:
            if time.monotonic() > until or not context.is_active():
                return False
            time.sleep(_POLL_S / 10)
        return True

    def _answer(self, session: UploadSession, replies: Any) -> Iterator[trajectories_pb2.UploadReply]:
        while True:
            try:
                reply = replies.get(timeout=1.0)
            except queue.Empty:
                self._stopping.check()
                if time.monotonic() - session.last_message > self._limits.idle_stream_s:
                    idle_s = self._limits.idle_stream_s
                    raise IdleStreamError(f"nothing came for {idle_s} s; open the stream again") from None
                continue
            if reply is None:
                return
            if isinstance(reply, GymnastError):
                raise reply
            yield reply

    def ListEpisodes(self, request: Any, peer: Peer, context: Any) -> trajectories_pb2.ListEpisodesReply:
        """A page, or the one that is named."""
        if request.episode_id:
            found = self._meta.episode(peer.tenant, request.episode_id)
            return trajectories_pb2.ListEpisodesReply(episodes=[self._shown(found)] if found else [])
        rows = self._meta.episodes(
            peer.tenant,
            after=request.after_sequence,
            limit=min(request.limit or _PAGE, _PAGE),
            states=[request.state] if request.state else None,
            robot=request.robot or None,
        )
        return trajectories_pb2.ListEpisodesReply(episodes=_fitting(self._shown(row) for row in rows))

    def LabelEpisode(self, request: Any, peer: Peer, context: Any) -> trajectories_pb2.Episode:
        """Set a label; who gave it comes from the certificate."""
        try:
            outcome = Outcome(request.outcome)
        except ValueError as error:
            raise InvalidMessageError(
                f"outcome {request.outcome[:40]!r} is none of {[o.value for o in Outcome]}"
            ) from error
        return self._shown(self._trails.of(peer.tenant).label(peer, request.episode_id, outcome))

    def RetractEpisode(self, request: Any, peer: Peer, context: Any) -> trajectories_pb2.RetractEpisodeReply:
        """Withdraw one; who did comes from the certificate."""
        bounded("characters of a reason", request.reason, _MOST_CHARACTERS)
        touched = self._trails.of(peer.tenant).retract(peer, request.episode_id, request.reason)
        made = [trajectories_pb2.MadeFrom(id=node.id, kind=node.kind) for node in touched]
        return trajectories_pb2.RetractEpisodeReply(touched=made)


class WeightsServicer:
    """Checkpoints."""

    def __init__(
        self,
        publisher: Publisher,
        meta: MetaStore,
        blobs: BlobStore,
        trails: Trails,
        limits: Limits,
        stopping: Stopping,
        staging: Path,
        robots: RobotBoard,
        words: RobotWords,
    ) -> None:
        self._robots, self._words = robots, words
        self._publisher, self._meta, self._blobs, self._trails = publisher, meta, blobs, trails
        self._reach = BlobReach(meta)
        self._limits, self._stopping, self._staging = limits, stopping, staging

    def Publish(self, requests: Iterator[Any], peer: Peer, context: Any) -> weights_pb2.SignedRelease:
        """Receive, check and offer a checkpoint."""
        manifest, weights, opening = receive_checkpoint(requests, self._staging, self._limits)
        robots = tuple(bounded("robots", opening.robots, _MOST_NAMES)) or (EVERY_ROBOT,)
        if opening.valid_for_s > _MOST_VALID_S:
            raise InvalidMessageError(f"valid_for_s {opening.valid_for_s} is more than ten years, {_MOST_VALID_S} s")
        valid_s = opening.valid_for_s or None
        asked = {"checkpoint": manifest.id, "robots": list(robots)}
        _, signed = self._publisher.publish_file(
            peer.tenant, manifest, weights, robots=robots, valid_s=valid_s,
            within=self._trails.of(peer.tenant).committing(peer, "publish", asked),
        )  # fmt: skip
        return weights_pb2.SignedRelease(payload=signed.payload, key_id=signed.key_id, signature=signed.signature)

    def Watch(self, request: Any, peer: Peer, context: Any) -> Iterator[weights_pb2.SignedRelease]:
        """Releases for this peer, old and new."""
        after = request.after_sequence
        while context.is_active():
            self._stopping.check()
            for row in self._publisher.watch(peer.tenant, after, 1.0):
                after = row.sequence
                if _for_peer(row, peer):
                    yield _release(row)

    def ListReleases(self, request: Any, peer: Peer, context: Any) -> weights_pb2.ListReleasesReply:
        """A page."""
        rows = self._meta.releases(peer.tenant, request.after_sequence, min(request.limit or _PAGE, _PAGE))
        mine = [row for row in rows if _for_peer(row, peer)]
        releases = _fitting(_release(row) for row in mine)
        names = [row.checkpoint_id for row in mine[: len(releases)]]
        own = peer.name if peer.role == "robot" else ""
        words = self._words.of(peer.tenant, robot=own, checkpoint_ids=names)
        return weights_pb2.ListReleasesReply(
            releases=releases, words=[weights_pb2.RobotWord(**vars(word)) for word in words]
        )

    def Fetch(self, request: Any, peer: Peer, context: Any) -> Iterator[Chunk]:
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

    def Rollback(self, request: Any, peer: Peer, context: Any) -> weights_pb2.SignedRelease:
        """Order robots back."""
        bounded("robots", request.robots, _MOST_NAMES)
        bounded("characters of a reason", request.reason, _MOST_CHARACTERS)
        reason = f"{request.reason} (by {peer.name})"
        robots, holders = tuple(request.robots), self._robots.holding(peer.tenant, request.checkpoint_id)
        asked = {"checkpoint": request.checkpoint_id, "robots": list(robots), "reason": request.reason}
        _, signed = self._publisher.rollback(
            peer.tenant, request.checkpoint_id, robots=robots, reason=reason, holders=holders,
            within=self._trails.of(peer.tenant).committing(peer, "roll back", asked),
        )  # fmt: skip
        return weights_pb2.SignedRelease(payload=signed.payload, key_id=signed.key_id, signature=signed.signature)

    def Why(self, request: Any, peer: Peer, context: Any) -> Iterator[weights_pb2.BlobChunk]:
        """Where a record comes from, as JSON in pieces: an answer about 100,000 episodes is larger than a message."""
        if request.graph:
            text = self._trails.of(peer.tenant).lineage_json(request.record_id).encode()
        else:
            text = json.dumps(
                self._trails.of(peer.tenant).explain(request.record_id, verify=request.verify), default=str
            ).encode()
        for at in range(0, len(text), CHUNK_BYTES):
            data = text[at : at + CHUNK_BYTES]
            yield weights_pb2.BlobChunk(offset=at, crc32c=crc32c(data), data=data)


JobCheck = Callable[[str, str, Mapping[str, Any]], None]
"""Given tenant, kind and spec of a job that was asked for; raises GymnastError where it cannot run."""


class JobServicer:
    """Jobs."""

    def __init__(
        self, jobs: SqlJobStore, trails: Trails, limits: Limits, stopping: Stopping,
        wake: threading.Event, check: JobCheck,
    ) -> None:  # fmt: skip
        self._check = check
        self._jobs, self._trails, self._limits = jobs, trails, limits
        self._stopping, self._wake = stopping, wake

    def Submit(self, request: Any, peer: Peer, context: Any) -> jobs_pb2.Job:
        """Create, or find the one with the same key."""
        if not 0 < len(request.kind) <= 64 or not 0 < len(request.idempotency_key) <= 128:
            raise InvalidMessageError("a job needs a kind (1..64 characters) and an idempotency key (1..128)")
        spec = json_field(request.spec_json, self._limits)
        offer_to = spec.get("offer_to", [])
        if not isinstance(offer_to, list) or not all(isinstance(name, str) and name for name in offer_to):
            raise InvalidMessageError(f"offer_to must be a list of robots' names, got {str(offer_to)[:80]!r}")
        own = spec.get("robot") == peer.name and set(offer_to) <= {peer.name}
        if peer.role == "robot" and (request.kind != "adapt" or not own):
            raise NotPermittedError(
                f"robot {peer.name!r} may ask for adapt jobs of its own alone (spec robot {peer.name!r}), not for "
                f"{request.kind[:40]!r} of {str(spec.get('robot', ''))[:40]!r}"
            )
        if len(self._jobs.list(peer.tenant, self._limits.waiting_jobs, "waiting")) >= self._limits.waiting_jobs:
            raise QuotaError(f"tenant {peer.tenant!r} has {self._limits.waiting_jobs} jobs waiting; let some run first")
        key = request.idempotency_key
        if (known := self._jobs.find(peer.tenant, key)) is None:
            self._check(peer.tenant, request.kind, spec)
            job_id = new_job_id()
            asked = {"job": job_id, "kind": request.kind, "key": key, **overrides_in(spec.get("config"))}
            with self._trails.of(peer.tenant).committing(peer, "submit", asked):
                row = self._jobs.submit(peer.tenant, request.kind, spec, key, peer.name, job_id=job_id)
        else:
            row = self._jobs.submit(peer.tenant, request.kind, spec, key, known.submitted_by)
        self._wake.set()
        return _job(row)

    def _seen(self, peer: Peer, job_id: str) -> JobRow:
        """One job, if the caller may know of it.

        Raises:
            NotFoundError: no such job, another tenant's, or another robot's.
        """
        row = self._jobs.get(peer.tenant, job_id)
        if not _concerns(row, peer):
            raise NotFoundError(f"there is no job {job_id[:80]!r}")
        return row

    def Get(self, request: Any, peer: Peer, context: Any) -> jobs_pb2.Job:
        """One job."""
        return _job(self._seen(peer, request.job_id))

    def List(self, request: Any, peer: Peer, context: Any) -> jobs_pb2.ListJobsReply:
        """Newest first."""
        rows = self._jobs.list(peer.tenant, min(request.limit or _PAGE, _PAGE), request.state or None)
        return jobs_pb2.ListJobsReply(jobs=_fitting(_job(row) for row in rows if _concerns(row, peer)))

    def Cancel(self, request: Any, peer: Peer, context: Any) -> jobs_pb2.Job:
        """Stop it; robots may cancel what they submitted."""
        row = self._seen(peer, request.job_id)
        if peer.role == "robot" and row.submitted_by != peer.name:
            raise NotPermittedError(f"job {row.job_id} was submitted by {row.submitted_by!r}")
        if row.cancel_requested or row.ended:
            return _job(row)
        with self._trails.of(peer.tenant).committing(peer, "cancel", {"job": row.job_id}):
            return _job(self._jobs.request_cancel(peer.tenant, row.job_id))

    def Events(self, request: Any, peer: Peer, context: Any) -> Iterator[jobs_pb2.JobEvent]:
        """Replay from a sequence number, then follow until the job has ended."""
        after = request.after_sequence
        self._seen(peer, request.job_id)
        while context.is_active():
            self._stopping.check()
            ended = self._jobs.get(peer.tenant, request.job_id).state in FINAL_STATES
            events = self._jobs.events(peer.tenant, request.job_id, after)
            for event in events:
                after = event.sequence
                yield _event(event)
            if ended and not events:
                return
            if not events:
                time.sleep(_POLL_S)

    def Claim(self, request: Any, peer: Peer, context: Any) -> jobs_pb2.Job:
        """For trainers in other processes: take a job, or an empty one."""
        bounded("kinds", request.kinds, _MOST_NAMES)
        self._jobs.requeue_lost()
        lease_s = float(request.lease_s or 60)
        row = self._jobs.claim(peer.tenant, f"remote-{peer.name}", list(request.kinds), lease_s)
        return _job(row) if row else jobs_pb2.Job()

    def Report(self, request: Any, peer: Peer, context: Any) -> jobs_pb2.Job:
        """For trainers in other processes: events, the lease, the end."""
        if request.state and request.state not in FINAL_STATES:
            raise InvalidMessageError(f"state {request.state[:40]!r} is none of {FINAL_STATES}")
        bounded("events", request.events, _MOST_EVENTS)
        events = [(event.kind, json_field(event.data_json, self._limits)) for event in request.events]
        result = json_field(request.result_json, self._limits)
        end = JobEnd(request.state, result, request.error) if request.state else None
        return _job(self._jobs.report(peer.tenant, request.job_id, f"remote-{peer.name}", events, end))


def _concerns(row: JobRow, peer: Peer) -> bool:
    """Whether somebody may know of a job: a robot of those it submitted, and of those that are for it."""
    return peer.role != "robot" or peer.name in (row.submitted_by, row.spec.get("robot"))


def _fitting(messages: Iterable[_Message]) -> list[_Message]:
    """As many as go into one reply, one at least; who pages through asks for the rest."""
    page: list[_Message] = []
    size = 0
    for message in messages:
        size += message.ByteSize()
        if page and size > _PAGE_BYTES:
            break
        page.append(message)
    return page


def _for_peer(row: ReleaseRow, peer: Peer) -> bool:
    robots = json.loads(row.payload)["robots"]
    return peer.role != "robot" or EVERY_ROBOT in robots or peer.name in robots


def _release(row: ReleaseRow) -> weights_pb2.SignedRelease:
    return weights_pb2.SignedRelease(payload=row.payload, key_id=row.key_id, signature=row.signature)


def _episode(row: EpisodeRow) -> trajectories_pb2.Episode:
    fields = {name: getattr(row, name) for name in _EPISODE_FIELDS}
    return trajectories_pb2.Episode(**fields, metadata_json=json.dumps(dict(row.metadata)))


def _job(row: JobRow) -> jobs_pb2.Job:
    fields = {name: getattr(row, name) for name in _JOB_FIELDS}
    return jobs_pb2.Job(**fields, spec_json=json.dumps(dict(row.spec)), result_json=json.dumps(dict(row.result)))


def _event(event: JobEvent) -> jobs_pb2.JobEvent:
    return jobs_pb2.JobEvent(
        sequence=event.sequence, time_ns=event.time_ns, kind=event.kind, data_json=json.dumps(dict(event.data))
    )


_EPISODE_FIELDS = (
    "sequence", "episode_id", "robot", "digest", "size", "state", "reason", "instruction", "outcome", "labelled_by",
    "steps", "policy_version", "received_ns",
)  # fmt: skip
_JOB_FIELDS = ("job_id", "kind", "state", "submitted_by", "error", "cancel_requested", "created_ns", "last_event")

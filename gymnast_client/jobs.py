"""Work for the trainer: submitted, followed, cancelled; and claimed by trainers in other processes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from gymnast_client.client import Client
from gymnast_client.reading import checked, read_object
from gymnast_core.errors import JobEndedError, NotTrustedError
from gymnast_core.job import JobEvent, JobState, JobView
from gymnast_core.json_values import JsonObject
from gymnast_core.wire.gymnast.v1 import jobs_pb2, jobs_pb2_grpc

if TYPE_CHECKING:  # most clients submit nothing, and need none of what a job can be set to
    from gymnast_core.jobs import JobSpec

_EVENTS_DEADLINE_S = 300.0


class JobsClient(Client):
    """Jobs."""

    def submit(self, job: JobSpec | str, spec: JsonObject | None = None, key: str = "") -> JobView:
        """Ask for work; the same key gives the same job, so this may be repeated.

        Args:
            job: a spec (gymnast_core.jobs), or the name of a kind.
            spec: JSON values, with the name of a kind.
            key: empty makes one.

        Raises:
            IdReusedError: the key was used for something else.
            ConfigError: it cannot run there; the message names the setting.
        """
        kind, values = (job, dict(spec or {})) if isinstance(job, str) else (job.kind, job.to_json())
        key = key or f"{kind}-{secrets.token_hex(8)}"
        request = jobs_pb2.SubmitRequest(kind=kind, spec_json=json.dumps(values), idempotency_key=key)
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

    def watch(self, job: JobView | str, after: int = 0, *, patience_s: float = 60.0) -> Iterator[JobEvent]:
        """Every event once, in order, until the job has ended; goes on across broken links and restarts.

        Args:
            job: which, or its id.
            after: sequence of the last event already seen.
            patience_s: give up after being without a trainer for so long.

        Raises:
            RejectedBridgeError: no such job.
            TransientBridgeError: the trainer stayed away.
        """
        job_id, seen = job if isinstance(job, str) else job.job_id, after
        events = self._link.follow(
            lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Events,
            lambda: jobs_pb2.EventsRequest(job_id=job_id, after_sequence=seen),
            timeout_s=_EVENTS_DEADLINE_S,
            patience_s=patience_s,
        )
        for event in events:
            seen = event.sequence
            yield JobEvent(
                event.sequence, event.time_ns, event.kind,
                read_object(event.data_json, f"event {event.sequence} of job {job_id}"),
            )  # fmt: skip

    def wait(self, job: JobView | str) -> JobView:
        """Follow a job to its end."""
        for _ in self.watch(job):
            continue
        return self.get(job if isinstance(job, str) else job.job_id)

    def result(self, job: JobView | str) -> JsonObject:
        """What a job left behind, as JSON values of its kind's result (gymnast_core.jobs); waits for its end.

        Raises:
            NotTrustedError: an audit or a calibration refused it.
            JobEndedError: it failed or was cancelled.
        """
        ended = self.wait(job)
        if ended.state == "done":
            return ended.result
        cause, _, words = ended.error.partition(": ")
        if cause == NotTrustedError.__name__:
            raise NotTrustedError(words)
        raise JobEndedError(f"job {ended.job_id} {ended.state}: {ended.error or 'no reason given'}")

    def claim(self, kinds: Sequence[str] = (), lease_s: int = 60) -> JobView | None:
        """For a trainer in another process: take the oldest waiting job."""
        request = jobs_pb2.ClaimRequest(kinds=list(kinds), lease_s=lease_s)
        job = self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Claim, request)
        return _job(job) if job.job_id else None

    def report(
        self,
        job_id: str,
        events: Sequence[tuple[str, JsonObject]] = (),
        *,
        state: str = "",
        result: JsonObject | None = None,
        error: str = "",
    ) -> JobView:
        """For a trainer in another process: report events, keep the claim, end the job; repeats report twice."""
        sent = [jobs_pb2.JobEvent(kind=kind, data_json=json.dumps(dict(data))) for kind, data in events]
        request = jobs_pb2.ReportRequest(
            job_id=job_id, events=sent, state=state, result_json=json.dumps(dict(result or {})), error=error
        )
        return _job(self._link.call(lambda channel: jobs_pb2_grpc.JobServiceStub(channel).Report, request))


def _job(message: jobs_pb2.Job) -> JobView:
    return JobView(
        job_id=message.job_id,
        kind=message.kind,
        spec=read_object(message.spec_json, f"the spec of job {message.job_id}"),
        state=cast(JobState, checked(JobState, message.state, f"the state of job {message.job_id}")),
        submitted_by=message.submitted_by,
        result=read_object(message.result_json, f"the result of job {message.job_id}"),
        error=message.error,
        cancel_requested=message.cancel_requested,
        created_ns=message.created_ns,
        last_event=message.last_event,
    )

"""JobService: work for the trainer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import grpc

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import JobHandlers
from cloud_trainer.service.servicers.messages import MOST_NAMES, bounded, fitting, json_field, page_size
from cloud_trainer.service.stopping import Stopping
from cloud_trainer.store.protocols import JobEnd, JobRow
from gymnast_core.job import FINAL_STATES, JobEvent, final_state
from gymnast_core.wire.errors import InvalidMessageError
from gymnast_core.wire.gymnast.v1 import jobs_pb2
from gymnast_core.wire.identity import Peer

_POLL_S = 0.2
_LEASE_S = 60.0
_MOST_LEASE_S = 3600.0
_MOST_EVENTS = 1000
_FIELDS = ("job_id", "kind", "state", "submitted_by", "error", "cancel_requested", "created_ns", "last_event")


class JobServicer:
    """Jobs."""

    def __init__(self, jobs: JobHandlers, limits: Limits, stopping: Stopping) -> None:
        self._jobs, self._limits, self._stopping = jobs, limits, stopping

    def Submit(self, request: jobs_pb2.SubmitRequest, peer: Peer, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Create, or find the one with the same key."""
        if not 0 < len(request.kind) <= 64 or not 0 < len(request.idempotency_key) <= 128:
            raise InvalidMessageError("a job needs a kind (1..64 characters) and an idempotency key (1..128)")
        spec = json_field(request.spec_json, self._limits)
        return _job(self._jobs.submit(peer, request.kind, spec, request.idempotency_key))

    def Get(self, request: jobs_pb2.JobId, peer: Peer, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """One job."""
        return _job(self._jobs.find(peer, request.job_id))

    def List(
        self, request: jobs_pb2.ListJobsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> jobs_pb2.ListJobsReply:
        """Newest first."""
        rows = self._jobs.all(peer, limit=page_size(request.limit), state=request.state)
        return jobs_pb2.ListJobsReply(jobs=fitting(_job(row) for row in rows))

    def Cancel(self, request: jobs_pb2.JobId, peer: Peer, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Stop it."""
        return _job(self._jobs.cancel(peer, request.job_id))

    def Events(
        self, request: jobs_pb2.EventsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> Iterator[jobs_pb2.JobEvent]:
        """Replay from a sequence number, then follow until the job has ended."""
        after = request.after_sequence
        while context.is_active():
            self._stopping.check()
            ended = self._jobs.find(peer, request.job_id).ended
            events = self._jobs.events(peer, request.job_id, after=after)
            for event in events:
                after = event.sequence
                yield _event(event)
            if ended and not events:
                return
            if not events:
                time.sleep(_POLL_S)

    def Claim(self, request: jobs_pb2.ClaimRequest, peer: Peer, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Take a job, or an empty one."""
        kinds = bounded("kinds", request.kinds, MOST_NAMES)
        lease_s = min(float(request.lease_s or _LEASE_S), _MOST_LEASE_S)  # a machine that is lost gives its job back
        row = self._jobs.claim(peer, kinds, lease_s)
        return _job(row) if row else jobs_pb2.Job()

    def Report(self, request: jobs_pb2.ReportRequest, peer: Peer, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Events, the lease, the end."""
        state = final_state(request.state)
        if request.state and state is None:
            raise InvalidMessageError(f"state {request.state[:40]!r} is none of {FINAL_STATES}")
        bounded("events", request.events, _MOST_EVENTS)
        events = [(event.kind, json_field(event.data_json, self._limits)) for event in request.events]
        result = json_field(request.result_json, self._limits)
        end = JobEnd(state, result, request.error) if state else None
        return _job(self._jobs.report(peer, request.job_id, events, end))


def _job(row: JobRow) -> jobs_pb2.Job:
    fields = {name: getattr(row, name) for name in _FIELDS}
    return jobs_pb2.Job(**fields, spec_json=json.dumps(dict(row.spec)), result_json=json.dumps(dict(row.result)))


def _event(event: JobEvent) -> jobs_pb2.JobEvent:
    return jobs_pb2.JobEvent(
        sequence=event.sequence, time_ns=event.time_ns, kind=event.kind, data_json=json.dumps(dict(event.data))
    )

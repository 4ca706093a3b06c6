"""Runs jobs: claims them, hands them to a runner, keeps what it reports."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_trainer.flows.gating import GATE_JOB, by_incumbent, gate_spec
from cloud_trainer.progress import CancelledError
from cloud_trainer.records.ledger import CalibrationLedger
from cloud_trainer.service.gates import GateDesk
from cloud_trainer.service.publish import Publisher
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import BlobStore, JobRow, MetaStore
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.errors import GymnastError
from gymnast_core.jobs import kinds_of
from gymnast_core.json_values import JsonObject
from gymnast_core.records.release import Release

LOG = logging.getLogger(__name__)
_LEASE_S = 30.0
_POLL_S = 0.25


@dataclass
class JobContext:
    """What a runner may use.

    Attributes:
        job: what to do.
        episodes: episodes of the job's tenant.
        blobs: content-addressed bytes.
        meta: the catalogue.
        publisher: signs and offers checkpoints.
        gates: gate records, and which robots ask for one.
        ledger: what evaluations of the tenant were worth in imagination.
        folder: scratch of this job; kept when it fails.
    """

    job: JobRow
    episodes: EpisodeCatalogue
    blobs: BlobStore
    meta: MetaStore
    publisher: Publisher
    gates: GateDesk
    ledger: CalibrationLedger
    folder: Path
    _jobs: SqlJobStore
    _stop: threading.Event = field(default_factory=threading.Event)

    def emit(self, kind: str, data: JsonObject) -> int:
        """Report something to watchers; JSON values; returns the event's sequence. Thread safe."""
        return self._jobs.append(self.job.tenant, self.job.job_id, kind, data)

    def cancelled(self) -> bool:
        """Whether the runner should stop soon: somebody cancelled the job, or the service is stopping."""
        return self._stop.is_set() or self._jobs.get(self.job.tenant, self.job.job_id).cancel_requested

    def offer(self, checkpoint: Path, robots: Sequence[str]) -> None:
        """Offer a checkpoint of the shelf to robots: at once to those that take it in, once it is gated to the rest."""
        tenant, name = self.job.tenant, checkpoint.name
        gated = by_incumbent(self.gates.gaps(tenant, name, robots, warned=True))
        waiting = {robot for names in gated.values() for robot in names}
        if at_once := [robot for robot in robots if robot not in waiting]:
            self.publish(checkpoint, robots=at_once)
        for incumbent, names in gated.items():
            key = f"{self.job.job_id}-gate-{name}-{incumbent or 'first'}"
            row = self._jobs.submit(tenant, GATE_JOB, gate_spec(name, incumbent, names), key, self.job.submitted_by)
            self.emit("gating", {"checkpoint_id": name, "job": row.job_id, "robots": names, "against": incumbent})

    def publish(self, checkpoint: Path, **options: Any) -> Release:
        """Offer a checkpoint folder to the tenant's robots; see Publisher.publish."""
        release, _ = self.publisher.publish(self.job.tenant, checkpoint, **options)
        self.emit("published", {"checkpoint_id": release.checkpoint_id, "sequence": release.sequence})
        return release


Runner = Callable[[JobContext], JsonObject]
"""Does one job and returns its result (JSON values); an exception fails the job."""


class Workers:
    """Threads that run jobs of this service's store; one is for quick ones alone.

    Args:
        jobs: the store.
        runner: does one job.
        context: makes a job's context.
        count: jobs of any kind at once.
        interactive: jobs at once beside them, of kinds that somebody waits for: they never wait behind a long one.
        name: of this service, the same after a restart: what it was running is its to take up again.
    """

    def __init__(
        self,
        jobs: SqlJobStore,
        runner: Runner,
        context: Callable[[JobRow, threading.Event], JobContext],
        count: int,
        name: str,
        *,
        interactive: int = 0,
    ) -> None:
        self._jobs, self._runner, self._context = jobs, runner, context
        self._stop, self._wake = threading.Event(), threading.Event()
        self._name = name
        awaited, quick = kinds_of("interactive", "quick"), kinds_of("quick")
        kinds: Sequence[Sequence[str]] = [()] * count + [awaited] * interactive + [quick]
        self._threads = [
            threading.Thread(target=self._run, args=(f"{name}-{index}", own), name=f"job-{index}", daemon=True)
            for index, own in enumerate(kinds)
        ]

    def start(self) -> None:
        """Take back jobs that a former run of this service lost, and begin."""
        for row in self._jobs.requeue_lost(worker=self._name):
            LOG.warning("job_requeued job=%s state=%s attempts=%d", row.job_id, row.state, row.attempts)
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is a new job."""
        self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """Ask runners to stop; a job that does not end in time is taken up again at the next start."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout_s)

    def _run(self, worker: str, kinds: Sequence[str]) -> None:
        while not self._stop.is_set():
            try:
                job = self._jobs.claim(None, worker, kinds, lease_s=_LEASE_S)
            except GymnastError as error:
                LOG.error("claim_failed worker=%s error=%s", worker, error)
                job = None
            if job is None:
                self._wake.wait(_POLL_S)
                self._wake.clear()
                continue
            try:
                self._do(job, worker)
            except GymnastError as error:  # the store's: the job stays claimed, and goes back when its lease is over
                LOG.error("job_not_ended job=%s worker=%s error=%s", job.job_id, worker, error)

    def _do(self, job: JobRow, worker: str) -> None:
        LOG.info("job_started job=%s kind=%s attempt=%d", job.job_id, job.kind, job.attempts)
        context = self._context(job, self._stop)
        done = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(job, worker, done), daemon=True)
        renewer.start()
        try:
            result = dict(self._runner(context) or {})
            asked = self._jobs.get(job.tenant, job.job_id).cancel_requested
            if self._stop.is_set() and not asked:
                return  # stopped half-way by a shutdown: stays claimed, and is taken up again at the next start
            self._jobs.finish(job.tenant, job.job_id, "done", result, worker=worker)
        except CancelledError as error:
            LOG.info("job_cancelled job=%s kind=%s reason=%s", job.job_id, job.kind, error)
            if self._jobs.get(job.tenant, job.job_id).cancel_requested or not self._stop.is_set():
                self._jobs.finish(job.tenant, job.job_id, "cancelled", {}, str(error), worker=worker)
        except Exception as error:  # whatever a runner does wrong fails its job, not the service
            LOG.exception("job_failed job=%s kind=%s", job.job_id, job.kind)
            if not self._stop.is_set():
                self._jobs.finish(
                    job.tenant, job.job_id, "failed", {}, f"{type(error).__name__}: {error}", worker=worker
                )
        finally:
            done.set()
            renewer.join()

    def _renew(self, job: JobRow, worker: str, done: threading.Event) -> None:
        while not done.wait(_LEASE_S / 3):
            if not self._jobs.renew(job.tenant, job.job_id, worker, _LEASE_S):
                LOG.warning("job_claim_lost job=%s worker=%s", job.job_id, worker)
                return

"""A flow's own jobs: submitted once, followed to their end, given up when the flow is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from cloud_trainer.flows.adaptation_engine import CLOSING, Budget, Emit, Ended
from cloud_trainer.progress import ClosingError
from cloud_trainer.store.protocols import JobRow
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.errors import JobEndedError, NotTrustedError
from gymnast_core.job import JobEvent, progress_of
from gymnast_core.jobs import kind_of

POLL_S = 0.2
REFUSED = "refused"
"""Kind of the event by which a worker reports a refusal, with its reason."""


def follow(
    jobs: SqlJobStore, tenant: str, job_id: str, *, ended: Ended,
    on_event: Callable[[JobEvent], None] = lambda event: None,
) -> JobRow:  # fmt: skip
    """Return a job once it has ended, done or cancelled.

    Args:
        jobs: the store.
        tenant: the job's tenant.
        job_id: of the job.
        ended: see Ended; any other reason than CLOSING cancels the job, whose end is still waited for.
        on_event: called with every event, in order.

    Raises:
        ClosingError: this process ends; the job goes on, and whoever resumes finds it by its key.
        NotTrustedError: an audit or a calibration refused it.
        JobEndedError: it failed, or what was reported is no result of its kind.
    """
    after, refusal = 0, ""
    while True:
        row = jobs.get(tenant, job_id)  # before its events, so that none of an ended job is missed
        for event in jobs.events(tenant, job_id, after):
            after = event.sequence
            refusal = str(event.data.get("reason", "")) if event.kind == REFUSED else refusal
            on_event(event)
        if row.state == "failed":
            raise NotTrustedError(refusal) if refusal else JobEndedError(row.error)
        if row.ended:
            _check_result(row)
            return row
        if (why := ended()) == CLOSING:
            raise ClosingError(f"job {job_id} goes on; it is followed again after the restart")
        if why:
            jobs.request_cancel(tenant, job_id)
        time.sleep(POLL_S)


def _check_result(row: JobRow) -> None:
    """A training machine may have reported anything."""
    if row.result:
        try:
            kind_of(row.kind).result.model_validate(row.result)
        except ValidationError as error:
            raise JobEndedError(f"job {row.job_id} ended with what is no result of {row.kind}: {error}"[:500]) from None


def run_job(
    jobs: SqlJobStore, tenant: str, kind: str, spec: Mapping[str, Any], *, key: str, by: str, ended: Ended,
    on_event: Callable[[JobEvent], None] = lambda event: None,
) -> JobRow:  # fmt: skip
    """Submit a job (once per key) and return it once it has ended; its result is empty where it was cancelled.

    Raises:
        ClosingError, NotTrustedError, JobEndedError: see follow().
    """
    row = jobs.submit(tenant, kind, spec, key, by)
    return follow(jobs, tenant, row.job_id, ended=ended, on_event=on_event)


@dataclass
class Iterations:
    """Passes a training job's iterations on, and cancels it where its own budget does not end it.

    Attributes:
        emit: of the adaptation.
        rollouts_each: of an iteration.
        budget: of the job.
        asked: see Ended.
    """

    emit: Emit
    rollouts_each: int
    budget: Budget
    asked: Ended
    rollouts: int = 0
    began: float = field(default_factory=time.monotonic)

    def take(self, event: JobEvent) -> None:
        """Take in one event of the job."""
        progress = progress_of(event)
        reward = progress.get("metrics", {}).get("imagined_reward")
        if progress.get("stage") == "grpo" and reward is not None:
            line = {"iteration": progress["step"], "imagined_reward": reward, "rollouts": self.rollouts_each}
            self.emit("iteration", line)
            self.rollouts += self.rollouts_each

    def ended(self) -> str:
        """See Ended."""
        why, spent = self.asked(), time.monotonic() - self.began
        within = spent < self.budget.seconds and self.rollouts < self.budget.rollouts
        return why if why == CLOSING or within else ""

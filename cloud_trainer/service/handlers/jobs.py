"""Work for the trainer: submitted, followed, cancelled; and done by trainers in other processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from cloud_trainer.records.trail import Trails, overrides_in
from cloud_trainer.service.pace import RobotPace
from cloud_trainer.store.protocols import JobEnd, JobRow, new_job_id
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.authority import Who, authorise
from gymnast_core.job import JobEvent
from gymnast_core.json_values import JsonObject
from gymnast_core.wire.errors import InvalidMessageError, NotFoundError, NotPermittedError, QuotaError

JobCheck = Callable[[str, str, Mapping[str, object]], None]
"""Given tenant, kind and spec of a job that was asked for; raises GymnastError where it cannot run."""


class JobHandlers:
    """See the module.

    Args:
        jobs: the queue.
        trails: where actions are written down.
        check: asked before a job is taken on.
        wake: set when there is work.
        most_waiting: of one tenant.
        pace: how often a robot may ask.
    """

    def __init__(
        self,
        jobs: SqlJobStore,
        trails: Trails,
        check: JobCheck,
        wake: threading.Event,
        most_waiting: int,
        pace: RobotPace,
    ) -> None:
        self._jobs, self._trails, self._check, self._wake = jobs, trails, check, wake
        self._most_waiting, self._pace = most_waiting, pace

    def submit(self, who: Who, kind: str, spec: JsonObject, key: str) -> JobRow:
        """Create a job, or find the one with the same key.

        Raises:
            NotPermittedError: a robot asks for more than its own adaptation.
            QuotaError: too many wait, or the robot asked for too many within the hour.
            GymnastError: it cannot run here.
        """
        authorise(who, "submit")
        _check_own(who, kind, spec)
        if len(self._jobs.list(who.tenant, self._most_waiting, "waiting")) >= self._most_waiting:
            raise QuotaError(f"tenant {who.tenant!r} has {self._most_waiting} jobs waiting; let some run first")
        if (known := self._jobs.find(who.tenant, key)) is None:
            self._check(who.tenant, kind, spec)
            self._pace.take(who)
            job_id = new_job_id()
            asked = {"job": job_id, "kind": kind, "key": key, **overrides_in(spec.get("config"))}
            with self._trails.of(who.tenant).committing(who, "submit", asked):
                row = self._jobs.submit(who.tenant, kind, spec, key, who.name, job_id=job_id)
        else:
            row = self._jobs.submit(who.tenant, kind, spec, key, known.submitted_by)
        self._wake.set()
        return row

    def fresh_key(self, who: Who, name: str) -> str:
        """Return the key of the job of a name that has not ended: of the one under way, else of a new one."""
        number = 0
        while (row := self._jobs.find(who.tenant, f"{name}-{number}")) is not None and row.ended:
            number += 1
        return f"{name}-{number}"

    def find(self, who: Who, job_id: str) -> JobRow:
        """Return one job, if the caller may know of it.

        Raises:
            NotFoundError: no such job, another tenant's, or another robot's.
        """
        authorise(who, "follow")
        row = self._jobs.get(who.tenant, job_id)
        if not _concerns(row, who):
            raise NotFoundError(f"there is no job {job_id[:80]!r}")
        return row

    def all(self, who: Who, *, limit: int = 500, state: str = "") -> list[JobRow]:
        """Return jobs, newest first; a robot sees those it submitted, and those that are for it."""
        authorise(who, "follow")
        return [row for row in self._jobs.list(who.tenant, limit, state or None) if _concerns(row, who)]

    def events(self, who: Who, job_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[JobEvent]:
        """Return a job's events with a higher sequence; raises as find()."""
        self.find(who, job_id)
        return self._jobs.events(who.tenant, job_id, after, limit)

    def cancel(self, who: Who, job_id: str) -> JobRow:
        """Ask a job to stop; robots may cancel what they submitted. One that has ended stays as it is."""
        authorise(who, "cancel its own")
        row = self.find(who, job_id)
        if who.role == "robot" and row.submitted_by != who.name:
            raise NotPermittedError(f"job {row.job_id} was submitted by {row.submitted_by!r}")
        if row.cancel_requested or row.ended:
            return row
        with self._trails.of(who.tenant).committing(who, "cancel", {"job": row.job_id}):
            return self._jobs.request_cancel(who.tenant, row.job_id)

    def claim(self, who: Who, kinds: Sequence[str], lease_s: float) -> JobRow | None:
        """For trainers in other processes: take the oldest waiting job; None when there is none."""
        authorise(who, "work")
        self._jobs.requeue_lost()
        return self._jobs.claim(who.tenant, f"remote-{who.name}", list(kinds), lease_s)

    def report(self, who: Who, job_id: str, events: Sequence[tuple[str, JsonObject]], end: JobEnd | None) -> JobRow:
        """For trainers in other processes: events, the lease, the end."""
        authorise(who, "work")
        return self._jobs.report(who.tenant, job_id, f"remote-{who.name}", list(events), end)


def _check_own(who: Who, kind: str, spec: Mapping[str, object]) -> None:
    offer_to = spec.get("offer_to", [])
    if not isinstance(offer_to, list) or not all(isinstance(name, str) and name for name in offer_to):
        raise InvalidMessageError(f"offer_to must be a list of robots' names, got {str(offer_to)[:80]!r}")
    own = spec.get("robot") == who.name and set(offer_to) <= {who.name}
    if who.role == "robot" and (kind != "adapt" or not own):
        raise NotPermittedError(
            f"robot {who.name!r} may ask for adapt jobs of its own alone (spec robot {who.name!r}), not for "
            f"{kind[:40]!r} of {str(spec.get('robot', ''))[:40]!r}"
        )


def _concerns(row: JobRow, who: Who) -> bool:
    """Whether somebody may know of a job: a robot of those it submitted, and of those that are for it."""
    return who.role != "robot" or who.name in (row.submitted_by, row.spec.get("robot"))

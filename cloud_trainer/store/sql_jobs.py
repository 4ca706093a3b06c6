"""Jobs and their events in SQL."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import JobEnd, JobRow, new_job_id
from cloud_trainer.store.tables import JOB_EVENTS, JOBS
from gymnast_core.job import FINAL_STATES, JobEvent, JobState
from gymnast_core.jobs import kinds_of
from gymnast_core.json_values import JsonObject
from gymnast_core.records.manifest import canonical_json
from gymnast_core.wire.errors import IdReusedError, NotFoundError

_SECOND_NS = 1_000_000_000
_LEASE_S = 60.0
_SHOWN = [JOBS.c[name] for name in JobRow.__dataclass_fields__]


class SqlJobStore:
    """Jobs and their events, on SQLite or PostgreSQL. Threads and processes may share them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self, tenant: str, kind: str, spec: JsonObject, key: str, submitted_by: str, *, job_id: str | None = None
    ) -> JobRow:
        """Create a job, or return the one this tenant created with the same key.

        Args:
            tenant: the tenant they belong to.
            kind: of job.
            spec: JSON values.
            key: the same key is the same job.
            submitted_by: name.
            job_id: of a new one, from new_job_id(); None makes one.

        Raises:
            IdReusedError: the key was used for another kind or spec.
        """
        text = canonical_json(dict(spec)).decode()
        values: dict[str, Any] = {
            "job_id": job_id or new_job_id(), "tenant": tenant, "kind": kind, "spec": text,
            "idempotency_key": key, "state": "waiting", "submitted_by": submitted_by, "result": "{}", "error": "",
            "cancel_requested": False, "created_ns": time.time_ns(), "last_event": 0, "attempts": 0, "worker": "",
            "lease_until_ns": 0,
        }  # fmt: skip
        with self._database.transaction() as connection:
            if self._database.insert_new(connection, JOBS, values):
                self._append(connection, values["job_id"], "state", {"state": "waiting"})
            same = (JOBS.c.tenant == tenant) & (JOBS.c.idempotency_key == key)
            row = _job(connection.execute(sa.select(*_SHOWN).where(same)).mappings().one())
        if row.kind != kind or canonical_json(dict(row.spec)).decode() != text:
            raise IdReusedError(f"key {key!r} was used for job {row.job_id} of kind {row.kind!r} with another spec")
        return row

    def get(self, tenant: str, job_id: str) -> JobRow:
        """One job.

        Raises:
            NotFoundError: no such job, or another tenant's.
        """
        with self._database.transaction() as connection:
            return self._get(connection, tenant, job_id)

    def find(self, tenant: str, key: str) -> JobRow | None:
        """The job this tenant created with a key."""
        same = (JOBS.c.tenant == tenant) & (JOBS.c.idempotency_key == key)
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(*_SHOWN).where(same)).mappings().first()
        return _job(row) if row else None

    def list(self, tenant: str | None, limit: int = 100, state: str | None = None) -> list[JobRow]:
        """Jobs of a tenant, newest first; None is for the service's own work on all of them."""
        query = sa.select(*_SHOWN).order_by(JOBS.c.created_ns.desc(), JOBS.c.job_id).limit(limit)
        if tenant is not None:
            query = query.where(JOBS.c.tenant == tenant)
        if state is not None:
            query = query.where(JOBS.c.state == state)
        with self._database.transaction() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def request_cancel(self, tenant: str, job_id: str) -> JobRow:
        """Cancel a waiting job at once, ask a running one to stop, leave an ended one alone.

        Raises:
            NotFoundError: see get().
        """
        with self._database.transaction() as connection:
            row = self._get(connection, tenant, job_id, lock=True)
            if row.state == "waiting":
                self._end(connection, row, "cancelled", {}, "")
            elif row.state == "running" and not row.cancel_requested:
                connection.execute(sa.update(JOBS).where(JOBS.c.job_id == job_id).values(cancel_requested=True))
                self._append(connection, job_id, "cancel_requested", {})
            return self._get(connection, tenant, job_id)

    def claim(self, tenant: str | None, worker: str, kinds: Sequence[str] = (), lease_s: float = 60.0) -> JobRow | None:
        """Take a waiting job of a tenant (of these kinds, if any are given), or None.

        Interactive kinds go first and background ones last (gymnast_core.job); of one class the oldest. No tenant is
        for the service's own workers, which do the jobs of all tenants.
        """
        quick = JOBS.c.kind.in_(kinds_of("quick", "interactive"))
        last = JOBS.c.kind.in_(kinds_of("background"))
        first = sa.case((quick, 0), (last, 2), else_=1)
        waiting = sa.select(JOBS.c.tenant, JOBS.c.job_id).where(JOBS.c.state == "waiting")
        waiting = waiting.order_by(first, JOBS.c.created_ns).limit(1)
        if tenant is not None:
            waiting = waiting.where(JOBS.c.tenant == tenant)
        if kinds:
            waiting = waiting.where(JOBS.c.kind.in_(builtins.list(kinds)))
        if not self._database.is_sqlite:
            waiting = waiting.with_for_update(skip_locked=True)
        taken = {
            "state": "running",
            "worker": worker,
            "attempts": JOBS.c.attempts + 1,
            "lease_until_ns": _until(lease_s),
        }
        with self._database.transaction() as connection:
            found = connection.execute(waiting).first()
            if found is None:
                return None
            owner, job_id = found
            connection.execute(sa.update(JOBS).where(JOBS.c.job_id == job_id).values(taken))
            self._append(connection, job_id, "state", {"state": "running", "worker": worker})
            return self._get(connection, owner, job_id)

    def renew(self, tenant: str, job_id: str, worker: str, lease_s: float = 60.0) -> bool:
        """Keep a claim; False when it was lost."""
        mine = (JOBS.c.tenant == tenant) & (JOBS.c.job_id == job_id)
        mine = mine & (JOBS.c.worker == worker) & (JOBS.c.state == "running")
        with self._database.transaction() as connection:
            renewed = sa.update(JOBS).where(mine).values(lease_until_ns=_until(lease_s))
            return bool(connection.execute(renewed).rowcount)

    def append(self, tenant: str, job_id: str, kind: str, data: JsonObject) -> int:
        """Add an event and return its sequence.

        Raises:
            NotFoundError: no such job.
        """
        with self._database.transaction() as connection:
            self._get(connection, tenant, job_id, lock=True)
            return self._append(connection, job_id, kind, data)

    def events(self, tenant: str, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[JobEvent]:
        """Events with a higher sequence, in order; none of another tenant's job."""
        owned = (JOBS.c.job_id == JOB_EVENTS.c.job_id) & (JOBS.c.tenant == tenant)
        mine = (JOB_EVENTS.c.job_id == job_id) & (JOB_EVENTS.c.sequence > after)
        query = sa.select(JOB_EVENTS).join(JOBS, owned).where(mine).order_by(JOB_EVENTS.c.sequence).limit(limit)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [JobEvent(row["sequence"], row["time_ns"], row["kind"], json.loads(row["data"])) for row in rows]

    def finish(
        self,
        tenant: str,
        job_id: str,
        state: JobState,
        result: JsonObject | None = None,
        error: str = "",
        *,
        worker: str | None = None,
    ) -> JobRow:
        """End a job, with a last event of kind "state"; an ended job stays as it is.

        A job whose cancellation was acknowledged ends as cancelled, with the result, even when its work was done.

        Args:
            tenant: the tenant they belong to.
            job_id: which.
            state: done, failed or cancelled.
            result: JSON values.
            error: why it failed.
            worker: only if this one still holds it; None ends it whoever does.

        Raises:
            NotFoundError: no such job.
        """
        with self._database.transaction() as connection:
            row = self._get(connection, tenant, job_id, lock=True)
            if row.state not in FINAL_STATES and (worker is None or self._holds(connection, job_id, worker)):
                self._end(connection, row, state, result or {}, error)
            return self._get(connection, tenant, job_id)

    def report(
        self,
        tenant: str,
        job_id: str,
        worker: str,
        events: Sequence[tuple[str, JsonObject]],
        end: JobEnd | None = None,
    ) -> JobRow:
        """Renew a claim, append events and end the job, all or nothing.

        Raises:
            NotFoundError: this worker does not hold the job (any more).
        """
        with self._database.transaction() as connection:
            row = self._get(connection, tenant, job_id, lock=True)
            if not self._holds(connection, job_id, worker):
                raise NotFoundError(f"job {job_id[:80]!r} is not claimed by {worker!r}")
            renewed = sa.update(JOBS).where(JOBS.c.job_id == job_id).values(lease_until_ns=_until(_LEASE_S))
            connection.execute(renewed)
            for kind, data in events:
                self._append(connection, job_id, kind, data)
            if end is not None:
                self._end(connection, row, end.state, end.result, end.error)
            return self._get(connection, tenant, job_id)

    @staticmethod
    def _holds(connection: sa.Connection, job_id: str, worker: str) -> bool:
        """Whether a worker has this job in hand; the row is locked by the caller."""
        query = sa.select(JOBS.c.worker, JOBS.c.state).where(JOBS.c.job_id == job_id)
        return connection.execute(query).one() == (worker, "running")

    def requeue_lost(self, *, max_attempts: int = 3, worker: str | None = None) -> Sequence[JobRow]:
        """Put running jobs back whose lease ran out, or whose worker's name starts so; fail those out of attempts."""
        lost = JOBS.c.lease_until_ns < time.time_ns()
        if worker is not None:
            lost = lost | JOBS.c.worker.startswith(worker, autoescape=True)
        query = sa.select(*_SHOWN).where((JOBS.c.state == "running") & lost)
        if not self._database.is_sqlite:
            query = query.with_for_update(skip_locked=True)  # one that is being ended right now is not lost
        moved = []
        with self._database.transaction() as connection:
            for row in [_job(found) for found in connection.execute(query).mappings()]:
                if row.cancel_requested:
                    self._end(connection, row, "cancelled", {}, "its worker was lost after a cancel request")
                elif row.attempts >= max_attempts:
                    self._end(connection, row, "failed", {}, f"lost its worker {row.attempts} times")
                else:
                    back = sa.update(JOBS).where(JOBS.c.job_id == row.job_id).values(state="waiting", worker="")
                    connection.execute(back)
                    self._append(connection, row.job_id, "state", {"state": "waiting", "reason": "worker lost"})
                moved.append(self._get(connection, row.tenant, row.job_id))
        return moved

    def _get(self, connection: sa.Connection, tenant: str, job_id: str, *, lock: bool = False) -> JobRow:
        query = sa.select(*_SHOWN).where((JOBS.c.tenant == tenant) & (JOBS.c.job_id == job_id))
        if lock and not self._database.is_sqlite:
            query = query.with_for_update()
        row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no job {job_id[:80]!r}")
        return _job(row)

    def _append(self, connection: sa.Connection, job_id: str, kind: str, data: Mapping[str, object]) -> int:
        counted = sa.update(JOBS).where(JOBS.c.job_id == job_id).values(last_event=JOBS.c.last_event + 1)
        sequence = connection.execute(counted.returning(JOBS.c.last_event)).scalar()
        if sequence is None:
            raise NotFoundError(f"there is no job {job_id[:80]!r}")
        values = {"job_id": job_id, "sequence": sequence, "time_ns": time.time_ns(), "kind": kind}
        connection.execute(sa.insert(JOB_EVENTS).values({**values, "data": json.dumps(dict(data))}))
        return int(sequence)

    def _end(
        self, connection: sa.Connection, row: JobRow, state: str, result: Mapping[str, object], error: str
    ) -> None:
        """End a job whose row the caller holds; work that was done after a cancellation was acknowledged is kept."""
        state = "cancelled" if state == "done" and row.cancel_requested else state
        ended = {"state": state, "result": json.dumps(dict(result)), "error": error, "worker": ""}
        connection.execute(sa.update(JOBS).where(JOBS.c.job_id == row.job_id).values(ended))
        self._append(connection, row.job_id, "state", {"state": state, "error": error})


def _until(lease_s: float) -> int:
    return time.time_ns() + int(lease_s * _SECOND_NS)


def _job(row: Mapping[Any, Any]) -> JobRow:
    return JobRow(**{**row, "spec": json.loads(row["spec"]), "result": json.loads(row["result"])})

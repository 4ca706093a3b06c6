"""Keeps TensorBoard's files of a trainer's jobs up to date, on a thread: `gymnast serve --tensorboard FOLDER`."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from cloud_trainer.jobs.tensorboard import JobCurves
from cloud_trainer.store.protocols import JobRow
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.errors import GymnastError

LOG = logging.getLogger(__name__)
_NEWEST = 200
_PAGE = 1000


class CurveWatch:
    """Writes the curves of every job, of all tenants, by whichever machine it is done.

    Args:
        jobs: with their events.
        folder: of the files.
        poll_s: between looks.

    Raises:
        ConfigError: tensorboardX is not installed, or the folder cannot be written.
    """

    def __init__(self, jobs: SqlJobStore, folder: Path, *, poll_s: float = 2.0) -> None:
        JobCurves.check(folder)
        self._jobs, self._folder, self._poll_s = jobs, folder, poll_s
        self._seen: dict[str, int] = {}
        self._open: dict[str, JobCurves] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="curve-watch", daemon=True)

    def __enter__(self) -> CurveWatch:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look once more, and stop."""
        self._over.set()
        self._thread.join()
        self._looked()
        for curves in self._open.values():
            curves.close()

    def look(self) -> None:
        """Write what is new."""
        newest, running = self._jobs.list(None, _NEWEST), self._jobs.list(None, _NEWEST, "running")
        for row in {row.job_id: row for row in (*newest, *running)}.values():
            if row.last_event > self._seen.get(row.job_id, 0):
                self._write(row)

    def _write(self, row: JobRow) -> None:
        curves = self._open.get(row.job_id) or JobCurves(self._folder, row.job_id)
        self._open[row.job_id] = curves
        while events := self._jobs.events(row.tenant, row.job_id, self._seen.get(row.job_id, 0), _PAGE):
            for event in events:
                curves.add(event)
            self._seen[row.job_id] = events[-1].sequence
        curves.flush()
        if row.ended:
            self._open.pop(row.job_id).close()

    def _looked(self) -> None:
        try:
            self.look()
        except (GymnastError, OSError) as error:
            LOG.warning("curves_not_written folder=%s error=%s", self._folder, error)

    def _run(self) -> None:
        while not self._over.wait(self._poll_s):
            self._looked()

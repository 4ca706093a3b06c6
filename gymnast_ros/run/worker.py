"""One long job at a time beside a node that keeps answering."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """Starts jobs in a thread; refuses a second one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self._busy = False
        self.kind = ""

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._busy

    def cancelled(self) -> bool:
        """Whether the running job shall end; jobs ask between steps."""
        return self._cancelled.is_set()

    def start(self, kind: str, job: Callable[[str], T], ended: Callable[[str, T], None]) -> str | None:
        """Start a job and return its run id, or None when busy.

        Args:
            kind: first part of the run id.
            job: gets the run id; must not raise.
            ended: gets the run id and what the job returned, when the next job may already begin.
        """
        with self._lock:
            if self._busy:
                return None
            run_id = f"{kind}-{uuid.uuid4().hex[:12]}"
            self._cancelled.clear()
            self.kind, self._busy = kind, True
            self._thread = threading.Thread(target=self._run, args=(run_id, job, ended), name=run_id, daemon=True)
            self._thread.start()
            return run_id

    def cancel(self) -> bool:
        """Ask the running job to end; False when there is none."""
        self._cancelled.set()
        return self.busy

    def close(self, timeout_s: float) -> None:
        """Cancel and join."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, run_id: str, job: Callable[[str], T], ended: Callable[[str, T], None]) -> None:
        try:
            outcome = job(run_id)
        finally:
            self._busy = False
        ended(run_id, outcome)

"""One long job at a time beside a node that keeps answering."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

Job = Callable[[str], None]
"""Gets its run id."""


class Worker:
    """Starts jobs in a thread; refuses a second one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self.kind = ""

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._thread is not None and self._thread.is_alive()

    def cancelled(self) -> bool:
        """Whether the running job shall end; jobs ask between steps."""
        return self._cancelled.is_set()

    def start(self, kind: str, job: Job) -> str | None:
        """Start a job and return its run id, or None when busy."""
        with self._lock:
            if self.busy:
                return None
            run_id = f"{kind}-{uuid.uuid4().hex[:12]}"
            self._cancelled.clear()
            self.kind = kind
            self._thread = threading.Thread(target=job, args=(run_id,), name=run_id, daemon=True)
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

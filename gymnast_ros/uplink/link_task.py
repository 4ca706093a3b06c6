"""What goes on beside everything else at a robot: a thread and a link to the trainer of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path

from gymnast_client.link import Link
from gymnast_core.wire.identity import Identity


class LinkTask(ABC):
    """Runs until it is stopped.

    Args:
        name: of its thread.
        address: host:port of the trainer.
        identity: identity folder (or the loaded one); None only with insecure.
        insecure: no TLS.
    """

    def __init__(self, name: str, address: str, identity: Path | Identity | None, *, insecure: bool) -> None:
        self._link = Link(address, identity, insecure=insecure)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; returns at once, whether the trainer is there or not."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End. Safe to call twice."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._link.close()

    @abstractmethod
    def _run(self) -> None:
        """Do it until _stop is set."""

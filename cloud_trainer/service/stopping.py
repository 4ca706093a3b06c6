"""How long calls learn that the service is going down."""

from __future__ import annotations

import threading

from gymnast_core.wire.errors import BusyError


class Stopping:
    """Set once; long calls check it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Begin to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise BusyError once the service is stopping."""
        if self._event.is_set():
            raise BusyError("the service is stopping; connect again later")

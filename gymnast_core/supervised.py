"""What systemd hears of a service it supervises (sd_notify): that it is ready, that it is alive, that it ends.

systemd.service(5), sd_notify(3): Type=notify, WatchdogSec=. Started by anything else, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Supervised:
    """This process, as its service manager sees it.

    Args:
        environment: names the manager's socket, and how long it waits for a sign of life.

    Attributes:
        every_s: seconds between two signs of life, half of what the manager waits; None where it waits for none.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        waits_us = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = bool(self._address) and mine and waits_us.isdecimal() and int(waits_us) > 0
        self.every_s = int(waits_us) / 2e6 if watched else None
        self._next_s = 0.0

    def ready(self) -> None:
        """Everything is started."""
        self._say("READY=1")

    def alive(self) -> None:
        """Call it as often as you like, from the loop that must not hang; one sign of life is sent every every_s."""
        if self.every_s is not None and (now_s := time.monotonic()) >= self._next_s:
            self._next_s = now_s + self.every_s
            self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """It ends because it was asked to."""
        self._say("STOPPING=1")

    def _say(self, word: str) -> None:
        """A manager that does not listen is no reason to end."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as there:
            there.settimeout(1.0)
            try:
                there.sendto(word.encode(), self._address)
            except OSError:
                return

"""The robot's side of the bridge: ships episodes and stages checkpoints in threads of its own."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path

from gymnast_client.link import Link
from gymnast_client.waits import Waits
from gymnast_core.episodes.spool import Spool, SpoolEntry
from gymnast_core.errors import DiskFullError, GymnastError
from gymnast_core.wire.allocator import keep_freed_memory
from gymnast_core.wire.codec import CHUNK_BYTES
from gymnast_core.wire.errors import IdentityError
from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink.releases import ReleaseIntake
from gymnast_ros.uplink.robot_store import RobotStore
from gymnast_ros.uplink.status import UplinkEvent, UplinkStatus
from gymnast_ros.uplink.upload import IN_FLIGHT, HoldBack, UploadStream

LOG = logging.getLogger(__name__)
_POLL_S = 0.1
_ALARMS = (DiskFullError,)
_REQUEST = re.compile(r" \[\w+\]$")
"""At the end of what the trainer reports: the id of a request, another one each time."""


class Uplink:
    """Ships what a spool holds and stages what the trainer publishes, for as long as it runs.

    Args:
        address: host:port of the trainer.
        identity: identity folder (or the loaded one); None only with insecure.
        spool: episodes to ship; None ships none.
        store: where checkpoints are staged; None fetches none.
        insecure: no TLS.
        on_event: called from the uplink's threads; must be quick.
        in_flight: episodes under way at once.
        chunk_bytes: size of a message; smaller loses less on a link that often breaks.
    """

    def __init__(
        self,
        address: str,
        identity: Path | Identity | None,
        *,
        spool: Spool | None = None,
        store: RobotStore | None = None,
        insecure: bool = False,
        on_event: Callable[[UplinkEvent], None] = lambda event: None,
        in_flight: int = IN_FLIGHT,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._spool, self._store, self._on_event = spool, store, on_event
        self._in_flight, self._chunk_bytes = in_flight, chunk_bytes
        self._links = [Link(address, identity, insecure=insecure) for _ in range(2)]
        self._stop, self._wake = threading.Event(), threading.Event()
        self._held_back = HoldBack()
        self._offered: set[str] = set()
        self._changed = threading.Condition()
        self._connected = {"episodes": False, "weights": False}
        self._counts = {"acknowledged": 0, "duplicates": 0, "refused": 0, "sent_bytes": 0}
        self._alarm = self._unwelcome = self._last_error = ""
        self._away = False
        self._stream: UploadStream | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin; returns at once, whether the trainer is there or not."""
        keep_freed_memory()
        loops = []
        if self._spool:
            self._offered = {entry.episode_id for entry in self._spool.entries()}  # an earlier life may have begun them
            loops.append(("episodes", self._ship_forever))
        loops += [("weights", self._watch_forever)] if self._store else []
        for name, loop in loops:
            thread = threading.Thread(target=loop, name=f"uplink-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End; what is not acknowledged stays in the spool. Safe to call twice."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout_s)
        for link in self._links:
            link.close()

    def __enter__(self) -> Uplink:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def wake(self) -> None:
        """There is a new episode: look now."""
        self._wake.set()
        if (stream := self._stream) is not None:
            stream.look()

    def flush(self, timeout_s: float) -> bool:
        """Wait until the spool is empty; False when the time is over."""
        if self._spool is None:
            return True
        self.wake()
        spool = self._spool
        with self._changed:
            return self._changed.wait_for(spool.is_empty, timeout_s)

    def status(self) -> UplinkStatus:
        """How things are now."""
        usage = self._spool.usage() if self._spool else None
        staged = self._store.staged() if self._store else None
        stream = self._stream
        return UplinkStatus(
            connected=any(self._connected.values()),
            pending=usage.entries if usage else 0,
            pending_bytes=usage.bytes if usage else 0,
            acknowledged=self._counts["acknowledged"],
            duplicates=self._counts["duplicates"],
            refused=self._counts["refused"],
            sent_bytes=self._counts["sent_bytes"] + (stream.sent_bytes if stream else 0),
            staged=staged.name if staged else "",
            alarm="the spool is full" if usage and usage.full else self._alarm or self._unwelcome,
            last_error=self._last_error,
        )

    def _ship_forever(self) -> None:
        assert self._spool is not None  # started only with one
        link, waits = self._links[0], Waits()
        while not self._stop.is_set():
            waiting = {entry.episode_id for entry in self._spool.entries()}
            if not waiting - self._held_back.now():
                self._wake.wait(_POLL_S)
                self._wake.clear()
                continue
            self._stream = UploadStream(
                link,
                self._spool,
                held_back=self._held_back.now,
                first_time=self._first_time,
                acknowledged=self._acknowledged,
                refused=self._refused,
                stopped=self._stop.is_set,
                in_flight=self._in_flight,
                chunk_bytes=self._chunk_bytes,
            )
            before = self._counts["acknowledged"]
            try:
                self._stream.run()
                waits.reset()
            except (GymnastError, OSError, ValueError) as error:  # ValueError: gRPC's for a channel closed meanwhile
                self._broken("episodes", error)
                link.reconnect()
                if self._counts["acknowledged"] > before:
                    waits.reset()
                self._stop.wait(waits.next_s())
            finally:
                self._counts["sent_bytes"] += self._stream.sent_bytes
                self._stream = None

    def _first_time(self, entry: SpoolEntry) -> bool:
        known = entry.episode_id in self._offered
        self._offered.add(entry.episode_id)
        return not known

    def _acknowledged(self, entry: SpoolEntry, duplicate: bool) -> None:
        assert self._spool is not None  # called by a stream that ships it
        self._held_back.forget(entry.episode_id)
        self._offered.discard(entry.episode_id)
        self._works("episodes")
        with self._changed:  # a flush sees it gone and counted, or neither
            self._spool.remove(entry)
            self._counts["acknowledged"] += 1
            self._counts["duplicates"] += duplicate
        self._alarm = ""
        self._notify("acknowledged", episode_id=entry.episode_id, size=entry.size, duplicate=duplicate)

    def _refused(self, entry: SpoolEntry, error: GymnastError, retry: bool) -> None:
        assert self._spool is not None  # called by a stream that ships it
        name = type(error).__name__
        if not retry:
            self._spool.set_aside(entry, f"{name}: {error}")
            self._counts["refused"] += 1
            self._raise_alarm(f"the trainer refused episode {entry.episode_id}: {error}")
            self._notify("refused", episode_id=entry.episode_id, error=name, detail=str(error))
            return
        wait_s = self._held_back.add(entry.episode_id)
        if isinstance(error, _ALARMS) or name == "QuotaError":
            self._raise_alarm(str(error))
        self._notify("held_back", episode_id=entry.episode_id, error=name, wait_s=round(wait_s, 2))

    def _watch_forever(self) -> None:
        assert self._store is not None  # started only with one
        link, waits = self._links[1], Waits()
        intake = ReleaseIntake(
            link, self._store, self._stop, report=self._notify, broken=lambda error: self._broken("weights", error)
        )

        def heard() -> None:
            self._works("weights")
            waits.reset()

        while not self._stop.is_set():
            try:
                intake.watch(heard)
            except (GymnastError, OSError, ValueError) as error:
                self._broken("weights", error)
                link.reconnect()
            self._stop.wait(waits.next_s())

    def _works(self, part: str) -> None:
        if not self._connected[part]:
            self._connected[part] = True
            self._unwelcome, self._away = "", False
            self._notify("connected", part=part)

    def _broken(self, part: str, error: Exception) -> None:
        self._last_error = f"{type(error).__name__}: {error}"
        if isinstance(error, _ALARMS):
            self._raise_alarm(str(error))
        if not self._away:
            self._away = True
            LOG.warning("trainer_away %s; trying on", self._last_error)
        if isinstance(error, IdentityError) and (words := _REQUEST.sub("", str(error))) != self._unwelcome:
            self._unwelcome = words
            LOG.error("trainer_refused %s", self._last_error)
            self._notify("alarm", detail=str(error))
        if self._connected[part]:
            self._connected[part] = False
            self._notify("disconnected", part=part, error=self._last_error)

    def _raise_alarm(self, text: str) -> None:
        if text != self._alarm:
            self._alarm = text
            LOG.error("uplink_alarm detail=%s", text)
            self._notify("alarm", detail=text)

    def _notify(self, kind: str, **data: object) -> None:
        LOG.info("uplink_%s %s", kind, " ".join(f"{name}={value}" for name, value in data.items()))
        self._on_event(UplinkEvent(kind, data))
        with self._changed:
            self._changed.notify_all()

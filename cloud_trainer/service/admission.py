"""How much of the service one peer, one tenant and all together may hold at once, and for how long without a word."""

from __future__ import annotations

import logging
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cloud_trainer.service.config import Limits
from gymnast_core.wire.errors import BusyError
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)
CALL, STREAM, HEALTH = "call", "stream", "health"
"""Classes of calls; each has threads of its own, so that none waits behind another."""
_HEALTH_PER_PEER = 2
_LOOK_S = 0.5
_MOST_FILES, _OWN_FILES, _SHARE = 65_536, 512, 2
"""Open files asked for, those kept back for episodes, blobs and databases, and which part of the rest the wire gets."""


class CallSlots:
    """Counts the calls that are under way. Threads may share it.

    Args:
        limits: per peer, per tenant and for all.
        threads: that serve short calls; no peer gets more than a quarter of them, and no tenant all.
    """

    def __init__(self, limits: Limits, threads: int) -> None:
        calls = max(1, min(limits.calls_per_peer, threads // 4))
        self._per_peer = {CALL: calls, STREAM: limits.streams_per_peer, HEALTH: _HEALTH_PER_PEER}
        self._per_tenant = {
            CALL: max(1, threads * 3 // 4), STREAM: limits.streams_per_tenant, HEALTH: 4 * _HEALTH_PER_PEER
        }  # fmt: skip
        self._streams = limits.streams
        self._open: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, peer: Peer, kind: str, method: str) -> Iterator[None]:
        """Hold one slot.

        Args:
            peer: the caller.
            kind: CALL, STREAM or HEALTH; streams are counted by method, others together.
            method: its name.

        Raises:
            BusyError: the peer, its tenant, or all together have too many.
        """
        what = method.rpartition("/")[2] if kind == STREAM else kind
        mine, tenants, every = ("peer", peer.uri(), what), ("tenant", peer.tenant, kind), ("all", kind)
        with self._lock:
            if self._open[mine] >= self._per_peer[kind]:
                raise BusyError(f"{peer.name!r} has {self._per_peer[kind]} {what} streams or calls open; end one first")
            if self._open[tenants] >= self._per_tenant[kind]:
                raise BusyError(f"tenant {peer.tenant!r} has {self._per_tenant[kind]} {kind}s open; try again later")
            if kind == STREAM and self._open[every] >= self._streams:
                raise BusyError(f"{self._streams} streams are open here, which is all there are; try again later")
            self._open.update((mine, tenants, every))
        try:
            yield
        finally:
            with self._lock:
                for key in (mine, tenants, every):
                    self._open[key] -= 1
                    if not self._open[key]:
                        del self._open[key]


class Patience:
    """Ends calls whose first message does not come. Threads may share it.

    Args:
        limit_s: how long is waited.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._waiting: dict[int, tuple[float, Any]] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="patience", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; safe where it never began."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    @contextmanager
    def waiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """The block ends, or the call is cancelled."""
        with self._lock:
            self._waiting[id(context)] = (time.monotonic() + self._limit_s, context)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(id(context), None)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            now_s = time.monotonic()
            with self._lock:
                late = [context for due_s, context in self._waiting.values() if due_s < now_s]
            for context in late:
                LOG.warning("call_ended peer=%s: no message within %.0f s", context.peer(), self._limit_s)
                context.cancel()


def connection_budget(limits: Limits) -> int:
    """Raise this process's limit of open files, and return how many connections the wire may have of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    free = (_MOST_FILES if soft == resource.RLIM_INFINITY else soft) - _OWN_FILES
    return max(16, min(limits.connections, free // _SHARE))

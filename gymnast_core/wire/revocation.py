"""Whose certificate still counts: the list of those that were taken back, as a server sees it.

One that was taken back or has run out is refused at the next call, and streams that are open end within a second. The
trainer and the servers beside it read the authority's own file; a server elsewhere asks the trainer for the list.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.wire.errors import RevokedError, ServerFaultError
from gymnast_core.wire.identity import Peer, peer_of

LOG = logging.getLogger(__name__)
REVOKED = "revoked.json"
"""In the authority's folder: serial -> whose."""
_LOOK_S = 0.2
_LEFT_S = 1.0
"""After which a reading that is under way, of a trainer that does not answer, is left to end by itself."""


def read_revoked(authority: Path) -> dict[str, str]:
    """Serial -> whose.

    Raises:
        CorruptError: the list is unreadable.
    """
    path = authority / REVOKED
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_bytes())
        return {str(serial): str(uri) for serial, uri in entries.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{path} is no list of revoked certificates: {error}; restore it") from error


class RevokedFile:
    """The authority's own list, read again whenever it changed; one that vanished stays in force.

    Args:
        authority: the CA folder.
    """

    def __init__(self, authority: Path) -> None:
        self._authority = authority
        self._seen: tuple[int, int] | None = None
        self._revoked: dict[str, str] = {}

    def __call__(self) -> Mapping[str, str]:
        """Return serial -> whose.

        Raises:
            CorruptError: it is unreadable.
            OSError: the folder cannot be entered.
        """
        self._authority.stat()
        try:
            status = (self._authority / REVOKED).stat()
        except FileNotFoundError:
            return self._revoked  # nothing was revoked yet
        if (status.st_mtime_ns, status.st_ino) != self._seen:
            self._revoked = read_revoked(self._authority)
            self._seen = (status.st_mtime_ns, status.st_ino)
        return self._revoked


@functools.lru_cache(maxsize=4096)
def _read_certificate(pem: bytes) -> tuple[Peer | None, float]:
    """The peer a certificate names, and until when [s since 1970]."""
    try:
        return peer_of(pem), x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError:
        return None, 0.0


class Revocations:
    """The list as a server sees it, and the calls that must end when it grows.

    A list that cannot be read keeps the one before in force, for so long as that is trusted.

    Args:
        read: returns the list as it is now, serial -> whose.
        every_s: between two readings.
        trusted_s: how old the list may be; with an older one nobody is let in.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, str]], *, every_s: float = _LOOK_S, trusted_s: float = math.inf
    ) -> None:
        self._source, self._every_s, self._trusted_s = read, every_s, trusted_s
        self._lock = threading.Lock()
        self._calls: dict[bytes, set[Any]] = {}
        self._read_at_s = -math.inf
        self._failure = ""
        self._revoked: Mapping[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="revocations", daemon=True)
        self._read()

    def start(self) -> None:
        """Begin to look for changes."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_LEFT_S)

    def peer(self, certificate_pem: bytes) -> Peer | None:
        """Return the peer a verified certificate names; None for one that names nobody of ours.

        Raises:
            RevokedError: it was taken back, or has run out since the connection was made.
            ServerFaultError: the list is older than it is trusted.
        """
        peer, until_s = _read_certificate(certificate_pem)
        if peer is None:
            return None
        if self.withdrawn(peer):
            raise RevokedError(
                f"the certificate {peer.serial} of {peer.uri()} was revoked; ask for a new one (`gymnast enroll`)"
            )
        if time.time() > until_s:
            raise RevokedError(f"the certificate {peer.serial} of {peer.uri()} has run out; ask for a new one")
        if time.monotonic() - self._read_at_s > self._trusted_s:
            raise ServerFaultError(
                f"this server has not read which certificates were revoked for more than {self._trusted_s:g} s "
                f"({self._failure}), and lets nobody in before it has"
            )
        return peer

    def withdrawn(self, peer: Peer) -> bool:
        """Whether what somebody holds was taken back: their certificate, or without one any of their name and role."""
        return peer.serial in self._revoked if peer.serial else peer.uri() in self._revoked.values()

    def serials(self, tenant: str) -> list[str]:
        """Return the serials, hexadecimal and in order, that were taken back in a tenant."""
        peers = {serial: Peer.from_uri(uri) for serial, uri in self._revoked.items()}
        return sorted(serial for serial, peer in peers.items() if peer is not None and peer.tenant == tenant)

    def admit(self, context: grpc.ServicerContext) -> Peer | None:
        """Let a call pass, and keep it in mind until it ends; returns whose it is.

        Raises:
            GymnastError: see peer().
        """
        certificates = context.auth_context().get("x509_pem_cert")
        pem = bytes(next(iter(certificates))) if certificates else b""
        if not pem or self.peer(pem) is None:  # before it is kept in mind: a refusal has a name, an ended call has none
            return None
        with self._lock:
            self._calls.setdefault(pem, set()).add(context)
        if not context.add_callback(functools.partial(self._forget, pem, context)):
            self._forget(pem, context)
        return self.peer(pem)

    def _forget(self, pem: bytes, context: grpc.ServicerContext) -> None:
        with self._lock:
            calls = self._calls.get(pem, set())
            calls.discard(context)
            if not calls:
                self._calls.pop(pem, None)

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self._read()
            self._end_calls()

    def _end_calls(self) -> None:
        with self._lock:
            open_calls = [(pem, list(calls)) for pem, calls in self._calls.items()]
        for pem, calls in open_calls:
            try:
                self.peer(pem)
            except GymnastError as error:
                LOG.warning("calls_ended count=%d reason=%s", len(calls), error)
                for call in calls:
                    call.cancel()

    def _read(self) -> None:
        """Read the list, or keep the one before; each failure is logged once."""
        try:
            self._revoked = self._source()
            self._read_at_s, self._failure = time.monotonic(), ""
        except (GymnastError, OSError) as error:
            if str(error) != self._failure:
                LOG.error("revocations_unreadable error=%s: those known before stay in force", error)
            self._failure = str(error)

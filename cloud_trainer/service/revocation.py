"""Whose certificate still counts.

One that was taken back or has run out is refused at the next call, on the wire and on the page, and streams that are
open end within a second.

The authority's folder keeps issued.jsonl (one line per certificate) and revoked.json (serial -> whose). The service
reads the second again whenever it changed, so nothing is restarted.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.wire.errors import RevokedError
from gymnast_core.wire.identity import Peer, peer_of

LOG = logging.getLogger(__name__)
ISSUED, REVOKED = "issued.jsonl", "revoked.json"
_LOOK_S = 0.2


def note_issued(authority: Path, serial: int, peer: Peer) -> None:
    """Remember a certificate, before it is handed out."""
    line = json.dumps({"serial": f"{serial:x}", "uri": peer.uri()}) + "\n"
    descriptor = os.open(authority / ISSUED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def revoke(authority: Path, name: str, *, tenant: str = "default") -> list[str]:
    """Take back every certificate issued to a name so far; a later `gymnast enroll` gives it a new, valid one.

    Args:
        authority: the CA folder.
        name: of the robot, person or machine, whatever its role.
        tenant: the tenant they belong to.

    Returns:
        The serials, hexadecimal, that were not revoked before.

    Raises:
        ConfigError: no certificate of that name was issued here.
    """
    mine = {entry["serial"]: entry["uri"] for entry in _issued(authority) if _is(entry["uri"], name, tenant)}
    if not mine:
        raise ConfigError(f"{authority} issued no certificate to {name!r} of tenant {tenant!r}; check the name")
    return _take_back(authority, mine)


def end_other_roles(authority: Path, peer: Peer) -> list[str]:
    """Take back what a name holds in another role than its newest certificate's: one name has one role at a time.

    Returns:
        The serials, hexadecimal, that were not revoked before.
    """
    others = {}
    for entry in _issued(authority):
        known = Peer.from_uri(entry["uri"])
        if known is not None and (known.name, known.tenant) == (peer.name, peer.tenant) and known.role != peer.role:
            others[entry["serial"]] = entry["uri"]
    return _take_back(authority, {serial: uri for serial, uri in others.items() if not _is_server(uri)})


def _take_back(authority: Path, serials: Mapping[str, str]) -> list[str]:
    with _alone(authority):  # two admins at once: both lists are kept
        revoked = read_revoked(authority)
        fresh = {serial: uri for serial, uri in serials.items() if serial not in revoked}
        if fresh:
            write_durably(authority / REVOKED, json.dumps({**revoked, **fresh}, indent=1).encode())
    return sorted(fresh)


@contextlib.contextmanager
def _alone(authority: Path) -> Iterator[None]:
    """One writer at a time; the kernel frees the lock of a process that dies."""
    descriptor = os.open(authority / ISSUED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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


def _issued(authority: Path) -> list[dict[str, str]]:
    path = authority / ISSUED
    try:
        lines = path.read_text().splitlines() if path.is_file() else []
        return [{"serial": str(entry["serial"]), "uri": str(entry["uri"])} for entry in map(json.loads, lines)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path} is no list of issued certificates: {error}; restore it") from error


def _is(uri: str, name: str, tenant: str) -> bool:
    peer = Peer.from_uri(uri)
    return peer is not None and (peer.name, peer.tenant) == (name, tenant)


def _is_server(uri: str) -> bool:
    peer = Peer.from_uri(uri)
    return peer is not None and peer.role == "server"


@functools.lru_cache(maxsize=4096)
def _read_certificate(pem: bytes) -> tuple[Peer | None, float]:
    """The peer a certificate names, and until when [s since 1970]."""
    try:
        return peer_of(pem), x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError:
        return None, 0.0


class Revocations:
    """The list as the service sees it, and the calls that must end when it grows.

    An unreadable list keeps the one before in force.

    Args:
        authority: the CA folder.
    """

    def __init__(self, authority: Path) -> None:
        self._authority = authority
        self._lock = threading.Lock()
        self._calls: dict[bytes, set[Any]] = {}
        self._seen: tuple[int, int] | None = None
        self._looked_at = 0.0
        self._revoked: dict[str, str] = {}
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
            self._thread.join()

    def peer(self, certificate_pem: bytes) -> Peer | None:
        """Return the peer a verified certificate names; None for one that names nobody of ours.

        Raises:
            RevokedError: it was taken back, or has run out since the connection was made.
        """
        peer, until_s = _read_certificate(certificate_pem)
        if peer is None:
            return None
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._read()
        if self.withdrawn(peer):
            raise RevokedError(
                f"the certificate {peer.serial} of {peer.uri()} was revoked; ask for a new one (`gymnast enroll`)"
            )
        if time.time() > until_s:
            raise RevokedError(f"the certificate {peer.serial} of {peer.uri()} has run out; ask for a new one")
        return peer

    def withdrawn(self, peer: Peer) -> bool:
        """Whether what somebody holds was taken back: their certificate, or without one any of their name and role."""
        return peer.serial in self._revoked if peer.serial else peer.uri() in self._revoked.values()

    def admit(self, context: grpc.ServicerContext) -> Peer | None:
        """Let a call pass, and keep it in mind until it ends; returns whose it is.

        Raises:
            RevokedError: see peer().
        """
        certificates = context.auth_context().get("x509_pem_cert")
        pem = bytes(certificates[0]) if certificates else b""
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
        while not self._stop.wait(_LOOK_S):
            self._read()
            self._end_calls()

    def _end_calls(self) -> None:
        with self._lock:
            open_calls = [(pem, list(calls)) for pem, calls in self._calls.items()]
        for pem, calls in open_calls:
            try:
                self.peer(pem)
            except RevokedError as error:
                LOG.warning("calls_ended count=%d reason=%s", len(calls), error)
                for call in calls:
                    call.cancel()

    def _read(self) -> None:
        """Look at the file, and read it if it changed."""
        self._looked_at = time.monotonic()
        try:
            status = (self._authority / REVOKED).stat()
            if (status.st_mtime_ns, status.st_ino) == self._seen:
                return
            self._seen = (status.st_mtime_ns, status.st_ino)
            self._revoked = read_revoked(self._authority)
        except FileNotFoundError:
            return  # nothing was revoked yet; a list that vanished stays in force
        except (CorruptError, OSError) as error:
            LOG.error("revocations_unreadable error=%s: those known before stay in force", error)

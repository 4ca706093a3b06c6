"""Certificates that were taken back: refused at the next call, and streams that are open end within a second.

The authority's folder keeps issued.jsonl (one line per certificate) and revoked.json (serial -> whose). The service
reads the second again whenever it changed, so nothing is restarted.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from cryptography import x509

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.wire.errors import RevokedError
from gymnast_core.wire.identity import Peer

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
        tenant: whose.

    Returns:
        The serials, hexadecimal, that were not revoked before.

    Raises:
        ConfigError: no certificate of that name was issued here.
    """
    mine = {entry["serial"]: entry["uri"] for entry in _issued(authority) if _is(entry["uri"], name, tenant)}
    if not mine:
        raise ConfigError(f"{authority} issued no certificate to {name!r} of tenant {tenant!r}; check the name")
    revoked = read_revoked(authority)
    fresh = {serial: uri for serial, uri in mine.items() if serial not in revoked}
    write_durably(authority / REVOKED, json.dumps({**revoked, **fresh}, indent=1).encode())
    return sorted(fresh)


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


@functools.lru_cache(maxsize=1024)
def _serial(certificate_pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(certificate_pem).serial_number:x}"


class Revocations:
    """The list as the service sees it, and the calls that must end when it grows.

    An unreadable list keeps the one before in force.

    Args:
        authority: the CA folder.
    """

    def __init__(self, authority: Path) -> None:
        self._authority = authority
        self._lock = threading.Lock()
        self._calls: dict[str, set[Any]] = {}
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

    def admit(self, context: Any) -> None:
        """Let a call pass, and keep it in mind until it ends.

        Raises:
            RevokedError: its certificate was taken back.
        """
        certificates = context.auth_context().get("x509_pem_cert")
        if not certificates:
            return  # no certificate: not ours to judge
        try:
            serial = _serial(bytes(certificates[0]))
        except ValueError:
            return  # none that the authority issued; authorise() refuses it
        with self._lock:
            self._calls.setdefault(serial, set()).add(context)
        if not context.add_callback(functools.partial(self._forget, serial, context)):
            self._forget(serial, context)
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._read()
        if (uri := self._revoked.get(serial)) is not None:
            raise RevokedError(f"the certificate {serial} of {uri} was revoked; ask for a new one (`gymnast enroll`)")

    def _forget(self, serial: str, context: Any) -> None:
        with self._lock:
            calls = self._calls.get(serial, set())
            calls.discard(context)
            if not calls:
                self._calls.pop(serial, None)

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._read()
            self._end_calls()

    def _end_calls(self) -> None:
        with self._lock:
            ending = [(serial, call) for serial in self._revoked for call in self._calls.get(serial, ())]
        for serial, call in ending:
            LOG.warning("call_ended serial=%s of=%s: its certificate was revoked", serial, self._revoked[serial])
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

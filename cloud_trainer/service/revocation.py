"""Takes certificates back.

The authority's folder keeps issued.jsonl (one line per certificate) and revoked.json (serial -> whose), which
gymnast_core.wire.revocation reads: nothing is restarted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.wire.identity import Peer
from gymnast_core.wire.revocation import REVOKED, read_revoked

ISSUED = "issued.jsonl"


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

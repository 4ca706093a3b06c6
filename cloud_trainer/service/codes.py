"""One-time codes on the trainer's side: made by its administrator, good for minutes, for one key.

A code that is open adds one authority to those whose certificates open a connection (gymnast_core.wire.code). What came
in that way may call Enroll and nothing else: the name, role and tenant are those the administrator gave, whatever the
certificate claims.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloud_trainer.service.enroll import checked_hosts, checked_peer, create_authority, issue
from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.wire.code import Code, code_id
from gymnast_core.wire.errors import NotPermittedError
from gymnast_core.wire.identity import AUTHORITY, TRUST, Peer

LOG = logging.getLogger(__name__)
NEWCOMER = "newcomer"
MINUTES, _MOST_MINUTES, _MOST_OPEN = 15.0, 24 * 60.0, 64
_FOLDER = "codes"
_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class _Entry:
    """A code as the trainer keeps it: nothing in it opens a connection.

    Attributes:
        name, role, tenant, days: of the identity it is for.
        hosts: of a server, see enroll().
        until_s: since 1970; the trainer's clock.
        anchor: PEM of the authority it stands for.
        certificate: PEM of what was issued for it; empty before.
    """

    name: str
    role: str
    tenant: str
    days: float
    until_s: float
    anchor: str
    certificate: str = ""
    hosts: Sequence[str] = ()


def make_code(
    authority: Path, name: str, role: str, *, tenant: str = "default", days: float = 90, minutes: float = MINUTES,
    hosts: Sequence[str] = (),
) -> str:  # fmt: skip
    """Return a code that fetches one identity onto another machine.

    Args:
        authority: the CA folder of the trainer; made when missing.
        name: of the identity, as role, tenant and days: see enroll().
        role: robot, operator, trainer, admin, or server for one beside the trainer.
        tenant: the tenant of the data it may touch.
        days: how long the certificate is valid.
        minutes: how long the code is good.
        hosts: of a server, see enroll().

    Raises:
        ConfigError: a value makes no sense, or too many codes are open.
        ContractError: name or tenant is no id.
    """
    peer, hosts = checked_peer(name, role, tenant, days), checked_hosts(role, hosts)
    if not 0 < minutes <= _MOST_MINUTES:
        raise ConfigError(f"minutes must be more than 0 and at most {_MOST_MINUTES:.0f}, got {minutes}")
    create_authority(authority)
    for path, entry in _entries(authority).items():
        if entry.until_s < time.time():
            path.unlink(missing_ok=True)
    if len(_entries(authority)) >= _MOST_OPEN:
        raise ConfigError(f"{_MOST_OPEN} codes are open in {authority}; wait until some have run out")
    code = Code.new(x509.load_pem_x509_certificate((authority / AUTHORITY).read_bytes()))
    until = dt.datetime.now(dt.timezone.utc) + dt.timedelta(minutes=minutes)
    anchor = _anchor(code, until).public_bytes(Encoding.PEM).decode()
    entry = _Entry(peer.name, peer.role, peer.tenant, days, until.timestamp(), anchor, hosts=hosts)
    (authority / _FOLDER).mkdir(exist_ok=True, mode=0o700)
    _write(authority / _FOLDER / f"{code_id(code.subject())}.json", entry)
    return code.text()


def withdraw_codes(authority: Path, name: str, *, tenant: str = "default") -> int:
    """Close every open code of a name; returns how many there were."""
    mine = [path for path, entry in _entries(authority).items() if (entry.name, entry.tenant) == (name, tenant)]
    for path in mine:
        path.unlink(missing_ok=True)
    return len(mine)


class OpenCodes:
    """What the running service makes of codes.

    Args:
        authority: the CA folder.
    """

    def __init__(self, authority: Path) -> None:
        self._authority, self._redeeming = authority, threading.Lock()
        self._ca_pem = (authority / AUTHORITY).read_bytes()

    def client_authorities(self) -> bytes:
        """PEM of whatever may have issued a client's certificate: our authority, and one for each open code."""
        anchors = [entry.anchor for entry in _entries(self._authority).values() if entry.until_s > time.time()]
        return self._ca_pem + "".join(anchors).encode()

    def newcomer(self, certificate_pem: bytes) -> Peer | None:
        """Return the peer that comes with a code; None for a certificate that our authority issued.

        Args:
            certificate_pem: of the caller's connection.

        Raises:
            NotPermittedError: neither; the code has run out meanwhile, or was withdrawn.
        """
        if _issued_by(self._ca_pem, certificate_pem):
            return None
        entry = self._entry(certificate_pem)[1]
        return Peer(entry.name, NEWCOMER, entry.tenant)

    def redeem(self, certificate_pem: bytes) -> tuple[bytes, bytes, bytes]:
        """Issue what a code is for, to the key of the caller's connection; the same key may ask again.

        Returns:
            PEM of certificate and authority, and trust.pub.

        Raises:
            NotPermittedError: the code is not open, or another key has used it.
        """
        public = x509.load_pem_x509_certificate(certificate_pem).public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise NotPermittedError("an identity has an elliptic-curve key; ask with `gymnast enroll --remote`")
        with self._redeeming:
            path, entry = self._entry(certificate_pem)
            if not entry.certificate:
                peer = checked_peer(entry.name, entry.role, entry.tenant, entry.days)
                issued = issue(self._authority, peer, public, entry.days, entry.hosts)
                entry = replace(entry, certificate=issued.decode())
                _write(path, entry)
                LOG.info("enrolled name=%s role=%s tenant=%s code=%s", peer.name, peer.role, peer.tenant, path.stem)
            elif _key_of(entry.certificate.encode()) != _key_of(certificate_pem):
                LOG.warning("code_used_again name=%s tenant=%s code=%s", entry.name, entry.tenant, path.stem)
                raise NotPermittedError(
                    f"this code was used already, by another key. If that was not you, take it back on the trainer: "
                    f"gymnast enroll {entry.name} --revoke"
                )
        return entry.certificate.encode(), self._ca_pem, (self._authority / TRUST).read_bytes()

    def _entry(self, certificate_pem: bytes) -> tuple[Path, _Entry]:
        path = self._authority / _FOLDER / f"{_code_of(certificate_pem)}.json"
        entry = _read(path) if path.is_file() else None
        if entry is None or entry.until_s < time.time() or not _issued_by(entry.anchor.encode(), certificate_pem):
            raise NotPermittedError("this code is not open any more; ask the trainer's administrator for another")
        return path, entry


def _anchor(code: Code, until: dt.datetime) -> x509.Certificate:
    """The authority that a code stands for."""
    key, name = code.key(), code.subject()
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(dt.datetime.now(dt.timezone.utc) - _SKEW).not_valid_after(until)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA256())


def _entries(authority: Path) -> dict[Path, _Entry]:
    read = {path: _read(path) for path in sorted((authority / _FOLDER).glob("*.json"))}
    return {path: entry for path, entry in read.items() if entry is not None}


def _read(path: Path) -> _Entry | None:
    try:
        return _Entry(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None  # withdrawn this moment
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path} is no code: {error}; delete it and make another") from error


def _write(path: Path, entry: _Entry) -> None:
    write_durably(path, json.dumps(asdict(entry), indent=1).encode())
    path.chmod(0o600)


@functools.lru_cache(maxsize=4096)
def _issued_by(authority_pem: bytes, certificate_pem: bytes) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _code_of(certificate_pem: bytes) -> str:
    """Id of the code whose key signed a certificate; "none" for any other."""
    try:
        return code_id(x509.load_pem_x509_certificate(certificate_pem).issuer) or "none"
    except ValueError:
        return "none"


def _key_of(certificate_pem: bytes) -> bytes:
    public = x509.load_pem_x509_certificate(certificate_pem).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

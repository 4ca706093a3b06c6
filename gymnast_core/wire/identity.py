"""Who we are to the other side: a folder with a certificate, its key, the authority, and the release keys."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import ConfigError
from gymnast_core.records.signing import TrustedKeys

CERTIFICATE, KEY, AUTHORITY, TRUST = "cert.pem", "key.pem", "ca.pem", "trust.pub"
ROLES = ("robot", "operator", "trainer", "admin", "server")
_SCHEME = "gymnast://"


@dataclass(frozen=True)
class Peer:
    """The holder of a verified certificate.

    Attributes:
        name: of the robot, person or machine.
        role: one of ROLES.
        tenant: the tenant of the data it may touch.
        serial: of the certificate, hexadecimal; empty where there is none.
        until_ns: when the certificate runs out, wall clock; 0 where there is none.
    """

    name: str
    role: str
    tenant: str
    serial: str = field(default="", compare=False)
    until_ns: int = field(default=0, compare=False)

    def uri(self) -> str:
        """As it is written into a certificate."""
        return f"{_SCHEME}{self.tenant}/{self.role}/{self.name}"

    @staticmethod
    def from_uri(uri: str) -> Peer | None:
        """Parse uri(); None for anything else."""
        parts = uri.removeprefix(_SCHEME).split("/") if uri.startswith(_SCHEME) else []
        if len(parts) != 3 or parts[1] not in ROLES:
            return None
        return Peer(name=parts[2], role=parts[1], tenant=parts[0])


def peer_of(certificate_pem: bytes) -> Peer | None:
    """Return the peer a certificate names, or None when it is none of ours."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if (peer := Peer.from_uri(uri)) is not None:
            until_ns = int(certificate.not_valid_after_utc.timestamp()) * 10**9
            return replace(peer, serial=f"{certificate.serial_number:x}", until_ns=until_ns)
    return None


def names_in(certificate_pem: bytes) -> list[str]:
    """Return the DNS names and addresses a certificate names; none of something else."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


@dataclass(frozen=True)
class Identity:
    """An identity folder in memory.

    Attributes:
        folder: where it was read from.
        certificate: PEM.
        key: PEM.
        authority: PEM of the authority that vouches for the other side.
        peer: the holder of our own certificate.
    """

    folder: Path
    certificate: bytes
    key: bytes
    authority: bytes
    peer: Peer

    @staticmethod
    def load(folder: Path) -> Identity:
        """Read a folder made by `gymnast enroll`.

        Raises:
            ConfigError: a file is missing or the certificate is not ours.
        """
        missing = [name for name in (CERTIFICATE, KEY, AUTHORITY) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"{folder} lacks {missing}; make it with `gymnast enroll`")
        certificate = (folder / CERTIFICATE).read_bytes()
        peer = peer_of(certificate)
        if peer is None:
            raise ConfigError(f"{folder / CERTIFICATE} was not made by `gymnast enroll`")
        return Identity(folder, certificate, (folder / KEY).read_bytes(), (folder / AUTHORITY).read_bytes(), peer)

    def trusted_keys(self) -> TrustedKeys:
        """The keys releases must be signed with.

        Raises:
            ConfigError: the folder has none.
        """
        return TrustedKeys.load(self.folder / TRUST)

    def out_of_date(self) -> str:
        """Return what is wrong with the time our certificate is valid for; empty when nothing is."""
        certificate, now = x509.load_pem_x509_certificate(self.certificate), dt.datetime.now(dt.timezone.utc)
        if now > certificate.not_valid_after_utc:
            return f"{self.folder / CERTIFICATE} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; enroll again"
        if now < certificate.not_valid_before_utc:
            since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
            return (
                f"{self.folder / CERTIFICATE} is valid from {since} UTC, and the clock here says {now:%Y-%m-%d %H:%M}"
            )
        return ""

    def fingerprint(self) -> tuple[int, int]:
        """Changes when the certificate on the disk was rotated."""
        status = (self.folder / CERTIFICATE).stat()
        return status.st_mtime_ns, status.st_ino


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key, readable by its owner alone."""
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    mask = os.umask(0o077)
    try:
        write_durably(path, data)
    finally:
        os.umask(mask)

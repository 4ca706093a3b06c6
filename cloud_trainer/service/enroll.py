"""A local certificate authority: who may talk to this service, and as what."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_trainer.service.revocation import end_other_roles, note_issued
from gymnast_core.episodes.durable import write_durably
from gymnast_core.episodes.messages import checked_id
from gymnast_core.errors import ConfigError
from gymnast_core.records.signing import SigningKey
from gymnast_core.wire.address import ip_of, is_everywhere, plain_host
from gymnast_core.wire.identity import AUTHORITY, CERTIFICATE, KEY, ROLES, TRUST, Peer, write_key

_CA_KEY, _RELEASE_KEY = "ca.key", "release.key"
_CA_DAYS = _MOST_DAYS = 3650
_CLOCK_SKEW = dt.timedelta(minutes=5)
_PrivateKey = ec.EllipticCurvePrivateKey


def create_authority(folder: Path) -> None:
    """Make a certificate authority and a release signing key: whichever of the two the folder lacks."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / _RELEASE_KEY).is_file():
        SigningKey.generate().save(folder / _RELEASE_KEY)
        (folder / TRUST).unlink(missing_ok=True)
    if not (folder / TRUST).is_file():
        write_durably(folder / TRUST, SigningKey.load(folder / _RELEASE_KEY).public_bytes().hex().encode() + b"\n")
    if (folder / AUTHORITY).is_file():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gymnast local authority")])
    builder = _certificate(name, name, key.public_key(), dt.timedelta(days=_CA_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    write_key(folder / _CA_KEY, key)
    write_durably(folder / AUTHORITY, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def release_key(authority: Path) -> SigningKey:
    """The key releases are signed with."""
    return SigningKey.load(authority / _RELEASE_KEY)


def enroll(
    authority: Path,
    name: str,
    role: str,
    *,
    out: Path,
    tenant: str = "default",
    days: float = 90,
    hosts: Sequence[str] = (),
) -> Path:
    """Issue an identity folder; the same call again rotates its certificate and key.

    A name of a tenant has one role at a time: certificates it holds in another role are taken back.

    Args:
        authority: the CA folder; made when missing.
        name: of the robot, person or machine, [A-Za-z0-9_-]{1,64}.
        role: robot, operator, trainer, admin or server.
        out: folder that gets cert.pem, key.pem, ca.pem and trust.pub.
        tenant: the tenant of the data it may touch.
        days: how long the certificate is valid.
        hosts: DNS names and addresses of a server, see checked_hosts().

    Returns:
        out.

    Raises:
        ConfigError: an unknown role, or no days left to live.
        ContractError: name or tenant is no id.
    """
    peer = checked_peer(name, role, tenant, days)
    create_authority(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue(authority, peer, key.public_key(), days, hosts)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(out / AUTHORITY, (authority / AUTHORITY).read_bytes())
    write_durably(out / TRUST, (authority / TRUST).read_bytes())
    write_key(out / KEY, key)
    write_durably(out / CERTIFICATE, certificate)
    return out


def checked_peer(name: str, role: str, tenant: str, days: float) -> Peer:
    """Return the peer that an identity shall name; raises as enroll()."""
    if role not in ROLES:
        raise ConfigError(f"role must be one of {ROLES}, got {role!r}")
    if not 0 < days <= _MOST_DAYS:
        raise ConfigError(f"days must be more than 0 and at most {_MOST_DAYS}, got {days}")
    return Peer(checked_id(name, "name"), role, checked_id(tenant, "tenant"))


def checked_hosts(role: str, hosts: Sequence[str]) -> list[str]:
    """Return what callers may reach a server by; of any other role nothing.

    Raises:
        ConfigError: a server without, another role with some, or one that is neither a name nor an address.
    """
    if role == "server" and not hosts:
        raise ConfigError("a server's certificate says what callers reach it by: --host NAME or ADDRESS, repeated")
    if role != "server" and hosts:
        raise ConfigError(f"--host is of --role server; {role} calls others and is reached by nobody")
    found = [str(ip_of(plain := plain_host(host)) or plain) for host in hosts]
    if everywhere := [host for host in found if is_everywhere(host)]:
        raise ConfigError(f"--host {everywhere[0]} is every address; name those that callers use")
    return found


def issue(
    authority: Path, peer: Peer, public: ec.EllipticCurvePublicKey, days: float, hosts: Sequence[str] = ()
) -> bytes:
    """Return a certificate for a key, noted before it is handed out.

    Args:
        authority: the CA folder.
        peer: the peer it names.
        public: the holder's key.
        days: how long it is valid.
        hosts: DNS names and addresses of a server.

    Raises:
        ConfigError: the authority's key is none.
    """
    ca_key = serialization.load_pem_private_key((authority / _CA_KEY).read_bytes(), None)
    ca = x509.load_pem_x509_certificate((authority / AUTHORITY).read_bytes())
    if not isinstance(ca_key, _PrivateKey):
        raise ConfigError(f"{authority / _CA_KEY} is no elliptic-curve key; was it made by `gymnast enroll`?")
    certificate = _issue(peer, public, ca, days, hosts).sign(ca_key, hashes.SHA256())
    note_issued(authority, certificate.serial_number, peer)
    if peer.role != "server":
        end_other_roles(authority, peer)
    return certificate.public_bytes(serialization.Encoding.PEM)


def days_left(certificate_pem: bytes) -> float:
    """Days until a certificate expires."""
    until = x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc
    return (until - dt.datetime.now(dt.timezone.utc)).total_seconds() / 86400


def _issue(
    peer: Peer, public: ec.EllipticCurvePublicKey, ca: x509.Certificate, days: float, hosts: Sequence[str]
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer.name)])
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(peer.uri())]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    server = peer.role == "server"
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _certificate(subject, ca.subject, public, dt.timedelta(days=days))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)


def _certificate(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, life: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _CLOCK_SKEW).not_valid_after(now + life)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

"""An SROS2 keystore for one robot's graph: an authority, and for every process an identity and what it may do.

Laid out as `ros2 security create_keystore` and `create_enclave` do, so ros2's own tools go on with it; no ROS in here.

Source: ros2/sros2 e349fcf, sros2/sros2/keystore (folders, certificates, signing) and
policy/templates/dds/permissions.xsl (names of topics on the wire); OMG DDS Security 1.1, 9.4.1 (documents).
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from gymnast_core.errors import ConfigError
from gymnast_ros.processes import SECURITY

AUTHORITY = "gymnast robot authority"
GOVERNANCE = "governance.p7s"
FILES = ("identity_ca.cert.pem", "permissions_ca.cert.pem", "cert.pem", "key.pem", GOVERNANCE, "permissions.p7s")
"""What a process reads of its enclave."""
DISCOVERY = "ros_discovery_info"
"""How ROS nodes discover each other; every process sends and hears it."""
SCHEMA = "http://www.omg.org/spec/DDS-SECURITY/20170901/omg_shared_ca_{}.xsd"
ENCLAVE = "ROS_SECURITY_ENCLAVE_OVERRIDE"
"""Environment that names the enclave of a command, or of every process of another launch file."""
RENEW_DAYS = 30
"""A certificate that ends sooner is made anew."""
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Access:
    """What one process may do; names are fully qualified, without DDS's own prefixes.

    Attributes:
        enclave: its name, e.g. /arm or /left/arm.
        publish: topics it publishes.
        subscribe: topics it subscribes to; * stands for any text.
        serve: services it offers.
        call: services it calls.
    """

    enclave: str
    publish: frozenset[str]
    subscribe: frozenset[str]
    serve: frozenset[str]
    call: frozenset[str]

    @property
    def says(self) -> list[str]:
        """Topics on the wire that it writes."""
        names = {f"rt{name}" for name in self.publish} | {f"rr{name}Reply" for name in self.serve}
        return sorted(names | {f"rq{name}Request" for name in self.call} | {DISCOVERY})

    @property
    def hears(self) -> list[str]:
        """Topics on the wire that it reads."""
        names = {f"rt{name}" for name in self.subscribe} | {f"rq{name}Request" for name in self.serve}
        return sorted(names | {f"rr{name}Reply" for name in self.call} | {DISCOVERY})


def make_keystore(folder: Path, graph: Sequence[Access], *, domain: int, days: int = 365) -> list[str]:
    """Write a keystore, or bring one up to date: the authority and keys that are still good stay.

    Args:
        folder: of the keystore.
        graph: the processes.
        domain: ROS_DOMAIN_ID it is for.
        days: validity of identities and permissions.

    Returns:
        The enclaves that got a new key.

    Raises:
        ConfigError: the folder holds a keystore that cannot be read.
    """
    for name in ("public", "private", "enclaves"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "private").chmod(0o700)
    authority = _authority(folder)
    _write_signed(folder / "enclaves" / "governance.xml", _governance(domain), authority)
    fresh = []
    for access in graph:
        own = folder_of(folder, access.enclave)
        own.mkdir(parents=True, exist_ok=True)
        for name in ("identity_ca.cert.pem", "permissions_ca.cert.pem"):
            _link(own / name, folder / "public" / name)
        _link(own / GOVERNANCE, folder / "enclaves" / GOVERNANCE)
        if _ends_soon(own / "cert.pem", authority.certificate):
            _identity(own, access.enclave, authority, days)
            fresh.append(access.enclave)
        until = x509.load_pem_x509_certificate((own / "cert.pem").read_bytes()).not_valid_after_utc
        _write_signed(own / "permissions.xml", _permissions(access, domain, until), authority)
    return fresh


def folder_of(keystore: Path, enclave: str) -> Path:
    """Return where an enclave lies."""
    return keystore / "enclaves" / enclave.strip("/")


def check_keystore(folder: Path, enclaves: Iterable[str]) -> None:
    """Return if every process finds what it needs.

    Raises:
        ConfigError: a file is missing or a certificate has run out; the message names it and the remedy.
    """
    remedy = f"gymnast enclaves {folder} makes it, with the same namespace and domain"
    for enclave in enclaves:
        own = folder_of(folder, enclave)
        if missing := [name for name in FILES if not (own / name).is_file()]:
            raise ConfigError(f"enclaves:={folder} has no {', '.join(missing)} of {enclave}; {remedy}")
        until = x509.load_pem_x509_certificate((own / "cert.pem").read_bytes()).not_valid_after_utc
        if until < dt.datetime.now(dt.timezone.utc):
            raise ConfigError(f"enclaves:={folder}: the identity of {enclave} ran out on {until:%Y-%m-%d}; {remedy}")


def security_environment(keystore: Path) -> dict[str, str]:
    """Return what makes ROS 2 use a keystore, and refuse to run without."""
    return {
        "ROS_SECURITY_KEYSTORE": str(keystore.absolute()), SECURITY: "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
    }  # fmt: skip


@dataclass(frozen=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def _authority(folder: Path) -> _Authority:
    """The keystore's own, made where there is none."""
    key_path, path = folder / "private" / "ca.key.pem", folder / "public" / "ca.cert.pem"
    if key_path.exists() != path.exists():
        raise ConfigError(f"{folder} holds one of {key_path.name} and {path.name} alone; choose another folder")
    if not key_path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(AUTHORITY)
        certificate = _certificate(name, key.public_key(), name, key, 3650, x509.BasicConstraints(True, 1))
        _write_private(key_path, key)
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        for kind in ("identity", "permissions"):
            _link(folder / "private" / f"{kind}_ca.key.pem", key_path)
            _link(folder / "public" / f"{kind}_ca.cert.pem", path)
    try:
        loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the authority in {folder} cannot be read: {error}; choose another folder") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{key_path} is no elliptic-curve key; choose another folder")
    return _Authority(loaded, certificate)


def _identity(own: Path, enclave: str, authority: _Authority, days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(
        _name(enclave), key.public_key(), authority.certificate.subject, authority.key, days,
        x509.BasicConstraints(False, None),
    )  # fmt: skip
    _write_private(own / "key.pem", key)
    (own / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, issuer: x509.Name, key: ec.EllipticCurvePrivateKey,
    days: int, constraints: x509.BasicConstraints,
) -> x509.Certificate:  # fmt: skip
    now = dt.datetime.now(dt.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number()).add_extension(constraints, critical=constraints.ca)
    return builder.not_valid_before(now - _DAY).not_valid_after(now + days * _DAY).sign(key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _ends_soon(path: Path, issuer: x509.Certificate) -> bool:
    """Whether there is no certificate of this authority that lasts."""
    if not path.is_file():
        return True
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        found.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):  # damaged, or another authority's
        return True
    return found.not_valid_after_utc < dt.datetime.now(dt.timezone.utc) + RENEW_DAYS * _DAY


def _governance(domain: int) -> ElementTree.Element:
    """Nobody without an identity, everything encrypted, every topic under access control."""
    root = _document("governance")
    rule = ElementTree.SubElement(ElementTree.SubElement(root, "domain_access_rules"), "domain_rule")
    ElementTree.SubElement(ElementTree.SubElement(rule, "domains"), "id").text = str(domain)
    for name, value in (
        ("allow_unauthenticated_participants", "false"), ("enable_join_access_control", "true"),
        ("discovery_protection_kind", "ENCRYPT"), ("liveliness_protection_kind", "ENCRYPT"),
        ("rtps_protection_kind", "SIGN"),
    ):  # fmt: skip
        ElementTree.SubElement(rule, name).text = value
    topic = ElementTree.SubElement(ElementTree.SubElement(rule, "topic_access_rules"), "topic_rule")
    for name, value in (
        ("topic_expression", "*"), ("enable_discovery_protection", "true"), ("enable_liveliness_protection", "true"),
        ("enable_read_access_control", "true"), ("enable_write_access_control", "true"),
        ("metadata_protection_kind", "ENCRYPT"), ("data_protection_kind", "ENCRYPT"),
    ):  # fmt: skip
        ElementTree.SubElement(topic, name).text = value
    return root


def _permissions(access: Access, domain: int, until: dt.datetime) -> ElementTree.Element:
    root = _document("permissions")
    grant = ElementTree.SubElement(ElementTree.SubElement(root, "permissions"), "grant", name=access.enclave)
    ElementTree.SubElement(grant, "subject_name").text = f"CN={access.enclave}"
    validity = ElementTree.SubElement(grant, "validity")
    ElementTree.SubElement(validity, "not_before").text = f"{dt.datetime.now(dt.timezone.utc) - _DAY:%Y-%m-%dT%H:%M:%S}"
    ElementTree.SubElement(validity, "not_after").text = f"{until:%Y-%m-%dT%H:%M:%S}"
    rule = ElementTree.SubElement(grant, "allow_rule")
    ElementTree.SubElement(ElementTree.SubElement(rule, "domains"), "id").text = str(domain)
    for kind, names in (("publish", access.says), ("subscribe", access.hears)):
        topics = ElementTree.SubElement(ElementTree.SubElement(rule, kind), "topics")
        for name in names:
            ElementTree.SubElement(topics, "topic").text = name
    ElementTree.SubElement(grant, "default").text = "DENY"
    return root


def _document(kind: str) -> ElementTree.Element:
    return ElementTree.Element("dds", {
        "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance", "xsi:noNamespaceSchemaLocation": SCHEMA.format(kind),
    })  # fmt: skip


def _write_signed(path: Path, document: ElementTree.Element, authority: _Authority) -> None:
    """Write a document, and beside it the S/MIME message that the middleware reads."""
    ElementTree.indent(document)
    text = ElementTree.tostring(document, encoding="utf-8", xml_declaration=True) + b"\n"
    signer = pkcs7.PKCS7SignatureBuilder().set_data(text).add_signer(
        authority.certificate, authority.key, hashes.SHA256()
    )  # fmt: skip
    options = [pkcs7.PKCS7Options.Text, pkcs7.PKCS7Options.DetachedSignature]
    path.write_bytes(text)
    path.with_suffix(".p7s").write_bytes(signer.sign(serialization.Encoding.SMIME, options))


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)


def _link(link: Path, target: Path) -> None:
    """Point there, relatively: the keystore may be moved as a whole."""
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))

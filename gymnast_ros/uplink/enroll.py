"""Fetches an identity onto this machine with a one-time code; the private key is made here and stays here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gymnast_client.link import Link
from gymnast_core.episodes.durable import write_durably
from gymnast_core.wire.address import Address
from gymnast_core.wire.code import Code, fingerprint
from gymnast_core.wire.diagnosis import UnwelcomeError, shown_certificate
from gymnast_core.wire.errors import NotAuthenticatedError
from gymnast_core.wire.gymnast.v1 import enroll_pb2, enroll_pb2_grpc
from gymnast_core.wire.identity import AUTHORITY, CERTIFICATE, KEY, TRUST, Identity, Peer, peer_of, write_key


def fetch_identity(address: str, code: str, out: Path | None = None) -> Identity:
    """Ask a trainer for the identity a code is for, and write its folder.

    Args:
        address: host:port of the trainer.
        code: as its administrator made it (`gymnast enroll NAME --code`).
        out: folder to write; None is identities/NAME.

    Raises:
        ConfigError: address or code is none.
        NotAuthenticatedError: the trainer does not know the code, or is not the one that made it.
        NotPermittedError: the code was used by another key, or has run out.
        TransientBridgeError: the trainer is not reached.
    """
    where, known, key = Address.parse(address), Code.parse(code), ec.generate_private_key(ec.SECP256R1())
    shown = shown_certificate(where)
    if not shown:
        raise NotAuthenticatedError(f"{where} speaks no TLS; is it a trainer, started without --insecure?")
    with tempfile.TemporaryDirectory(prefix="gymnast-enroll-") as folder:
        reply = _ask(where, known, key, shown, Path(folder))
    peer = _checked(reply, known, key.public_key(), shown, where)
    return _write(out or Path("identities") / peer.name, reply, key)


def _ask(
    where: Address, code: Code, key: ec.EllipticCurvePrivateKey, shown: bytes, folder: Path
) -> enroll_pb2.EnrollReply:
    """Call Enroll as a newcomer. What the server showed is all it can be checked against before it has answered."""
    certificate = code.introduce(key.public_key()).public_bytes(Encoding.PEM)
    write_durably(folder / CERTIFICATE, certificate)
    write_key(folder / KEY, key)
    newcomer = Identity(folder, certificate, (folder / KEY).read_bytes(), shown, Peer("newcomer", "newcomer", ""))
    link = Link(str(where), newcomer)
    try:
        return link.call(lambda channel: enroll_pb2_grpc.EnrollServiceStub(channel).Enroll, enroll_pb2.EnrollRequest())
    except UnwelcomeError as error:
        raise NotAuthenticatedError(
            f"{where} does not know this code: it has run out, was mistyped, or is another trainer's; make one there "
            f"with `gymnast enroll NAME --code`"
        ) from error
    finally:
        link.close()


def _checked(
    reply: enroll_pb2.EnrollReply, code: Code, public: ec.EllipticCurvePublicKey, shown: bytes, where: Address
) -> Peer:
    """Return the peer of the answer, if the authority that the code pins gave it, over its own server's connection."""
    try:
        authority = x509.load_pem_x509_certificate(reply.authority)
        certificate = x509.load_pem_x509_certificate(reply.certificate)
        for issued in (certificate, x509.load_pem_x509_certificate(shown)):
            issued.verify_directly_issued_by(authority)
        server, peer = peer_of(shown), peer_of(reply.certificate)
        ours = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        wanted = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _in_between(where) from error
    genuine = fingerprint(authority) == code.pin and server is not None and server.role == "server" and ours == wanted
    if not genuine or peer is None:
        raise _in_between(where)
    return peer


def _in_between(where: Address) -> NotAuthenticatedError:
    return NotAuthenticatedError(
        f"what answered at {where} is not the trainer that made this code: another trainer, or somebody in between; "
        f"nothing was written. Check the address, and make a new code"
    )


def _write(out: Path, reply: enroll_pb2.EnrollReply, key: ec.EllipticCurvePrivateKey) -> Identity:
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(out / AUTHORITY, bytes(reply.authority))
    write_durably(out / TRUST, bytes(reply.trust))
    write_key(out / KEY, key)
    write_durably(out / CERTIFICATE, bytes(reply.certificate))
    return Identity.load(out)

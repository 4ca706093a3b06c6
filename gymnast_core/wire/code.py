"""One-time codes: how a machine without an identity and a trainer know each other for the one call that issues it.

A code is eight groups of five characters. Half of it is a secret, from which both sides derive a key; the trainer
admits a caller whose certificate this key signed, so the secret is never sent and a wrong one gets no connection. The
other half is the fingerprint of the trainer's authority, so that nobody in between can answer in its place. The same
idea as kubeadm's join tokens with a pinned authority, with the token as the TLS client's key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from gymnast_core.errors import ConfigError

_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: none that is taken for another
_ALIKE = str.maketrans("OIL", "011")
_HALF, _GROUP = 20, 5
_BITS = 5 * _HALF
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SUBJECT = "gymnast code "
_EVER = dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc), dt.datetime(9999, 1, 1, tzinfo=dt.timezone.utc)


@dataclass(frozen=True, repr=False)
class Code:
    """A one-time code.

    Attributes:
        secret: 100 random bits.
        pin: 100 bits of the fingerprint of the authority that issues.
    """

    secret: int
    pin: int

    @staticmethod
    def new(authority: x509.Certificate) -> Code:
        """Return a fresh one for an authority."""
        return Code(secrets.randbits(_BITS), fingerprint(authority))

    @staticmethod
    def parse(text: str) -> Code:
        """Read what text() wrote; case, spaces and dashes do not matter.

        Raises:
            ConfigError: it is no code; it is not shown.
        """
        letters = "".join(text.upper().split()).replace("-", "").translate(_ALIKE)
        if len(letters) != 2 * _HALF or any(letter not in _LETTERS for letter in letters):
            raise ConfigError(
                f"a code has {2 * _HALF} letters and digits, this one has {len(letters)}, or others; copy it whole"
            )
        return Code(_number(letters[:_HALF]), _number(letters[_HALF:]))

    def text(self) -> str:
        """As people copy it."""
        letters = _letters(self.secret) + _letters(self.pin)
        return "-".join(letters[at : at + _GROUP] for at in range(0, len(letters), _GROUP))

    def key(self) -> ec.EllipticCurvePrivateKey:
        """The key both sides derive."""
        derive = HKDF(hashes.SHA256(), 48, salt=None, info=b"gymnast enrolment code")
        number = int.from_bytes(derive.derive(self.secret.to_bytes(16, "big")), "big")
        return ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())

    def subject(self) -> x509.Name:
        """What a certificate that the key signed has as its issuer; reveals nothing of the secret."""
        point = self.key().public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        return _name(_SUBJECT + hashlib.sha256(point).hexdigest()[:32])

    def introduce(self, public: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """Sign a certificate for a key of one's own; it opens the connection and nothing else."""
        builder = x509.CertificateBuilder().subject_name(_name("newcomer")).issuer_name(self.subject())
        builder = builder.public_key(public).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(_EVER[0]).not_valid_after(_EVER[1])  # the trainer's clock ends the code
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        return builder.sign(self.key(), hashes.SHA256())


def code_id(issuer: x509.Name) -> str:
    """Return which code an issuer's name stands for; empty for none."""
    names = issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if len(names) == 1 else ""
    found = name.removeprefix(_SUBJECT) if name.startswith(_SUBJECT) else ""
    return found if len(found) == 32 and all(letter in "0123456789abcdef" for letter in found) else ""


def fingerprint(authority: x509.Certificate) -> int:
    """Return 100 bits of an authority's SHA-256 fingerprint."""
    return int.from_bytes(authority.fingerprint(hashes.SHA256()), "big") >> (256 - _BITS)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _letters(number: int) -> str:
    return "".join(_LETTERS[number >> (5 * place) & 31] for place in reversed(range(_HALF)))


def _number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number << 5 | _LETTERS.index(letter)
    return number

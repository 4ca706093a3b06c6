"""Signed documents: bytes, the key that vouches for them, and the keys a robot trusts.

Signatures are Ed25519's (RFC 8032). One by an unknown key, or one byte changed, ends in NotSignedError.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.records.manifest import canonical_json

_RAW_BYTES = 32
_KEY_ID_HEX = 16


class NotSignedError(CheckpointError):
    """A release is not signed by a key this robot trusts, or was altered."""


@dataclass(frozen=True)
class SignedDocument:
    """Bytes and the key that vouches for them.

    Attributes:
        payload: canonical JSON.
        key_id: which key signed.
        signature: 64 bytes, Ed25519 over payload.
    """

    payload: bytes
    key_id: str
    signature: bytes

    def to_json(self) -> bytes:
        """One file of JSON, for the disk."""
        fields = {"payload": self.payload.decode(), "key_id": self.key_id, "signature": self.signature.hex()}
        return canonical_json(fields)

    @staticmethod
    def from_json(data: bytes) -> SignedDocument:
        """Parse to_json().

        Raises:
            CheckpointError: not what to_json() writes.
        """
        try:
            fields = json.loads(data)
            return SignedDocument(fields["payload"].encode(), fields["key_id"], bytes.fromhex(fields["signature"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"unreadable signed document: {error}") from error


def _key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:_KEY_ID_HEX]


class SigningKey:
    """An Ed25519 key pair of the trainer."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key_id = _key_id(private.public_key())

    @staticmethod
    def generate() -> SigningKey:
        """Make a new key from the operating system's randomness."""
        return SigningKey(Ed25519PrivateKey.generate())

    @staticmethod
    def load(path: Path) -> SigningKey:
        """Read a key written by save().

        Raises:
            ConfigError: missing, or not 32 bytes.
        """
        data = path.read_bytes() if path.is_file() else b""
        if len(data) != _RAW_BYTES:
            raise ConfigError(f"{path} is no Ed25519 private key of {_RAW_BYTES} bytes; run `gymnast enroll` again")
        return SigningKey(Ed25519PrivateKey.from_private_bytes(data))

    def save(self, path: Path) -> None:
        """Write the private key, readable by its owner alone."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    def public_bytes(self) -> bytes:
        """The 32 bytes a robot needs."""
        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, payload: bytes) -> SignedDocument:
        """Vouch for some bytes."""
        return SignedDocument(payload, self.key_id, self._private.sign(payload))


class TrustedKeys:
    """The public keys a robot accepts releases from.

    Args:
        keys: 32 bytes each.

    Raises:
        ConfigError: a key has another length.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys: dict[str, Ed25519PublicKey] = {}
        for raw in keys:
            if len(raw) != _RAW_BYTES:
                raise ConfigError(f"a trusted key has {len(raw)} bytes, not {_RAW_BYTES}")
            public = Ed25519PublicKey.from_public_bytes(raw)
            self._keys[_key_id(public)] = public

    @staticmethod
    def load(path: Path) -> TrustedKeys:
        """Read a file of hex keys, one per line (trust.pub of an identity folder).

        Raises:
            ConfigError: missing, empty, or not hex.
        """
        try:
            lines = path.read_text().split()
            keys = [bytes.fromhex(line) for line in lines]
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} holds no trusted keys: {error}") from error
        if not keys:
            raise ConfigError(f"{path} holds no trusted key; copy trust.pub from `gymnast enroll`")
        return TrustedKeys(keys)

    def verify(self, document: SignedDocument) -> bytes:
        """Return the payload if one of these keys signed it.

        Raises:
            NotSignedError: unknown key, or the signature does not fit.
        """
        public = self._keys.get(document.key_id)
        if public is None:
            raise NotSignedError(f"key {document.key_id!r} is not trusted; trusted are {sorted(self._keys)}")
        try:
            public.verify(document.signature, document.payload)
        except InvalidSignature as error:
            raise NotSignedError(
                f"the signature of key {document.key_id} does not fit; fetch the release again"
            ) from error
        return document.payload

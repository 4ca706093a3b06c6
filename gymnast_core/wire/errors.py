"""The catalogue of refusals: one class, one name on the wire, retry or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gymnast_core.errors import (
    BridgeError,
    CheckpointError,
    ConfigError,
    ContractError,
    CorruptError,
    DiskFullError,
    EnvLostError,
    GymnastError,
    NotPossibleError,
    NotTrustedError,
    OccupiedError,
    OutdatedError,
    PolicyFailedError,
    RejectedBridgeError,
    StorageError,
    TransientBridgeError,
)
from gymnast_core.records.lineage import ProvenanceError
from gymnast_core.records.release import DowngradeError, ExpiredError, NotForThisRobotError
from gymnast_core.records.signing import NotSignedError
from gymnast_core.records.weights import NotSafetensorsError


class InvalidIdError(RejectedBridgeError):
    """An id is not 1 to 64 characters of A-Z a-z 0-9 _ -."""


class InvalidMessageError(RejectedBridgeError):
    """A message lacks a field, or holds one that makes no sense."""


class TooLargeError(RejectedBridgeError):
    """Something is larger than this service accepts."""


class OffsetError(TransientBridgeError):
    """A chunk does not continue the file where it ends; open again to learn the offset."""


class SizeError(RejectedBridgeError):
    """More or fewer bytes came than were announced."""


class DigestError(TransientBridgeError):
    """The bytes that arrived are not the ones announced; what was received is discarded, send again."""


class ChunkCorruptError(TransientBridgeError):
    """A chunk changed on the way; open again and send it again."""


class IdReusedError(RejectedBridgeError):
    """This id is taken by other content; ids are never reused."""


class QuotaError(TransientBridgeError):
    """The tenant's quota is used up; an operator must free or grant space. Nothing was dropped."""


class CreditError(RejectedBridgeError):
    """More bytes were sent than the service had granted."""


class SupersededError(TransientBridgeError):
    """A newer stream has taken this episode over."""


class IdentityError(RejectedBridgeError):
    """One side is not the peer the other needs; trying again cannot help before that is changed."""


class NotAuthenticatedError(IdentityError):
    """TLS: a certificate does not name the host that was called, has expired, or comes from another authority."""


class NotPermittedError(IdentityError):
    """The certificate's role may not call this method."""


class RevokedError(IdentityError):
    """The certificate was taken back; the trainer's operator must issue a new one."""


class NotFoundError(RejectedBridgeError):
    """There is no such thing, or it belongs to another tenant."""


class IdleStreamError(TransientBridgeError):
    """A stream sent nothing for too long and was closed."""


class LinkLostError(TransientBridgeError):
    """A remote policy did not answer in time, or at all; the arm holds."""


class BusyError(TransientBridgeError):
    """Too many streams of one peer, or the service is stopping; try again later."""


class UnsupportedError(RejectedBridgeError):
    """The other side is of another version and has no such method; the older one must be upgraded."""


class ServerFaultError(TransientBridgeError):
    """The service failed for a reason of its own; its log has the details under the request id."""


CATALOGUE: dict[str, tuple[type[GymnastError], str]] = {
    error.__name__: (error, status)
    for error, status in (
        (ConfigError, "INVALID_ARGUMENT"),
        (NotPossibleError, "FAILED_PRECONDITION"),
        (OutdatedError, "FAILED_PRECONDITION"),
        (OccupiedError, "FAILED_PRECONDITION"),
        (NotTrustedError, "FAILED_PRECONDITION"),
        (UnsupportedError, "UNIMPLEMENTED"),
        (InvalidIdError, "INVALID_ARGUMENT"),
        (InvalidMessageError, "INVALID_ARGUMENT"),
        (TooLargeError, "INVALID_ARGUMENT"),
        (OffsetError, "ABORTED"),
        (SizeError, "INVALID_ARGUMENT"),
        (DigestError, "DATA_LOSS"),
        (ChunkCorruptError, "DATA_LOSS"),
        (IdReusedError, "ALREADY_EXISTS"),
        (ProvenanceError, "FAILED_PRECONDITION"),
        (QuotaError, "RESOURCE_EXHAUSTED"),
        (CreditError, "FAILED_PRECONDITION"),
        (SupersededError, "ABORTED"),
        (NotPermittedError, "PERMISSION_DENIED"),
        (RevokedError, "PERMISSION_DENIED"),
        (NotFoundError, "NOT_FOUND"),
        (IdleStreamError, "ABORTED"),
        (LinkLostError, "UNAVAILABLE"),
        (PolicyFailedError, "FAILED_PRECONDITION"),
        (EnvLostError, "UNAVAILABLE"),
        (BusyError, "UNAVAILABLE"),
        (ServerFaultError, "INTERNAL"),
        (DiskFullError, "RESOURCE_EXHAUSTED"),
        (NotSafetensorsError, "INVALID_ARGUMENT"),
        (NotSignedError, "FAILED_PRECONDITION"),
        (ExpiredError, "FAILED_PRECONDITION"),
        (DowngradeError, "FAILED_PRECONDITION"),
        (NotForThisRobotError, "FAILED_PRECONDITION"),
    )
}
"""Class name on the wire -> (class, gRPC status)."""

_RETRIED = (TransientBridgeError, DiskFullError)
_FIELD_CHARACTERS = 2000


def wire_error(error: GymnastError) -> tuple[str, str, bool]:
    """Return (name, gRPC status, retry) of an error, as the other side should see it.

    One of a class that the catalogue lacks goes by the nearest class above it that the catalogue has.
    """
    retry = isinstance(error, _RETRIED)
    for kind in type(error).__mro__:
        if kind.__name__ in CATALOGUE and CATALOGUE[kind.__name__][0] is kind:
            return kind.__name__, CATALOGUE[kind.__name__][1], retry
    if isinstance(error, (CorruptError, CheckpointError, ContractError)):
        return InvalidMessageError.__name__, "INVALID_ARGUMENT", False
    if isinstance(error, (StorageError, TransientBridgeError)):
        return ServerFaultError.__name__, "INTERNAL", True
    return InvalidMessageError.__name__, "INVALID_ARGUMENT", False


def wire_fields(error: GymnastError) -> str:
    """Return what an error holds beside its message as one line of ASCII JSON; empty where that is nothing."""
    fields = {name: getattr(error, name) for name in error.FIELDS}
    text = json.dumps(fields, default=str) if fields else ""
    return text if len(text) <= _FIELD_CHARACTERS else ""


def error_from_wire(name: str, message: str, *, retry: bool, fields: str = "") -> GymnastError:
    """Rebuild an error from its name and fields; an unknown one keeps its name in the message."""
    if name in CATALOGUE:
        kind = CATALOGUE[name][0]
        return kind(message, **{key: value for key, value in _read(fields).items() if key in kind.FIELDS})
    unknown: type[BridgeError] = TransientBridgeError if retry else RejectedBridgeError
    return unknown(f"{name}: {message}")


def _read(fields: str) -> Mapping[str, Any]:
    """Fields as they came; none where they are no JSON object, from whatever else listens at that address."""
    try:
        found = json.loads(fields or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

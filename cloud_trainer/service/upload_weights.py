"""Receives a checkpoint from a trainer and checks that it is one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from cloud_trainer.service.config import Limits
from gymnast_core.errors import CheckpointError
from gymnast_core.records.manifest import Manifest
from gymnast_core.records.weights import check_safetensors_file
from gymnast_core.wire.codec import Chunk
from gymnast_core.wire.errors import DigestError, InvalidMessageError, OffsetError, SizeError, TooLargeError
from gymnast_core.wire.gymnast.v1 import weights_pb2


@contextlib.contextmanager
def received_checkpoint(
    requests: Iterator[weights_pb2.PublishRequest], staging: Path, limits: Limits
) -> Iterator[tuple[Manifest, Path, weights_pb2.PublishOpen]]:
    """Read a PublishRequest stream.

    Yields:
        The manifest, a durable file with the weights, and the opening message. The file is gone afterwards, where
        nobody moved it: what was refused leaves nothing.

    Raises:
        InvalidMessageError: no opening first, or an unreadable manifest.
        TooLargeError, SizeError, OffsetError, DigestError, ChunkCorruptError: the bytes are not what was announced.
        NotSafetensorsError: they are no safetensors file.
    """
    first = next(iter(requests), None)
    if first is None or first.WhichOneof("message") != "open":
        raise InvalidMessageError("Publish must begin with an open message")
    opening = first.open
    try:
        manifest = Manifest.from_bytes(_manifest_bytes(opening, requests, limits))
    except CheckpointError as error:
        raise InvalidMessageError(str(error)) from error
    if not isinstance(manifest.weights_bytes, int) or not 0 < manifest.weights_bytes <= limits.checkpoint_bytes:
        raise TooLargeError(f"weights of {manifest.weights_bytes} bytes; 1 to {limits.checkpoint_bytes} are accepted")
    path = staging / f"publish-{secrets.token_hex(8)}"
    try:
        _receive(requests, path, manifest)
        check_safetensors_file(path)
        yield manifest, path, opening
    finally:
        path.unlink(missing_ok=True)


def _manifest_bytes(
    opening: weights_pb2.PublishOpen, requests: Iterator[weights_pb2.PublishRequest], limits: Limits
) -> bytes:
    """A manifest that came with the opening, or in pieces behind it."""
    size = opening.manifest_size or len(opening.manifest)
    if size > limits.manifest_bytes:
        raise TooLargeError(f"a manifest of {size} bytes; at most {limits.manifest_bytes} are accepted")
    data = bytearray(opening.manifest)
    while len(data) < size:
        request = next(requests, None)
        if request is None or request.WhichOneof("message") != "manifest":
            raise InvalidMessageError(f"{len(data)} of {size} bytes of a manifest came, then something else")
        if request.manifest.offset != len(data):
            raise OffsetError(f"a piece at {request.manifest.offset}, the manifest ends at {len(data)}")
        piece = Chunk(0, request.manifest.offset, request.manifest.crc32c, request.manifest.data)
        piece.check()
        if not piece.data:
            raise InvalidMessageError("an empty piece of a manifest")
        data += piece.data
    if len(data) != size:
        raise SizeError(f"{len(data)} bytes of a manifest came, its opening says {size}")
    return bytes(data)


def _receive(requests: Iterator[weights_pb2.PublishRequest], path: Path, manifest: Manifest) -> None:
    digest = hashlib.sha256()
    at = 0
    with path.open("wb") as file:
        for request in requests:
            if request.WhichOneof("message") != "chunk":
                raise InvalidMessageError("what follows a manifest must be chunks of its weights")
            chunk = Chunk(0, request.chunk.offset, request.chunk.crc32c, request.chunk.data)
            if chunk.offset != at:
                raise OffsetError(f"chunk at {chunk.offset}, the file ends at {at}")
            chunk.check()
            at += len(chunk.data)
            if at > manifest.weights_bytes:
                raise SizeError(f"{at} bytes came, the manifest says {manifest.weights_bytes}")
            file.write(chunk.data)
            digest.update(chunk.data)
        if at != manifest.weights_bytes:
            raise SizeError(f"{at} bytes came, the manifest says {manifest.weights_bytes}")
        if digest.hexdigest() != manifest.weights_sha256:
            raise DigestError(f"weights have SHA-256 {digest.hexdigest()}, the manifest says {manifest.weights_sha256}")
        file.flush()
        os.fsync(file.fileno())

"""A checkpoint folder on its way to the trainer: an opening, its manifest, its weights in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc

from gymnast_client.link import Link
from gymnast_core.records.manifest import read_checkpoint
from gymnast_core.wire.codec import CHUNK_BYTES, crc32c
from gymnast_core.wire.gymnast.v1 import weights_pb2

_DEADLINE_S = 3600.0

_Reply = TypeVar("_Reply")


def upload_checkpoint(
    link: Link, make: Callable[[grpc.Channel], grpc.StreamUnaryMultiCallable[weights_pb2.PublishRequest, _Reply]],
    folder: Path, opening: weights_pb2.PublishOpen,
) -> _Reply:  # fmt: skip
    """Send a folder by a call that takes one, and return the reply.

    Raises:
        CheckpointError: the folder is no intact checkpoint.
        RejectedBridgeError: the trainer refused it.
    """
    try:
        return make(link.channel())(_requests(folder, opening), timeout=_DEADLINE_S)
    except grpc.RpcError as failure:
        raise link.failure(failure) from failure


def _requests(folder: Path, opening: weights_pb2.PublishOpen) -> Iterator[weights_pb2.PublishRequest]:
    """An opening, the manifest behind it where that is long, and the weights; the folder is read before it returns."""
    manifest, weights = read_checkpoint(folder)
    described = manifest.to_bytes()
    whole = len(described) <= CHUNK_BYTES
    opening.manifest, opening.manifest_size = described if whole else b"", 0 if whole else len(described)
    return itertools.chain(
        [weights_pb2.PublishRequest(open=opening)],
        (weights_pb2.PublishRequest(manifest=piece) for piece in _pieces(b"" if whole else described)),
        (weights_pb2.PublishRequest(chunk=piece) for piece in _pieces(weights)),
    )


def _pieces(data: bytes) -> Iterator[weights_pb2.BlobChunk]:
    for at in range(0, len(data), CHUNK_BYTES):
        piece = data[at : at + CHUNK_BYTES]
        yield weights_pb2.BlobChunk(offset=at, crc32c=crc32c(piece), data=piece)

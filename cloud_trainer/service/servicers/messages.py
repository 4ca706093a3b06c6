"""What every servicer does with messages: bounds on the way in, pages and pieces on the way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from cloud_trainer.service.config import Limits
from gymnast_core.bounds import parsed_object
from gymnast_core.errors import CorruptError
from gymnast_core.records.signing import SignedDocument
from gymnast_core.wire.codec import CHUNK_BYTES, crc32c
from gymnast_core.wire.errors import InvalidMessageError, TooLargeError
from gymnast_core.wire.gymnast.v1 import weights_pb2

PAGE = 500
"""Rows of a reply, at most."""
MOST_NAMES = 1000
MOST_CHARACTERS = 2000
_PAGE_BYTES = 1 << 20
_Message = TypeVar("_Message", bound=Message)
_Row = TypeVar("_Row")


def json_field(text: str, limits: Limits) -> dict[str, Any]:
    """Parse a JSON object of a message.

    Raises:
        TooLargeError: longer than the limit.
        InvalidMessageError: no JSON object.
    """
    if len(text) > limits.json_bytes:
        raise TooLargeError(f"a JSON document of {len(text)} characters; at most {limits.json_bytes} are accepted")
    try:
        return parsed_object(text or "{}", "a JSON document", limits.json_bytes)
    except CorruptError as error:
        raise InvalidMessageError(str(error)) from error


def json_text(value: Mapping[str, object]) -> str:
    """Return a JSON object as a field of a message; empty for an empty one."""
    return json.dumps(dict(value), default=str) if value else ""


def bounded(what: str, values: Sequence[_Row], most: int) -> list[_Row]:
    """Return the values of a repeated field, or characters of a text, before anything is done with them.

    Raises:
        TooLargeError: more than so many.
    """
    if len(values) > most:
        raise TooLargeError(f"{len(values)} {what}; at most {most} are accepted in one message")
    return list(values)


def page_size(asked: int) -> int:
    """How many rows a reply may have; 0 is as many as there can be."""
    return min(asked or PAGE, PAGE)


def page_after(rows: Sequence[_Row], name_of: Callable[[_Row], str], after: str, limit: int) -> Sequence[_Row]:
    """Return the page behind the row of a name; the first one where the name is empty or gone."""
    start = next((number + 1 for number, row in enumerate(rows) if after and name_of(row) == after), 0)
    return rows[start : start + page_size(limit)]


def fitting(messages: Iterable[_Message]) -> list[_Message]:
    """As many as go into one reply, one at least; whoever pages through asks for the rest."""
    page: list[_Message] = []
    size = 0
    for message in messages:
        size += message.ByteSize()
        if page and size > _PAGE_BYTES:
            break
        page.append(message)
    return page


def pieces(data: bytes) -> Iterator[weights_pb2.BlobChunk]:
    """Cut an answer that is larger than a message."""
    for at in range(0, len(data), CHUNK_BYTES):
        part = data[at : at + CHUNK_BYTES]
        yield weights_pb2.BlobChunk(offset=at, crc32c=crc32c(part), data=part)


def reads_gates(context: grpc.ServicerContext) -> bool:
    """Whether a caller is of a version that reads releases with gate records; others are of before 0.2."""
    agent = str(dict(context.invocation_metadata() or ()).get("user-agent", ""))
    found = re.search(r"gymnast/(\d{1,4})\.(\d{1,4})", agent)
    return found is not None and (int(found[1]), int(found[2])) >= (0, 2)


def signed_release(signed: SignedDocument) -> weights_pb2.SignedRelease:
    """A release as it goes out."""
    return weights_pb2.SignedRelease(payload=signed.payload, key_id=signed.key_id, signature=signed.signature)

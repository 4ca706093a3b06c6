"""The two chunk messages, written and read by hand: one copy less than protobuf, the same bytes on the wire.

protobuf copies a chunk twice on the way out and once more on the way in; at 1 MiB per message that is what limits the
link. UploadRequest{chunk} and BlobChunk are built here from their .proto field numbers; a test holds this against the
generated classes in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import google_crc32c
from google.protobuf.message import DecodeError

from gymnast_core.errors import CorruptError
from gymnast_core.wire.gymnast.v1 import trajectories_pb2

MAX_MESSAGE_BYTES = 2 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5
_CHUNK_FIELD = b"\x12"  # UploadRequest.chunk = 2, length-delimited


@dataclass(frozen=True)
class Chunk:
    """A piece of a file.

    Attributes:
        channel: which episode of the stream (0 for blobs).
        offset: where in the file.
        crc32c: of data.
        data: the bytes (not a view: the CRC library takes nothing else).
    """

    channel: int
    offset: int
    crc32c: int
    data: bytes

    def check(self) -> None:
        """Compare the checksum.

        Raises:
            CorruptError: the bytes changed on the way.
        """
        if (found := crc32c(self.data)) != self.crc32c:
            raise CorruptError(f"chunk at {self.offset} has CRC {found:#x}, was sent with {self.crc32c:#x}")


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), RFC 3720 appendix B.4."""
    return int(google_crc32c.value(data))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _chunk_head(chunk: Chunk, with_channel: bool) -> bytes:
    """Every field but the bytes of data, which come last."""
    fields, numbers = b"", (1, 2, 3, 4) if with_channel else (0, 1, 2, 3)
    if with_channel and chunk.channel:
        fields += bytes((numbers[0] << 3 | _VARINT,)) + _varint(chunk.channel)
    if chunk.offset:
        fields += bytes((numbers[1] << 3 | _VARINT,)) + _varint(chunk.offset)
    if chunk.crc32c:
        fields += bytes((numbers[2] << 3 | _I32,)) + chunk.crc32c.to_bytes(4, "little")
    return fields + bytes((numbers[3] << 3 | _BYTES,)) + _varint(len(chunk.data))


def encode_upload(request: Chunk | trajectories_pb2.UploadRequest) -> bytes:
    """Serializer of UploadRequest for a stub; chunks go the short way."""
    if not isinstance(request, Chunk):
        return bytes(request.SerializeToString())
    head = _chunk_head(request, with_channel=True)
    return b"".join((_CHUNK_FIELD, _varint(len(head) + len(request.data)), head, request.data))


def encode_blob(chunk: Chunk) -> bytes:
    """Serializer of BlobChunk."""
    return b"".join((_chunk_head(chunk, with_channel=False), chunk.data))


def decode_upload(data: bytes) -> Chunk | trajectories_pb2.UploadRequest:
    """Deserializer of UploadRequest for a server.

    Raises:
        CorruptError: not an UploadRequest.
    """
    view = memoryview(data)
    if data[:1] == _CHUNK_FIELD:
        length, at = _read_varint(view, 1)
        if at + length == len(view):
            return _decode_chunk(view[at:], with_channel=True)
    request = trajectories_pb2.UploadRequest()
    try:
        request.ParseFromString(data)
    except DecodeError as error:
        raise CorruptError(f"not an UploadRequest: {error}") from error
    return request


def decode_blob(data: bytes) -> Chunk:
    """Deserializer of BlobChunk.

    Raises:
        CorruptError: not a BlobChunk.
    """
    return _decode_chunk(memoryview(data), with_channel=False)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view) and shift < 64:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise CorruptError(f"a number in a message of {len(view)} bytes does not end")


def _decode_chunk(view: memoryview, *, with_channel: bool) -> Chunk:
    shift = 0 if with_channel else 1
    channel = offset = checksum = 0
    data = b""
    at = 0
    while at < len(view):
        tag, at = _read_varint(view, at)
        number, wire_type = (tag >> 3) + shift, tag & 7
        if number <= shift or tag >> 3 > 4 - shift:
            raise CorruptError(f"a chunk has no field {tag >> 3}")
        if wire_type == _VARINT and number in (1, 2):
            value, at = _read_varint(view, at)
            channel, offset = (value & 0xFFFFFFFF, offset) if number == 1 else (channel, value)
        elif wire_type == _I32 and number == 3 and at + 4 <= len(view):
            checksum, at = int.from_bytes(view[at : at + 4], "little"), at + 4
        elif wire_type == _BYTES and number == 4:
            length, at = _read_varint(view, at)
            if at + length > len(view):
                raise CorruptError(f"a chunk of {len(view)} bytes says it holds {length}")
            data, at = bytes(view[at : at + length]), at + length
        else:
            raise CorruptError(f"field {number} of a chunk has wire type {wire_type}")
    return Chunk(channel, offset, checksum, data)

"""Any MCAP file, from any writer: chunked or not, compressed or not, with the message types its schemas name.

Memory is bounded by the largest chunk, and a small file cannot grow without end when it is unpacked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, BinaryIO, cast

from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk

from gymnast_core.episodes import messages
from gymnast_core.errors import CorruptError

MAX_RECORD_BYTES = 32 * 1024 * 1024
"""Largest record of an episode, compressed or not."""
MAX_BAG_RECORD_BYTES = 256 * 1024 * 1024
"""Largest record of a file that a user names himself."""
_MAX_GROWTH, _FREE_GROWTH_BYTES = 50, 64 * 1024 * 1024
_PARSE_ERRORS = (McapError, struct.error, ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError)
_FLIGHT_MARK = "/command_gate/"


@dataclass(frozen=True)
class BagMessage:
    """One message as it lies in the file.

    Attributes:
        topic: its channel.
        kind: message type its schema names, as "sensor_msgs/msg/Image"; "" without a schema.
        encoding: of the data; "cdr" is what ROS 2 writes.
        time_ns: log time.
        data: bytes of the message.
    """

    topic: str
    kind: str
    encoding: str
    time_ns: int
    data: bytes


@dataclass
class BagContents:
    """What a file holds, without its messages.

    Attributes:
        counts: messages of each (topic, message type).
        first_ns: log time of the earliest message.
        last_ns: and of the latest.
    """

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    first_ns: int = 0
    last_ns: int = 0

    @property
    def is_episode(self) -> bool:
        """Whether it is one of our episodes."""
        return any(topic == messages.HEADER_TOPIC for topic, _ in self.counts)

    @property
    def is_flight_record(self) -> bool:
        """Whether it is what the gate wrote down before a stop."""
        return not self.is_episode and any(_FLIGHT_MARK in topic for topic, _ in self.counts)


def iterate_bag(
    path: Path, *, compressed: bool = True, until_cut: bool = False, limit: int = MAX_BAG_RECORD_BYTES
) -> Iterator[BagMessage]:
    """Yield messages in file order.

    Args:
        path: an MCAP file, finished or not.
        compressed: unpack chunks; else a compressed one is refused.
        until_cut: stop quietly where the file ends in the middle or its bytes go bad (recovery), instead of raising.
        limit: bytes of the largest record, and of the largest chunk unpacked.

    Raises:
        CorruptError: not MCAP, a failed CRC, an unknown or refused compression, a record over the limit, an early end.
    """
    _require_mcap(path)
    parser = _Parser(path, compressed, limit)
    with path.open("rb") as file:
        bounded = cast("IO[bytes]", _Bounded(file, path.stat().st_size))
        reader = StreamReader(bounded, emit_chunks=True, validate_crcs=True, record_size_limit=limit)
        try:
            for record in reader.records:
                yield from parser.messages(record)
        except CorruptError:
            if not until_cut:
                raise
        except _PARSE_ERRORS as error:
            if not until_cut:
                reason = str(error) or type(error).__name__
                raise CorruptError(
                    f"{path} is not a readable MCAP file: {reason}. Was it cut off? mcap recover {path.name}"
                ) from error


def contents(path: Path) -> BagContents:
    """Return what a file holds.

    Raises:
        CorruptError: see iterate_bag.
    """
    found = BagContents()
    for message in iterate_bag(path):
        key = (message.topic, message.kind)
        found.counts[key] = found.counts.get(key, 0) + 1
        found.first_ns = min(found.first_ns or message.time_ns, message.time_ns)
        found.last_ns = max(found.last_ns, message.time_ns)
    return found


def _require_mcap(path: Path) -> None:
    """Name the other kinds of bag there are, with what turns them into MCAP."""
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
        raise CorruptError(f"{path} is a folder; name a file in it{f': {inside[:5]}' if inside else ''}")
    with path.open("rb") as file:
        begin = file.read(16)
    if begin.startswith(b"SQLite format 3"):
        raise CorruptError(f"{path} is a rosbag2 file of SQLite; `ros2 bag convert` writes MCAP (storage_id: mcap)")
    if begin.startswith(b"\x28\xb5\x2f\xfd"):
        raise CorruptError(f"{path} is compressed as a whole (rosbag2's mode file); unpack it: zstd -d {path}")
    if begin.startswith(b"version https://"):
        raise CorruptError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")
    if begin.startswith(b"#ROSBAG"):
        raise CorruptError(f"{path} is a ROS 1 bag; convert it: rosbags-convert --src {path.name} --dst FOLDER")


class _Parser:
    """Turns records into messages; knows the channels and schemas met so far."""

    def __init__(self, path: Path, compressed: bool, limit: int) -> None:
        self._path, self._compressed, self._limit = path, compressed, limit
        self._channels: dict[int, Channel] = {}
        self._schemas: dict[int, str] = {}
        self._growth_left = _FREE_GROWTH_BYTES + _MAX_GROWTH * path.stat().st_size

    def messages(self, record: object) -> Iterator[BagMessage]:
        """Messages of one record, which may be a chunk of many."""
        if isinstance(record, Chunk):
            for inner in breakup_chunk(self._plain(record), validate_crc=True):
                yield from self._single(inner)
        else:
            yield from self._single(record)

    def _single(self, record: object) -> Iterator[BagMessage]:
        if isinstance(record, Schema):
            self._schemas[record.id] = record.name
        elif isinstance(record, Channel):
            self._channels[record.id] = record
        elif isinstance(record, Message):
            channel = self._channels.get(record.channel_id)
            if channel is None:
                raise CorruptError(f"{self._path}: a message names channel {record.channel_id}, which does not exist")
            kind = self._schemas.get(channel.schema_id, "")
            yield BagMessage(channel.topic, kind, channel.message_encoding, record.log_time, record.data)

    def _plain(self, chunk: Chunk) -> Chunk:
        """The chunk without compression."""
        if not chunk.compression:
            return chunk
        name = chunk.compression[:16]
        if not self._compressed:
            raise CorruptError(
                f"{self._path}: a chunk is compressed with {name!r}; episodes are shipped uncompressed. "
                "Unpack it: mcap decompress IN.mcap -o OUT.mcap (Foxglove's mcap tool)"
            )
        self._growth_left -= chunk.uncompressed_size
        if chunk.uncompressed_size > self._limit or self._growth_left < 0:
            raise CorruptError(f"{self._path}: a chunk would unpack to {chunk.uncompressed_size} bytes; refused")
        data = _unpacked(name, chunk.data, chunk.uncompressed_size + 1)
        if len(data) != chunk.uncompressed_size:
            raise CorruptError(
                f"{self._path}: a chunk does not unpack to the {chunk.uncompressed_size} bytes it claims"
            )
        return replace(chunk, compression="", data=data)


def _unpacked(compression: str, data: bytes, most: int) -> bytes:
    """At most `most` bytes of the unpacked data, whatever its own headers claim."""
    if compression == "zstd":
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
                return bytes(stream.read(most))
        except zstandard.ZstdError as error:
            raise ValueError(f"a zstd chunk is damaged: {error}") from error
    if compression == "lz4":
        import lz4.frame

        try:
            return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=most))
        except RuntimeError as error:
            raise ValueError(f"an lz4 chunk is damaged: {error}") from error
    raise ValueError(f"a chunk is compressed with {compression!r}; zstd, lz4 and none are read")


class _Bounded:
    """A file that never tries to read more than there is, whatever length a broken record claims."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, length: int) -> bytes:
        data = self._file.read(min(length, self._left))
        self._left -= len(data)
        return data

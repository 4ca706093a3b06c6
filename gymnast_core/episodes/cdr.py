"""CDR, the byte layout of ROS 2 messages, for the few message types an episode is made of.

Written out so that neither recording nor reading needs rclpy. Layout: OMG DDSI-RTPS 2.5, section 10 (plain CDR,
little endian): a four-byte header, then fields aligned to their own size, counted from after the header.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import CorruptError

_HEADER = b"\x00\x01\x00\x00"
_NS = 1_000_000_000


class CdrWriter:
    """Builds one message, field by field."""

    def __init__(self) -> None:
        self._data = bytearray(_HEADER)

    def _align(self, size: int) -> None:
        self._data += b"\x00" * (-(len(self._data) - 4) % size)

    def uint32(self, value: int) -> CdrWriter:
        """Append an unsigned 32-bit integer."""
        self._align(4)
        self._data += struct.pack("<I", value)
        return self

    def string(self, value: str) -> CdrWriter:
        """Append a zero-terminated UTF-8 string with its length."""
        encoded = value.encode() + b"\x00"
        self.uint32(len(encoded))
        self._data += encoded
        return self

    def strings(self, values: Sequence[str]) -> CdrWriter:
        """Append a sequence of strings."""
        self.uint32(len(values))
        for value in values:
            self.string(value)
        return self

    def octets(self, value: bytes) -> CdrWriter:
        """Append a sequence of bytes."""
        self.uint32(len(value))
        self._data += value
        return self

    def float64(self, values: Sequence[float]) -> CdrWriter:
        """Append bare 64-bit floats."""
        self._align(8)
        self._data += struct.pack(f"<{len(values)}d", *values)
        return self

    def floats64(self, values: Sequence[float]) -> CdrWriter:
        """Append a sequence of 64-bit floats with its length."""
        self.uint32(len(values))
        return self.float64(values) if len(values) else self

    def header(self, stamp_ns: int, frame_id: str) -> CdrWriter:
        """Append a std_msgs/Header."""
        return self.uint32(stamp_ns // _NS).uint32(stamp_ns % _NS).string(frame_id)

    def done(self) -> bytes:
        """Return the message."""
        return bytes(self._data)


class CdrReader:
    """Reads one message, field by field; every length is checked against what is left.

    Raises:
        CorruptError: from every method, when the message is too short, or shorter than its own lengths.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        if bytes(self._data[:4]) != _HEADER:
            raise CorruptError(f"not little-endian CDR: header {bytes(self._data[:4])!r}, expected {_HEADER!r}")
        self._at = 4

    def _take(self, size: int, align: int) -> memoryview:
        self._at += -(self._at - 4) % align
        if size > len(self._data) - self._at:
            raise CorruptError(f"CDR message of {len(self._data)} bytes ends inside a field of {size} at {self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def uint32(self) -> int:
        """Read an unsigned 32-bit integer."""
        return int(struct.unpack("<I", self._take(4, 4))[0])

    def string(self) -> str:
        """Read a string."""
        encoded = bytes(self._take(self.uint32(), 1))
        try:
            return encoded.rstrip(b"\x00").decode()
        except UnicodeDecodeError as error:
            raise CorruptError(f"a string is not UTF-8: {encoded[:40]!r}") from error

    def strings(self) -> tuple[str, ...]:
        """Read a sequence of strings."""
        count = self.uint32()
        if count * 4 > len(self._data):
            raise CorruptError(f"{count} strings cannot fit into {len(self._data)} bytes")
        return tuple(self.string() for _ in range(count))

    def octets(self) -> memoryview:
        """Read a sequence of bytes, without copying."""
        return self._take(self.uint32(), 1)

    def floats64(self) -> npt.NDArray[np.float64]:
        """Read a sequence of 64-bit floats."""
        count = self.uint32()
        return np.frombuffer(self._take(8 * count, 8), "<f8") if count else np.zeros(0)

    def stamp_ns(self) -> int:
        """Read a std_msgs/Header and return its stamp."""
        seconds, nanoseconds = self.uint32(), self.uint32()
        self.string()
        return seconds * _NS + nanoseconds

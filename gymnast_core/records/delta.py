"""Full checkpoints as small lossless differences to one the robot holds.

After a few steps of fine-tuning most high bytes of most numbers are unchanged while nearly every low byte is not, so
the two files are XORed and the bytes of each number are sorted into planes before zstd; the high planes are almost
all zero. Measured: 3.6 % of a bf16 checkpoint after one step at lr 1e-6, 13 % after 100.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import numpy.typing as npt
import zstandard

from gymnast_core.errors import CorruptError
from gymnast_core.records.weights import NotSafetensorsError, check_safetensors

_MAGIC = b"GYMDELT1"
_WIDTHS = {"BF16": 2, "F16": 2, "I16": 2, "U16": 2, "F32": 4, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8}
_LEVEL = 3
_Bytes = npt.NDArray[np.uint8]


def encode_delta(base: bytes, new: bytes) -> bytes | None:
    """Return the difference from base to new, or None when their layouts differ.

    Args:
        base: a safetensors file.
        new: another one; only with the same header a delta makes sense.

    Raises:
        NotSafetensorsError: one of them is none.
    """
    layout = check_safetensors(memoryview(new))
    if check_safetensors(memoryview(base)) != layout or len(base) != len(new):
        return None
    difference = np.frombuffer(base, np.uint8) ^ np.frombuffer(new, np.uint8)
    planes = _to_planes(difference, layout)
    head = json.dumps({"size": len(new)}).encode()
    return _MAGIC + struct.pack("<I", len(head)) + head + zstandard.ZstdCompressor(level=_LEVEL).compress(planes.data)


def apply_delta(base: bytes, delta: bytes, size: int) -> bytes:
    """Return the new file; whether it is the right one only its digest can show.

    Args:
        base: what the robot holds.
        delta: from encode_delta.
        size: of the new file, from the signed release; nothing larger is ever unpacked.

    Raises:
        CorruptError: the delta is broken, or belongs to another base.
    """
    try:
        if delta[:8] != _MAGIC:
            raise CorruptError(f"no delta: starts with {delta[:8]!r}")
        (length,) = struct.unpack("<I", delta[8:12])
        frame = delta[12 + length :]
        declared = json.loads(delta[12 : 12 + length])["size"]
        if declared != size or len(base) != size or zstandard.frame_content_size(frame) != size:
            raise CorruptError(f"a delta for {declared} bytes does not lead from {len(base)} to {size}")
        planes = np.frombuffer(zstandard.ZstdDecompressor().decompress(frame, max_output_size=size), np.uint8)
        difference = _from_planes(planes, check_safetensors(memoryview(base)))
    except (struct.error, ValueError, KeyError, TypeError, zstandard.ZstdError, NotSafetensorsError) as error:
        raise CorruptError(f"unreadable delta: {error}") from error
    if len(difference) != size:
        raise CorruptError(f"the delta unpacks to {len(difference)} bytes, not {size}")
    return (np.frombuffer(base, np.uint8) ^ difference).tobytes()


def _to_planes(data: _Bytes, layout: dict[str, tuple[str, tuple[int, ...], int, int]]) -> _Bytes:
    planes = data.copy()
    for dtype, _, first, last in layout.values():
        if (width := _WIDTHS.get(dtype, 1)) > 1:
            planes[first:last] = data[first:last].reshape(-1, width).T.reshape(-1)
    return planes


def _from_planes(planes: _Bytes, layout: dict[str, tuple[str, tuple[int, ...], int, int]]) -> _Bytes:
    data = planes.copy()
    for dtype, _, first, last in layout.values():
        if (width := _WIDTHS.get(dtype, 1)) > 1:
            data[first:last] = planes[first:last].reshape(width, -1).T.reshape(-1)
    return data

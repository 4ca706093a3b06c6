"""Is this a safetensors file, and nothing else? Checked before anybody parses it, on both sides of the link.

Layout: safetensors README, "Format": 8 bytes little-endian header length, JSON header, then the data, where tensors
cover the buffer without holes or overlap.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from pathlib import Path
from typing import Any

from gymnast_core.errors import CheckpointError

MAX_HEADER_BYTES = 2 * 1024 * 1024
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16
_MOST = 1 << 63
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip


class NotSafetensorsError(CheckpointError):
    """A weights file is not a well-formed safetensors file."""


def check_safetensors(data: memoryview) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Check a whole file and return its layout.

    Args:
        data: the file; a memory map will do, only the header is read.

    Returns:
        Tensor name -> (dtype, shape, first byte, last byte + 1), positions in the file.

    Raises:
        NotSafetensorsError: header too large, no JSON, an unknown dtype, a shape that does not give the size,
            an overflow, a hole, an overlap, or bytes left over.
    """
    start, header = _header(data)
    layout: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    end = 0
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, first, last = _tensor(name, entry)
        spans.append((first, last, name))
        layout[name] = (dtype, shape, start + first, start + last)
    for first, last, name in sorted(spans):
        if first != end:
            raise NotSafetensorsError(f"tensor {name!r} starts at {first}, the one before ends at {end}")
        end = last
    if start + end != len(data):
        raise NotSafetensorsError(f"the tensors end at byte {start + end}, the file at {len(data)}")
    return layout


def check_safetensors_file(path: Path) -> None:
    """As check_safetensors, of a file that may be larger than memory.

    Raises:
        NotSafetensorsError: see check_safetensors.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise NotSafetensorsError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            check_safetensors(view)


def _header(data: memoryview) -> tuple[int, dict[str, object]]:
    if len(data) < 8:
        raise NotSafetensorsError(f"a file of {len(data)} bytes is no safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise NotSafetensorsError(f"a header of {length} bytes in a file of {len(data)}; at most {MAX_HEADER_BYTES}")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise NotSafetensorsError(f"the header is no JSON: {error}") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise NotSafetensorsError(f"the header must be an object of at most {MAX_TENSORS} tensors")
    return 8 + length, header


def _tensor(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    try:
        dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise NotSafetensorsError(f"tensor {name[:80]!r} lacks dtype, shape or data_offsets") from error
    name = name[:80]
    if (
        len(shape) > MAX_DIMENSIONS
    ):  # before they are multiplied: the product of many numbers takes their number squared
        raise NotSafetensorsError(f"tensor {name!r} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are read")
    numbers = (*shape, first, last)
    if not all(isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _MOST for number in numbers):
        raise NotSafetensorsError(f"tensor {name!r} has a size or an offset that is none below 2^63")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise NotSafetensorsError(f"tensor {name!r} has unknown dtype {dtype!r}")
    if math.prod(shape) * _DTYPE_BYTES[dtype] != last - first:
        raise NotSafetensorsError(f"tensor {name!r} of {dtype} {shape} does not fill bytes {first}..{last}")
    return dtype, shape, first, last

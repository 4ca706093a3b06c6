"""The one way compressed pictures from elsewhere are decoded: what a decoder would allocate is known before it runs.

A size read by other rules than the decoder's protects nothing: behind a marker that one of the two skips, the decoder
meets another frame header. So only files are taken whose structure leaves no choice: each marker follows the one
before at once, has a length, and there is one frame header before the first scan.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np

from gymnast_core.errors import ContractError, CorruptError
from gymnast_core.types import ByteArray

MAX_IMAGE_SIDE = 4096
MAX_SCANS = 64
"""A progressive JPEG has about ten; each of thousands would be decoded over the whole image."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
_START_OF_SCAN = 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # DHT, DQT, DRI, COM, APPn


def encode_png(frame_HWC: ByteArray) -> bytes:
    """Return an RGB frame as PNG, quickly rather than small.

    Raises:
        ContractError: it is no picture.
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ContractError(f"a frame of {frame_HWC.shape} cannot be encoded")
    return bytes(data)


def picture_size(data: bytes | memoryview) -> tuple[int, int]:
    """Return (height, width) of a JPEG or PNG as its decoder will see them, without decoding it.

    Raises:
        CorruptError: neither, or larger than MAX_IMAGE_SIDE on a side.
    """
    start = bytes(data[: len(_PNG_START)])
    return _png_size(data) if start == _PNG_START else jpeg_size(data)


def jpeg_size(data: bytes | memoryview) -> tuple[int, int]:
    """Return (height, width) of a JPEG as its decoder will see them, without decoding it.

    Raises:
        CorruptError: not a plain baseline or progressive JPEG, larger than MAX_IMAGE_SIDE on a side, or of more than
            MAX_SCANS scans.

    Source:
        ITU-T T.81, annex B.1.1 and B.2.2: a marker is 0xFF and a code, its segment begins with its length; frame header
        0xC0..2, length, precision, height, width.
    """
    view = memoryview(data)
    if bytes(view[:2]) != _JPEG_START:
        raise CorruptError(f"not a JPEG: starts with {bytes(view[:4])!r}")
    at, size = 2, None
    while at + 4 <= len(view) and view[at] == 0xFF:
        code, length = view[at + 1], view[at + 2] << 8 | view[at + 3]
        if code == _START_OF_SCAN and size is not None:
            _check_scans(view)
            return size
        if code in _FRAMES and size is None and 8 <= length <= len(view) - at - 2:
            size = _checked_size(*struct.unpack(">HH", view[at + 5 : at + 9]))
        elif code not in _TABLES or length < 2:
            raise CorruptError(f"a JPEG with marker {code:#x} of {length} bytes at {at}, which plain ones do not have")
        at += 2 + length
    raise CorruptError("a JPEG without a frame header and a scan")


def decode_jpeg(data: bytes | memoryview) -> ByteArray:
    """Decode a JPEG into (H, W, 3) uint8 RGB.

    Raises:
        CorruptError: not a JPEG, too large, or broken.
    """
    return _decoded(data, jpeg_size(data))


def decode_picture(data: bytes | memoryview) -> ByteArray:
    """Decode a JPEG or PNG into (H, W, 3) uint8 RGB.

    Raises:
        CorruptError: neither, too large, or broken.
    """
    return _decoded(data, picture_size(data))


def _decoded(data: bytes | memoryview, size: tuple[int, int]) -> ByteArray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise CorruptError(f"undecodable picture of {size[0]} x {size[1]}: {error}") from error
    if image is None or sorted(image.shape[:2]) != sorted(size):  # a camera's note may turn it by 90 degrees
        raise CorruptError(f"undecodable picture of {size[0]} x {size[1]}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _check_scans(view: memoryview) -> None:
    scans = bytes(view).count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise CorruptError(f"a JPEG of {scans} scans; at most {MAX_SCANS} are decoded")


def _png_size(data: bytes | memoryview) -> tuple[int, int]:
    """Source: PNG specification, third edition, 5.6 and 11.2.1: IHDR is the first chunk, there is one."""
    head = bytes(data[8:24])
    if len(head) < 16 or head[:8] != b"\x00\x00\x00\x0dIHDR":
        raise CorruptError(f"a PNG that begins with {head[4:8]!r} instead of its header")
    width, height = struct.unpack(">II", head[8:])
    return _checked_size(height, width)


def _checked_size(height: int, width: int) -> tuple[int, int]:
    if not 0 < height <= MAX_IMAGE_SIDE or not 0 < width <= MAX_IMAGE_SIDE:
        raise CorruptError(f"image of {height} x {width} is outside 1..{MAX_IMAGE_SIDE}")
    return height, width

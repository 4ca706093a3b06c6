"""Frames as PNG and back; nothing but a plain RGB picture of the size asked for is read."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

from cloud_trainer.world_model.serving.messages import ApiError, Picture
from gymnast_core.errors import CorruptError
from gymnast_core.pictures import decode_picture, picture_size
from gymnast_core.types import ByteArray

_START, _DATA, _ANIMATED = b"\x89PNG", b"IDAT", b"acTL"
_RGB_AT, _RGB = slice(24, 26), bytes((8, 2))
"""Bit depth and colour type of the header: 8 bits, truecolour (PNG specification, third edition, 11.2.1)."""


def to_frame(picture: Picture, where: str, size: int) -> ByteArray:
    """Return (size, size, 3) uint8.

    Raises:
        ApiError: of another size, with alpha, a palette or several frames, or no PNG.
    """
    if (picture.height, picture.width) != (size, size):
        raise ApiError("INVALID_ARGUMENT", f"{where} is {picture.height} x {picture.width}; expected {size} x {size}")
    try:
        data = base64.b64decode(picture.data, validate=True)
        if not data.startswith(_START):
            raise CorruptError("no PNG")
        height, width = picture_size(data)
        plain = data[_RGB_AT] == _RGB and _ANIMATED not in data[: data.find(_DATA)]
        if (height, width) != (size, size) or not plain:
            what = f"{height} x {width}" if plain else "other than one frame of 8-bit RGB"
            raise ApiError("INVALID_ARGUMENT", f"{where} holds {what}; expected {size} x {size} RGB")
        return decode_picture(data)
    except (binascii.Error, CorruptError) as error:
        raise ApiError("INVALID_ARGUMENT", f"{where}.data is no PNG in base64") from error


def to_picture(frame_HWC: ByteArray) -> Picture:
    """Encode a frame; no metadata."""
    out = io.BytesIO()
    Image.fromarray(frame_HWC).save(out, format="PNG", compress_level=1)
    height, width = frame_HWC.shape[:2]
    return Picture(height=height, width=width, data=base64.b64encode(out.getvalue()).decode("ascii"))

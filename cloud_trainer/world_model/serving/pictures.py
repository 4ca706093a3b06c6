"""Frames as PNG and back; nothing but a plain RGB picture of the size asked for is read."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib

import numpy as np
from PIL import Image

from cloud_trainer.world_model.serving.messages import ApiError, Picture
from gymnast_core.types import ByteArray

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for bytes that are no PNG, or a damaged one."""


def to_frame(picture: Picture, where: str, size: int) -> ByteArray:
    """Return (size, size, 3) uint8.

    Raises:
        ApiError: of another size, with alpha, a palette or several frames, or no PNG.
    """
    if (picture.height, picture.width) != (size, size):
        raise ApiError("INVALID_ARGUMENT", f"{where} is {picture.height} x {picture.width}; expected {size} x {size}")
    try:
        data = base64.b64decode(picture.data, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            found, animated = (image.size, image.mode), getattr(image, "is_animated", False)
            if found != ((size, size), "RGB") or animated:
                raise ApiError(
                    "INVALID_ARGUMENT",
                    f"{where} holds {image.size[1]} x {image.size[0]} {image.mode}{', animated' if animated else ''}; "
                    f"expected one frame of {size} x {size} RGB",
                )
            return np.ascontiguousarray(np.asarray(image, np.uint8))
    except (binascii.Error, *_BROKEN) as error:
        raise ApiError("INVALID_ARGUMENT", f"{where}.data is no PNG in base64") from error


def to_picture(frame_HWC: ByteArray) -> Picture:
    """Encode a frame; no metadata."""
    out = io.BytesIO()
    Image.fromarray(frame_HWC).save(out, format="PNG", compress_level=1)
    height, width = frame_HWC.shape[:2]
    return Picture(height=height, width=width, data=base64.b64encode(out.getvalue()).decode("ascii"))

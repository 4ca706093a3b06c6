"""From a camera frame to the numbers pi0 was trained on."""

from __future__ import annotations

import numpy as np
from PIL import Image

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray, FloatArray


def resize_with_pad(frames_BHWC: ByteArray, size: int) -> ByteArray:
    """Return frames shrunk or enlarged to fit size x size without distortion, black where nothing is left.

    Args:
        frames_BHWC: (B, H, W, 3) uint8 RGB; returned as they are where they have that size.
        size: side of the result.

    Raises:
        ShapeError: not uint8 RGB frames.

    Source:
        Physical-Intelligence/openpi @15a9616, packages/openpi-client, image_tools.py: bilinear, antialiased, sides
        rounded down, padding split in two with the odd row or column at the end.
    """
    if frames_BHWC.ndim != 4 or frames_BHWC.shape[-1] != 3 or frames_BHWC.dtype != np.uint8:
        raise ShapeError(f"frames must be (B, H, W, 3) uint8, got {frames_BHWC.shape} {frames_BHWC.dtype}")
    rows, columns = frames_BHWC.shape[1:3]
    if (rows, columns) == (size, size):
        return frames_BHWC
    ratio = max(columns / size, rows / size)
    height, width = max(1, int(rows / ratio)), max(1, int(columns / ratio))
    top, left = (size - height) // 2, (size - width) // 2
    padded = np.zeros((len(frames_BHWC), size, size, 3), np.uint8)
    for frame, into in zip(frames_BHWC, padded, strict=True):
        shrunk = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        into[top : top + height, left : left + width] = np.asarray(shrunk)
    return padded


def to_unit(frames_BHWC: ByteArray) -> FloatArray:
    """Return (B, 3, H, W) float32 in [-1, 1]."""
    unit: FloatArray = frames_BHWC.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    return unit

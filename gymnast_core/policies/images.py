"""Image sizes: every compact model sees 64x64 pixels, whatever integer multiple the camera gives."""

from __future__ import annotations

import numpy as np

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray


def area_downsample(images: ByteArray, size: int) -> ByteArray:
    """Average non-overlapping squares of pixels.

    Args:
        images: (..., H, W, 3) uint8 with H = W an integer multiple of size.
        size: wanted height and width in pixels.

    Returns:
        (..., size, size, 3) uint8, rounded half up; the input itself when it has that size already.

    Raises:
        ShapeError: not uint8 RGB, or H or W is no multiple of size.
    """
    height, width = images.shape[-3:-1] if images.ndim >= 3 else (0, 0)
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] != 3:
        raise ShapeError(f"images must be (..., H, W, 3) uint8, got {images.shape} {images.dtype}")
    if height != width or height % size or height == 0:
        raise ShapeError(f"image of {height}x{width} pixels; this model needs a square multiple of {size}")
    factor = height // size
    if factor == 1:
        return images
    blocks = images.reshape(*images.shape[:-3], size, factor, size, factor * 3).astype(np.uint16, copy=False)
    rows = blocks.sum(axis=-3, dtype=np.uint32).reshape(*images.shape[:-3], size, size, factor, 3)
    area = factor * factor
    return ((2 * rows.sum(axis=-2, dtype=np.uint32) + area) // (2 * area)).astype(np.uint8)

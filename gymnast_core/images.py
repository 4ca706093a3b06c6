"""Pixels: the one way frames are made smaller, so that recorder, trainer and robot agree to the bit."""

from __future__ import annotations

import numpy as np

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray


def area_downsample(frames: ByteArray, size: int) -> ByteArray:
    """Shrink square images by an integer factor: every output pixel is the mean of a k x k block.

    Args:
        frames: (..., S, S, C) uint8 with S a multiple of size.
        size: side of the result in pixels.

    Returns:
        (..., size, size, C) uint8; the mean is rounded to the nearest integer, halves up. The input itself
        if it has the size already.

    Raises:
        ShapeError: the frames are not square uint8 images, or their side is no multiple of size.
    """
    if frames.ndim < 3 or frames.dtype != np.uint8 or frames.shape[-2] != frames.shape[-3]:
        raise ShapeError(f"frames must be (..., S, S, C) uint8, got {frames.shape} {frames.dtype}")
    side = frames.shape[-2]
    if side == size:
        return frames
    if size < 1 or side % size:
        raise ShapeError(f"cannot shrink {side} pixels to {size}: the factor must be a whole number")
    factor = side // size
    total = np.zeros((*frames.shape[:-3], size, size, frames.shape[-1]), np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += frames[..., row::factor, column::factor, :]
    area = factor * factor
    total += area // 2
    total //= area
    return total.astype(np.uint8)

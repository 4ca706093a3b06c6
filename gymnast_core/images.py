"""Frames made smaller for a network: exact, so that the policy on the robot and its training agree to the bit."""

from __future__ import annotations

import numpy as np

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray


def area_downsample(frames: ByteArray, size: int) -> ByteArray:
    """Shrink square images: every output pixel is the mean over its share of the input's area.

    The mean is of whole numbers and exact, so that every machine rounds it alike: of a k x k block where the factor is
    whole, and else with each pixel weighing as much as lies inside.

    Args:
        frames: (..., S, S, C) uint8, S at least size.
        size: side of the result in pixels.

    Returns:
        (..., size, size, C) uint8; the mean is rounded to the nearest integer, halves up. The input itself
        if it has the size already.

    Raises:
        ShapeError: the frames are not square uint8 images, or smaller than size: what was not seen cannot be made up.
    """
    if frames.ndim < 3 or frames.dtype != np.uint8 or frames.shape[-2] != frames.shape[-3]:
        raise ShapeError(f"frames must be (..., S, S, C) uint8, got {frames.shape} {frames.dtype}")
    side = frames.shape[-2]
    if side == size:
        return frames
    if not 1 <= size < side:
        raise ShapeError(f"cannot shrink {side} pixels to {size}; draw or record frames of at least {size} pixels")
    if side % size:
        return _shared_out(frames, size)
    factor = side // size
    total = np.zeros((*frames.shape[:-3], size, size, frames.shape[-1]), np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += frames[..., row::factor, column::factor, :]
    area = factor * factor
    total += area // 2
    total //= area
    return total.astype(np.uint8)


def _shared_out(frames: ByteArray, size: int, *, at_once: int = 64) -> ByteArray:
    """Mean over fractional areas, in float64: sums stay below 256 S^2, where it counts whole numbers exactly."""
    side = frames.shape[-2]
    edge_N, edge_S = np.arange(size + 1) * side, np.arange(side + 1) * size
    low_NS = np.maximum(edge_N[:-1, None], edge_S[None, :-1])
    high_NS = np.minimum(edge_N[1:, None], edge_S[None, 1:])
    share_NS = np.maximum(high_NS - low_NS, 0).astype(np.float64)
    flat = frames.reshape(-1, *frames.shape[-3:])
    small = np.empty((len(flat), size, size, flat.shape[-1]), np.uint8)
    for low in range(0, len(flat), at_once):
        channels_BCSS = flat[low : low + at_once].transpose(0, 3, 1, 2).astype(np.float64)
        total = share_NS @ channels_BCSS @ share_NS.T
        small[low : low + at_once] = ((total + side * side // 2) // (side * side)).transpose(0, 2, 3, 1)
    return small.reshape(*frames.shape[:-3], size, size, frames.shape[-1])

"""Images as openpi resizes them, to train and to ask: shrunk whole, in the middle of a black square.

Source:
    openpi 15a9616, packages/openpi-client/src/openpi_client/image_tools.py, and the bilinear filter of Pillow's
    src/libImaging/Resample.c in its fixed-point arithmetic, which that calls; equal to it bit for bit (a test).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from gymnast_core.types import ByteArray

_PRECISION = 22
"""Bits of Pillow's weights after the point: 32 - 8 - 2."""


def resize_with_pad(frame_HWC: ByteArray, size: int) -> ByteArray:
    """Return (size, size, 3) uint8 of (H, W, 3) uint8: the aspect is kept, what is left is black."""
    height, width = frame_HWC.shape[:2]
    if (height, width) == (size, size):
        return frame_HWC
    ratio = max(width / size, height / size)
    rows, columns = max(1, int(height / ratio)), max(1, int(width / ratio))
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = _resized(frame_HWC, rows, columns)
    return square


def _resized(frame_HWC: ByteArray, rows: int, columns: int) -> ByteArray:
    """Columns first, then rows, each rounded to bytes; float64 holds every sum exactly."""
    height, width = frame_HWC.shape[:2]
    across = frame_HWC
    if columns != width:
        lines = frame_HWC.transpose(0, 2, 1).reshape(-1, width).astype(np.float64)  # one product of two matrices
        across = _levels(lines @ _weights(width, columns).T).reshape(height, 3, columns).transpose(0, 2, 1)
    if rows == height:
        return across
    down = _levels(_weights(height, rows) @ across.reshape(height, -1).astype(np.float64))
    return down.reshape(rows, columns, 3)


def _levels(sums: npt.NDArray[np.float64]) -> ByteArray:
    half = float(1 << (_PRECISION - 1))
    levels: ByteArray = np.clip((sums + half) // (1 << _PRECISION), 0, 255).astype(np.uint8)
    return levels


@functools.lru_cache(maxsize=16)
def _weights(source: int, target: int) -> npt.NDArray[np.float64]:
    """(target, source) whole numbers, each row about 2^22 in sum; a triangle, widened when shrinking."""
    scale = source / target
    support = max(scale, 1.0)
    centre_T = (np.arange(target) + 0.5) * scale
    low_T = np.maximum((centre_T - support + 0.5).astype(int), 0)
    high_T = np.minimum((centre_T + support + 0.5).astype(int), source)
    at_S = np.arange(source)
    weights_TS = np.maximum(1.0 - np.abs(at_S - centre_T[:, None] + 0.5) / support, 0.0)
    weights_TS *= (at_S >= low_T[:, None]) & (at_S < high_T[:, None])
    weights_TS /= weights_TS.sum(axis=1, keepdims=True)
    fixed: npt.NDArray[np.float64] = np.floor(weights_TS * (1 << _PRECISION) + 0.5)
    return fixed

"""From a camera frame to the numbers OpenVLA was trained on, without TensorFlow.

Official path: JPEG round trip, lanczos to 224, centre crop of 0.9 of the area, back to 224. A frame that already is
224 x 224 skips the first two. RL path: the crop alone. Both resizes are separable, so each is two small matrices.

Source:
    moojink/openvla-oft and world-gymnast/world-gymnast; checked against images they produced (tests/parity).
"""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray, FloatArray

CROP_AREA = 0.9
JPEG_QUALITY = 95


def prepare(frames_BHWC: ByteArray, *, pipeline: str, size: int = 224) -> ByteArray:
    """Return what the processor sees.

    Args:
        frames_BHWC: (B, H, W, 3) uint8 RGB.
        pipeline: official or rl.
        size: side of the result.

    Returns:
        (B, size, size, 3) uint8.

    Raises:
        ShapeError: not uint8 RGB frames.
    """
    if frames_BHWC.ndim != 4 or frames_BHWC.shape[-1] != 3 or frames_BHWC.dtype != np.uint8:
        raise ShapeError(f"frames must be (B, H, W, 3) uint8, got {frames_BHWC.shape} {frames_BHWC.dtype}")
    if pipeline == "official" and frames_BHWC.shape[1:3] != (size, size):
        frames_BHWC = lanczos(np.stack([jpeg_round_trip(frame) for frame in frames_BHWC]), size)
    return centre_crop(frames_BHWC, size)


def jpeg_round_trip(frame_HWC: ByteArray) -> ByteArray:
    """Compress at quality 95, 4:2:0, and decode: the training images came from JPEG records.

    The reference decodes with libjpeg's fast DCT, Pillow with the accurate one: at most 11 of 255 apart, mean 1.05.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return np.asarray(Image.open(buffer).convert("RGB"))


def lanczos(frames_BHWC: ByteArray, size: int) -> ByteArray:
    """Resize with an antialiased lanczos-3 filter; rounded and clipped to uint8."""
    rows = _lanczos_matrix(frames_BHWC.shape[1], size)
    columns = _lanczos_matrix(frames_BHWC.shape[2], size)
    levels = np.rint(_apply(frames_BHWC.astype(np.float32), rows, columns))
    resized: ByteArray = np.clip(levels, 0, 255).astype(np.uint8)
    return resized


def centre_crop(frames_BHWC: ByteArray, size: int, *, area: float = CROP_AREA) -> ByteArray:
    """Cut the middle, `area` of the image, and sample it bilinearly at size x size points.

    Points are corner-aligned, from (1-s)/2 (N-1) to (1+s)/2 (N-1) with s = sqrt(area); values go back to bytes by
    truncating x * 255.5, as the reference does.
    """
    rows = _crop_matrix(frames_BHWC.shape[1], size, math.sqrt(area))
    columns = _crop_matrix(frames_BHWC.shape[2], size, math.sqrt(area))
    unit = _apply(frames_BHWC.astype(np.float32) / np.float32(255.0), rows, columns)
    cropped: ByteArray = np.clip(unit * np.float32(255.5), 0, 255).astype(np.uint8)
    return cropped


def to_pixels(
    frames_BHWC: ByteArray, means: tuple[tuple[float, ...], ...], stds: tuple[tuple[float, ...], ...], size: int
) -> FloatArray:
    """Normalise for both towers, as the checkpoint's processor does.

    Args:
        frames_BHWC: (B, H, W, 3) uint8; squashed to size x size by bicubic if it is not that already.
        means: per tower, RGB, on the 0..1 scale.
        stds: per tower, RGB.
        size: what the towers expect.

    Returns:
        (B, 6, size, size) float32, channels 0-2 for the first tower, 3-5 for the second.
    """
    if frames_BHWC.shape[1:3] != (size, size):
        frames_BHWC = np.stack([_bicubic(frame, size) for frame in frames_BHWC])
    unit_BCHW = frames_BHWC.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255.0)
    towers = [
        (unit_BCHW - np.asarray(mean, np.float32)[:, None, None]) / np.asarray(std, np.float32)[:, None, None]
        for mean, std in zip(means, stds, strict=True)
    ]
    return np.concatenate(towers, axis=1)


def _bicubic(frame_HWC: ByteArray, size: int) -> ByteArray:
    return np.asarray(Image.fromarray(frame_HWC).resize((size, size), Image.Resampling.BICUBIC))


def _apply(frames_BHWC: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Weights rows (h, H) and columns (w, W) applied to (B, H, W, C)."""
    down = np.einsum("hH,BHWC->BhWC", rows, frames_BHWC, optimize=True)
    resized: FloatArray = np.einsum("wW,BhWC->BhwC", columns, down, optimize=True)
    return resized


@functools.lru_cache(maxsize=32)
def _lanczos_matrix(source: int, target: int, radius: float = 3.0) -> FloatArray:
    """(target, source) weights, each row summing to 1; widened when shrinking, so that it antialiases."""
    scale = source / target
    widened = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    x = np.abs(centres[:, None] - (np.arange(source) + 0.5)[None, :]) / widened
    weights = np.where(x < radius, np.sinc(x) * np.sinc(x / radius), 0.0)
    normalised: FloatArray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised


@functools.lru_cache(maxsize=32)
def _crop_matrix(source: int, target: int, side: float) -> FloatArray:
    """(target, source) bilinear weights of corner-aligned points in the middle."""
    first, last = (1 - side) / 2 * (source - 1), (1 + side) / 2 * (source - 1)
    points = np.linspace(first, last, target, dtype=np.float32)
    low = np.floor(points).astype(np.int64)
    fraction = points - low
    weights = np.zeros((target, source), np.float32)
    weights[np.arange(target), low] = 1 - fraction
    weights[np.arange(target), np.minimum(low + 1, source - 1)] += fraction
    return weights

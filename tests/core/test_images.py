"""Downsampling is an exact mean with a stated rounding."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.errors import ShapeError
from gymnast_core.images import area_downsample


def test_mean_of_a_block_rounds_halves_up() -> None:
    frame = np.array(
        [[[0], [1], [10], [10]], [[1], [0], [10], [11]], [[3], [3], [255], [255]], [[3], [5], [255], [254]]]
    )
    small = area_downsample(frame.astype(np.uint8), 2)
    # Means 0.5, 10.25, 3.5, 254.75.
    np.testing.assert_array_equal(small[..., 0], [[1, 10], [4, 255]])


def test_leading_axes_are_kept() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    small = area_downsample(frames, 4)
    assert small.shape == (2, 3, 4, 4, 3)
    exact = frames.reshape(2, 3, 4, 4, 4, 4, 3).astype(float).mean(axis=(3, 5))
    np.testing.assert_array_equal(small, np.floor(exact + 0.5).astype(np.uint8))


def test_a_pixel_that_an_edge_cuts_weighs_as_much_as_lies_inside() -> None:
    row = np.array([0, 90, 255], np.uint8)
    frame = np.broadcast_to(row[None, :, None], (3, 3, 1))
    # Each half is 1.5 pixels: (0 + 90 / 2) / 1.5 = 30 and (90 / 2 + 255) / 1.5 = 200.
    np.testing.assert_array_equal(area_downsample(np.ascontiguousarray(frame), 2)[..., 0], [[30, 200], [30, 200]])


def test_fractional_areas_are_exact_and_agree_with_blocks() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (70, 96, 96, 3), np.uint8)
    small = area_downsample(frames, 64)
    doubled = frames.repeat(2, axis=1).repeat(2, axis=2)  # 192 = 3 x 64: blocks of 3, the same areas
    np.testing.assert_array_equal(small, area_downsample(doubled, 64))


def test_right_size_is_returned_untouched() -> None:
    frames = np.zeros((8, 8, 3), np.uint8)
    assert area_downsample(frames, 8) is frames


@pytest.mark.parametrize(
    ("frames", "size"),
    [
        (np.zeros((8, 6, 3), np.uint8), 2),
        (np.zeros((8, 8, 3), np.float32), 4),
        (np.zeros((8, 8, 3), np.uint8), 16),
        (np.zeros((8, 8, 3), np.uint8), 0),
    ],
)
def test_what_cannot_be_shrunk_is_refused(frames: np.ndarray, size: int) -> None:
    with pytest.raises(ShapeError):
        area_downsample(frames, size)

"""Scenes by image: recognised when they come back, told apart when they differ, reset checked."""

import numpy as np
import pytest

from gymnast_core.errors import ShapeError
from gymnast_core.evaluation.scene import Fingerprint, check_reset


def scene(table=(100, 95, 85), cube=(220, 20, 20), at=(120, 100), size=128):
    """A table, a drawer and a cube, as a camera might see them."""
    frame = np.full((256, 256, 3), table, np.uint8)
    frame[40:100, 180:240] = (110, 70, 35)
    frame[at[0] : at[0] + 50, at[1] : at[1] + 50] = cube
    return frame if size == 256 else frame[:: 256 // size, :: 256 // size]


def noisy(frame, sigma=4, gain=1.05):
    noise = np.random.default_rng(0).normal(0, sigma, frame.shape)
    return np.clip(frame * gain + noise, 0, 255).astype(np.uint8)


def test_the_same_scene_with_its_cube_elsewhere_is_the_same_scene():
    assert Fingerprint.of(scene()).distance(Fingerprint.of(noisy(scene(at=(160, 30))))) <= 1.0


@pytest.mark.parametrize("other", [scene(table=(30, 33, 31)), scene(cube=(250, 90, 170)), scene(table=(70, 66, 60))])
def test_another_table_cube_or_light_is_another_scene(other):
    assert Fingerprint.of(scene()).distance(Fingerprint.of(other)) > 1.0


def test_resolution_does_not_matter():
    assert Fingerprint.of(scene(size=256)).distance(Fingerprint.of(scene(size=64))) < 0.5


def test_a_reset_scene_passes_despite_noise_and_exposure():
    check = check_reset(noisy(scene()), scene())
    assert check.ok
    assert check.message == "the scene is reset"


def test_a_cube_a_centimetre_off_fails_and_the_place_is_named():
    check = check_reset(scene(at=(129, 109)), scene())
    assert not check.ok
    assert "middle" in check.message
    assert 90 <= check.box[1] * 256 <= 165
    assert 0 < check.changed_share < 0.1


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3), np.uint8), np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3))])
def test_what_is_no_camera_image_is_refused(frame):
    with pytest.raises(ShapeError):
        Fingerprint.of(frame)
    with pytest.raises(ShapeError):
        check_reset(frame, frame)

"""A scene is told from others by one image, with limits that come from recorded images; books of scenes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.errors import ShapeError, StorageError
from gymnast_core.evaluation.recognition import RIDGE, SceneRecogniser, _rule
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.evaluation.scene_book import SceneBook
from tests.core.test_scene import noisy, scene


def starts(count: int, *, seed: int = 0, shift: int = 0, **look) -> list[Fingerprint]:
    """Starts of one look: the cube somewhere; `shift` moves the camera, so that what stands fast is seen elsewhere."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        frame = scene(at=(int(rng.integers(110, 190)), int(rng.integers(20, 120))), size=64, **look)
        found.append(Fingerprint.of(noisy(np.roll(frame, shift, axis=1))))
    return found


def test_a_camera_that_was_moved_a_little_is_another_scene_once_both_were_recorded():
    """Two pixels of 64: the distance of images takes them for one scene."""
    home, moved = starts(20), starts(20, seed=1, shift=2)
    assert max(moved[0].distance(one) for one in home) < 1.0
    there = SceneRecogniser.fitted(moved, home)
    assert (there.calibration.missed, there.calibration.mistaken) == (0, 0)
    assert [there.margin(one) > 0 for one in starts(10, seed=2, shift=2)] == [True] * 10
    assert not any(there.margin(one) > 0 for one in starts(10, seed=3))


def test_what_looks_like_nothing_recorded_is_not_recognised():
    there = SceneRecogniser.fitted(starts(12, seed=1, cube=(250, 90, 170)), starts(12))
    unknown = [*starts(5, table=(30, 33, 31)), *starts(5, table=(60, 90, 120)), *starts(5, cube=(30, 200, 40))]
    assert not any(there.margin(one) > 0 for one in unknown)


def test_what_cannot_be_told_apart_is_left_to_the_base_and_said():
    """No known image of elsewhere is taken for the scene, at the price of its own."""
    there = SceneRecogniser.fitted(starts(10, seed=1), starts(10, seed=4))
    assert there.calibration.mistaken == 0
    assert there.calibration.missed > 0
    assert there.calibration.words.startswith(f"recognised on {10 - there.calibration.missed} of 10 images of it")


def test_left_out_values_are_those_of_rules_fitted_without_the_image():
    """Solved directly, image by image: (Z' S Z + RIDGE) w = Z' S y with the same shares S."""
    rng = np.random.default_rng(0)
    here_ND, elsewhere_MD = rng.normal(1.0, 1.0, (4, 3)), rng.normal(-1.0, 1.0, (6, 3))
    weights_D, own_N, other_M = _rule(here_ND, elsewhere_MD)
    images_LE = np.c_[np.concatenate([here_ND, elsewhere_MD]), np.ones(10)]
    targets_L, shares_L = np.r_[np.ones(4), -np.ones(6)], np.r_[np.full(4, 10 / 8), np.full(6, 10 / 12)]

    def fitted(rows):
        scaled_EL = images_LE[rows].T * shares_L[rows]
        return np.linalg.solve(scaled_EL @ images_LE[rows] + RIDGE * np.eye(4), scaled_EL @ targets_L[rows])

    whole_E = fitted(np.arange(10))
    np.testing.assert_allclose(whole_E[:3], weights_D)
    left_out = [images_LE[row] @ fitted(np.delete(np.arange(10), row)) - whole_E[3] for row in range(10)]
    np.testing.assert_allclose(left_out, [*own_N, *other_M])


def test_a_few_images_are_enough_for_scenes_that_differ_much():
    home, dark, pink = starts(1), starts(1, table=(30, 33, 31)), starts(1, cube=(250, 90, 170))
    there = SceneRecogniser.fitted(dark, [*home, *pink])
    assert all(there.margin(one) > 0 for one in starts(5, seed=3, table=(30, 33, 31)))
    assert not any(there.margin(one) > 0 for one in (*starts(5, seed=4), *starts(5, seed=5, cube=(250, 90, 170))))


def test_one_image_and_nothing_else_leaves_the_distance_to_decide():
    there = SceneRecogniser.fitted([Fingerprint.of(scene())], [])
    assert there.margin(Fingerprint.of(noisy(scene(at=(150, 60))))) > 0
    assert there.margin(Fingerprint.of(scene(table=(30, 33, 31)))) < 0
    with pytest.raises(ShapeError, match="record an episode there"):
        SceneRecogniser.fitted([], [])


def test_a_recogniser_is_the_same_after_its_way_over_the_wire():
    there = SceneRecogniser.fitted(starts(10, seed=1, shift=2), starts(10))
    again = SceneRecogniser.from_json(json.loads(json.dumps(there.to_json())))
    for one in (*starts(3, seed=5, shift=2), *starts(3, seed=6)):
        assert again.margin(one) == pytest.approx(there.margin(one), abs=2e-2)


VALID = SceneRecogniser.fitted(starts(2), starts(2, cube=(250, 90, 170))).to_json()


NONSENSE = st.none() | st.text() | st.lists(st.floats()) | st.sampled_from([float("nan"), -1.0, 1e30, {}, [1e60] * 532])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from([name for name in VALID if name != "threshold"]), NONSENSE, min_size=1))
def test_nonsense_is_no_recogniser(changed):
    with pytest.raises(ShapeError, match=r"keep the adapter again|capture the scene again"):
        SceneRecogniser.from_json({**VALID, **changed})


def learned(**look) -> SceneRecogniser:
    return SceneRecogniser.fitted([Fingerprint.of(scene(**look))], [])


def test_adapters_are_offered_again_when_the_scene_comes_back(tmp_path):
    book = SceneBook(tmp_path / "scenes.json")
    assert book.find(scene()) is None
    book.keep("bench", learned(), "policy-a")
    book.keep("dark room", learned(table=(30, 33, 31)), "policy-b")
    book.keep("bench", learned(), "policy-c")
    again = SceneBook(tmp_path / "scenes.json")
    assert again.find(noisy(scene(at=(150, 60)))).adapters == ("policy-a", "policy-c")
    assert again.find(scene(table=(30, 33, 31))).name == "dark room"
    assert again.find(scene(table=(200, 40, 40))) is None
    again.drop("policy-c")
    assert SceneBook(tmp_path / "scenes.json").find(scene()).adapters == ("policy-a",)


def test_a_book_of_0_1_is_read(tmp_path):
    entry = {"fingerprint": Fingerprint.of(scene()).to_json(), "adapters": ["policy-a"]}
    (tmp_path / "scenes.json").write_text(json.dumps({"bench": entry}))
    assert SceneBook(tmp_path / "scenes.json").find(noisy(scene(at=(150, 60)))).adapters == ("policy-a",)


def test_a_damaged_book_is_refused(tmp_path):
    (tmp_path / "scenes.json").write_text('{"bench": {"fingerprint": {"layout": [1], "colours": []}, "adapters": []}}')
    with pytest.raises(StorageError, match="move it away"):
        SceneBook(tmp_path / "scenes.json")

"""The image pipeline against pictures the public code made with TensorFlow."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from gymnast_core.errors import ShapeError
from gymnast_core.policies.openvla import images


@pytest.fixture(scope="module")
def folder(golden_dir):
    return golden_dir / "image_preprocessing"


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def apart(ours, theirs):
    return np.abs(ours.astype(int) - theirs.astype(int))


def test_jpeg_round_trip(folder):
    want = json.loads((folder / "pil_differences.json").read_text())["max_and_mean_abs_difference_uint8"]
    most, mean = want["pil_encode_q95_and_decode_vs_reference"]
    difference = apart(images.jpeg_round_trip(read(folder / "input.png")), read(folder / "official_jpeg_decoded.png"))
    assert difference.max() <= most
    assert difference.mean() <= mean * 1.01


def test_jpeg_bytes_are_the_reference_encoder(folder):
    buffer = io.BytesIO()
    frame = Image.open(folder / "input.png").convert("RGB")
    frame.save(buffer, "JPEG", quality=images.JPEG_QUALITY, subsampling="4:2:0")
    buffer.seek(0)
    ours, theirs = Image.open(buffer), Image.open(folder / "official_jpeg.jpg")
    assert apart(np.asarray(ours), np.asarray(theirs.convert("RGB"))).max() == 0


def test_lanczos_is_within_one_level(folder):
    ours = images.lanczos(read(folder / "official_jpeg_decoded.png")[None], 224)[0]
    assert apart(ours, read(folder / "official_resized_224.png")).max() <= 1


@pytest.mark.parametrize(
    ("source", "target"),
    [("official_resized_224.png", "official_center_cropped_224.png"), ("input.png", "rl_center_cropped_224.png")],
)
def test_centre_crop_is_within_one_level(folder, source, target):
    difference = apart(images.centre_crop(read(folder / source)[None], 224)[0], read(folder / target))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01  # rounding x * 255 instead would change about 19 %


def test_whole_pipelines(folder):
    frame = read(folder / "input.png")[None]
    rl = images.prepare(frame, pipeline="rl")[0]
    assert apart(rl, read(folder / "rl_center_cropped_224.png")).max() <= 1
    official = apart(images.prepare(frame, pipeline="official")[0], read(folder / "official_center_cropped_224.png"))
    assert official.max() <= 11
    assert official.mean() <= 1.05


def test_a_224_frame_skips_jpeg_and_resize(folder):
    frame = read(folder / "official_resized_224.png")[None]
    np.testing.assert_array_equal(images.prepare(frame, pipeline="official"), images.centre_crop(frame, 224))


@pytest.mark.parametrize("name", ["official_center_cropped_224", "rl_center_cropped_224", "input"])
def test_processor(folder, name):
    settings = json.loads((folder / "processor.json").read_text())
    want = load_file(folder / "pixel_values.safetensors")
    means, stds = (tuple(map(tuple, settings[key])) for key in ("means", "stds"))
    pixels = images.to_pixels(read(folder / f"{name}.png")[None], means, stds, 224)[0]
    stride = settings["sample_stride"]
    np.testing.assert_allclose(pixels[:, ::stride, ::stride], want[f"{name}.sample"], atol=1e-5)
    np.testing.assert_allclose(pixels.mean((1, 2)), want[f"{name}.channel_mean"], atol=1e-4)
    np.testing.assert_allclose(pixels.std((1, 2)), want[f"{name}.channel_std"], atol=1e-4)


def test_floats_are_refused():
    with pytest.raises(ShapeError, match="float32"):
        images.prepare(np.zeros((1, 8, 8, 3), np.float32), pipeline="rl")

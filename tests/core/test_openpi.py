"""openpi's messages: what is packed comes back; what comes in is bounded, of few kinds, and named where it is wrong."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gymnast_core.errors import ConfigError, ContractError, PolicyFailedError
from gymnast_core.wire.errors import InvalidMessageError, TooLargeError
from gymnast_core.wire.openpi import codec
from gymnast_core.wire.openpi.codec import pack, unpack
from gymnast_core.wire.openpi.exchange import actions_from, observed, reply, request
from gymnast_core.wire.openpi.images import resize_with_pad
from gymnast_core.wire.openpi.keys import STYLES, Keys, read_keys
from gymnast_core.wire.openpi.link import LinkSettings
from gymnast_core.wire.token import header, proven, read_token

DTYPES = ("?", "i1", "u1", "<i2", ">i2", "<u4", ">i8", "<u8", "<f2", ">f4", "<f4", "<f8", ">f8")
REFUSALS = (InvalidMessageError, TooLargeError)


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    data = draw(st.binary(min_size=(size := math.prod(shape) * dtype.itemsize), max_size=size))
    return (
        np.frombuffer(data, np.uint8).astype(bool).reshape(shape)
        if dtype.kind == "b"
        else np.ndarray(shape, dtype, data)
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | arrays(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def same(first, second) -> bool:
    if isinstance(first, np.ndarray):
        assert second.dtype == first.dtype.newbyteorder("=")
        return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=9), VALUES, max_size=4))
def test_what_is_packed_comes_back(message):
    assert same(message, unpack(pack(message)))


@pytest.mark.parametrize("number", [np.float32(1.5), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)])
def test_numbers_of_numpy_come_back_as_they_were(number):
    found = unpack(pack({"n": number}))["n"]
    assert type(found) is type(number)
    assert found == number


def test_an_array_is_laid_out_as_openpi_lays_it_out():
    packed = msgpack.unpackb(pack({"a": np.arange(3, dtype=np.float32)}))
    assert packed == {
        "a": {b"__ndarray__": True, b"data": np.arange(3, dtype="<f4").tobytes(), b"dtype": "<f4", b"shape": [3]}
    }
    packed = msgpack.unpackb(pack({"n": np.int16(7)}))
    assert packed == {"n": {b"__npgeneric__": True, b"data": 7, b"dtype": "<i2"}}


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array([1j]),
        np.zeros(2, [("a", "i4")]),
        np.array(["x"]),
        np.zeros(2, "M8[s]"),
        np.longdouble(1),
        object(),
        {1, 2},
        2**64,
    ],
)
def test_nothing_else_is_packed(value):
    with pytest.raises(ContractError, match="not packed"):
        pack({"a": value})


def array(**changes):
    entries = {"__ndarray__": True, "data": b"\x00" * 8, "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({"a": {name.encode(): value for name, value in entries.items() if value is not ...}})


def number(data, dtype, **more):
    return msgpack.packb({"n": {b"__npgeneric__": True, b"data": data, b"dtype": dtype, **more}})


HOSTILE = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "a list": msgpack.packb([1]),
    "a number for a name": msgpack.packb({1: 2}),
    "bytes for a name": msgpack.packb({b"a": 2}),
    "more behind it": msgpack.packb({"a": 1}) + b"x",
    "a text that is none": b"\x81\xa1\xff\x01",
    "an extension": msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
    "an empty extension": msgpack.packb({"a": msgpack.ExtType(5, b"")}),
    "a time": msgpack.packb({"a": msgpack.Timestamp(5, 3)}),
    "600 deep": b"\x81\xa1a" + b"\x91" * 600 + b"\x90",
    "5000 deep": b"\x81\xa1a" * 5000,
    "300 lists": msgpack.packb({"a": [[]] * 300}),
    "a long list": msgpack.packb({"a": [0] * 5000}),
    "a wide map": msgpack.packb({str(n): n for n in range(99)}),
    "a list of 4 billion": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "bytes of 4 billion": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "objects": array(dtype="|O8", data=b"", shape=[0]),
    "complex": array(dtype="<c8", shape=[1]),
    "structures": array(dtype="V8", shape=[1]),
    "a dtype of fields": array(dtype=[["a", "<f4"]]),
    "a dtype by name": array(dtype="float32"),
    "a float of one byte": array(dtype="<f1", shape=[8]),
    "a bool of two": array(dtype="<b2", shape=[4]),
    "long double": array(dtype="<f16", data=b"\0" * 16, shape=[1]),
    "a text as dtype": array(dtype="<U2", shape=[1]),
    "dates": array(dtype="<M8[s]", shape=[1]),
    "no shape": array(shape=...),
    "no data": array(data=...),
    "more entries": array(more=1),
    "a negative length": array(shape=[-2]),
    "true as a length": array(shape=[True, 2]),
    "a float length": array(shape=[2.0]),
    "lengths beyond": array(shape=[2**63, 2**63, 2]),
    "an array of nothing": array(shape=[2**63, 0], data=b"x"),
    "nine axes": array(shape=[1] * 9, data=b"\0" * 4),
    "fewer bytes": array(data=b"\0" * 7),
    "more bytes": array(data=b"\0" * 9),
    "a text as data": array(data="abcdefgh"),
    "a list as data": array(data=[0] * 8),
    "300 for a byte": number(300, "|u1"),
    "-1 unsigned": number(-1, "<u4"),
    "a float as integer": number(1.5, "<i4"),
    "a text as number": number("1", "<i4"),
    "beyond f4": number(1e300, "<f4"),
    "2 as boolean": number(2, "|b1"),
    "a number and more": number(1, "<i4", x=1),
    "true as integer": number(True, "<i4"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_message_is_refused(name):
    with pytest.raises(REFUSALS):
        unpack(HOSTILE[name])


def test_a_message_has_a_most():
    with pytest.raises(TooLargeError, match="65 bytes; 64 are accepted"):
        unpack(b"x" * 65, limit=64)
    nested = b"\x81\xa1a" + (b"\xdc\x10\x00" + b"\x90" * 4096) * 4000  # 16 million lists in 16 MB
    with pytest.raises(REFUSALS):
        unpack(nested[: codec.MAX_BYTES])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    with contextlib.suppress(*REFUSALS):
        assert isinstance(unpack(data), dict)


GOOD = pack(
    {"observation/image": np.zeros((4, 4, 3), np.uint8), "s": np.arange(8.0), "n": np.float32(1), "l": [1, "x"]}
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_message_with_changed_bytes_is_a_message_or_refused(changes):
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(*REFUSALS):
        assert isinstance(unpack(bytes(data)), dict)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_a_robot_asks_is_what_the_policy_sees(style, data):
    keys = STYLES[style].changed(size=0)
    floats = st.floats(-2, 2, width=32)
    proprio = np.array(data.draw(st.lists(floats, min_size=7, max_size=7)), np.float32)
    frame = np.frombuffer(data.draw(st.binary(min_size=60, max_size=60)), np.uint8).reshape(4, 5, 3)
    asked = unpack(pack(request(keys, {"over_shoulder": frame, "wrist": frame}, proprio, "lift the cube")))
    frames, seen, instruction = observed(keys, asked)
    assert list(frames) == ["over_shoulder"]
    np.testing.assert_array_equal(frames["over_shoulder"], frame)
    np.testing.assert_allclose(seen, proprio, atol=1e-6)
    assert instruction == "lift the cube"
    actions = np.array(data.draw(st.lists(floats, min_size=14, max_size=14)), np.float32).reshape(2, 7)
    actions[:, 6] = np.clip(actions[:, 6], 0, 1)
    answered = unpack(pack({"actions": reply(keys, actions)}))
    assert answered["actions"].shape == (2, len(keys.actions))
    np.testing.assert_allclose(actions_from(keys, answered), actions, atol=1e-6)


def test_units_and_the_gripper_are_the_servers():
    keys = STYLES["libero"].changed(translation_m=0.05, rotation_rad=0.5, action_gripper=(1.0, -1.0))
    theirs = np.array([[1.0, -1.0, 0.5, 1.0, 0.0, -0.5, 1.0], [0, 0, 0, 0, 0, 0, -1.2]], np.float64)
    expected = [[0.05, -0.05, 0.025, 0.5, 0.0, -0.25, 0.0], [0, 0, 0, 0, 0, 0, 1.0]]
    np.testing.assert_allclose(actions_from(keys, {"actions": theirs}), expected, atol=1e-7)
    droid = request(
        STYLES["droid"], {"over_shoulder": np.zeros((8, 8, 3), np.uint8)}, np.full(7, 0.25, np.float32), "x"
    )
    assert droid["observation/gripper_position"] == pytest.approx([0.75])  # 0 is open there
    assert droid["observation/exterior_image_1_left"].shape == (224, 224, 3)
    aloha = request(STYLES["aloha"], {"over_shoulder": np.zeros((8, 8, 3), np.uint8)}, np.zeros(7, np.float32), "x")
    assert {name: image.shape for name, image in aloha["images"].items()} == dict.fromkeys(
        ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"), (3, 224, 224)
    )


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (None, "got nothing"),
        ([[0.0] * 7], "got list"),
        (np.zeros((5, 8)), r"\(1..1000, 7\) floats, got \(5, 8\)"),
        (np.zeros(7), r"got \(7,\)"),
        (np.zeros((0, 7)), r"got \(0, 7\)"),
        (np.zeros((1001, 7)), r"got \(1001, 7\)"),
        (np.zeros((5, 7), int), "got .* int64"),
        (np.full((5, 7), np.nan), "not finite"),
        (np.full((5, 7), 1e300), "not finite"),
        (np.full((5, 7), -np.inf), "not finite"),
    ],
)
def test_actions_that_are_none_are_named(actions, words):
    with pytest.raises(PolicyFailedError, match=words):
        actions_from(STYLES["libero"], {} if actions is None else {"actions": actions})


def asked(**changes):
    plain = request(STYLES["libero"], {"over_shoulder": np.zeros((8, 8, 3), np.uint8)}, np.zeros(7, np.float32), "x")
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}


IMAGE, STATE = "observation/image", "observation/state"
WRONG = {
    "(3, 224, 224) uint8": {IMAGE: np.zeros((3, 224, 224), np.uint8)},
    "float64": {IMAGE: np.zeros((8, 8, 3))},
    "list": {IMAGE: [1]},
    "(0, 8, 3)": {IMAGE: np.zeros((0, 8, 3), np.uint8)},
    "wrist_image must": {"observation/wrist_image": 1},
    "(5000, 1, 3)": {IMAGE: np.zeros((5000, 1, 3), np.uint8)},
    "state must be (8,) numbers, got (7,) float64": {STATE: np.zeros(7)},
    "bool": {STATE: np.zeros(8, bool)},
    "not within 100": {STATE: np.full(8, np.nan)},
    "got list": {STATE: [0.0] * 8},
    "lacks 'prompt'": {"prompt": ...},
    "prompt must be a text": {"prompt": b"x"},
    "unknown 'joints'": {"joints": 1},
    "5000 characters": {"prompt": "x" * 5000},
    "lacks 'observation/image'": {IMAGE: ...},
}


@pytest.mark.parametrize("words", WRONG)
def test_requests_of_another_kind_are_refused_by_name(words):
    with pytest.raises(REFUSALS) as refused:
        observed(STYLES["libero"], asked(**WRONG[words]))
    assert words in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_images_of_a_map_are_refused_by_name():
    keys = STYLES["aloha"]
    whole = request(keys, {"over_shoulder": np.zeros((8, 8, 3), np.uint8)}, np.zeros(7, np.float32), "x")
    for images, words in ((1, "images must be a map"), ({}, "images lacks 'cam_high', 'cam_left_wrist'")):
        with pytest.raises(InvalidMessageError, match=words):
            observed(keys, {**whole, "images": images})


def test_a_camera_that_the_arm_lacks_is_named():
    with pytest.raises(ConfigError, match=r"'over_shoulder'; this arm has \['wrist'\]"):
        request(STYLES["libero"], {"wrist": np.zeros((8, 8, 3), np.uint8)}, np.zeros(7, np.float32), "x")


def test_keys_are_read_from_a_file_that_names_what_differs(tmp_path):
    path = tmp_path / "keys.yaml"
    images = "{observation/exterior_image_1_left: over_shoulder, observation/wrist_image_left: wrist}"
    path.write_text(f"style: droid\nimages: {images}\n")
    keys = read_keys(str(path), Keys)
    assert keys.images["observation/wrist_image_left"] == "wrist"
    assert keys.actions == STYLES["droid"].actions
    assert read_keys("", Keys) == STYLES["libero"]


def test_the_file_that_users_start_from_is_the_default(tmp_path):
    example = Path(__file__).parents[2] / "config" / "openpi.yaml"
    assert read_keys(str(example), LinkSettings) == read_keys("", LinkSettings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("style: franka", "'franka' is not one of libero, droid, aloha"),
        ("- x", "must map settings"),
        ("{", "readable file"),
        ("colour: red", "unknown settings"),
        ("actions: [dx, dy, dz]", "actions must name each of dx"),
        ("size: 0.5", "size"),
        ("state: {s: [x, x]}", "once; look at"),
        ("state: {s: [q]}", "once; look at"),
        ("action_gripper: [1, 1]", "two different"),
        ("prompt: observation/image", "keys must differ"),
        ("images: {a: c, b: c}", "cameras must differ"),
        ("images: {}", "images"),
        ("translation_m: .inf", "translation_m"),
        ("1: 2", "must map settings"),
    ],
)
def test_keys_that_make_no_sense_are_named(tmp_path, text, words):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_keys(str(path), Keys)
    with pytest.raises(ConfigError, match="neither a style"):
        read_keys(str(tmp_path / "none.yaml"), Keys)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(48, 64, 22), (64, 48, 22), (20, 20, 33), (37, 91, 50), (33, 33, 33)]
)
def test_images_are_resized_as_openpi_does(height, width, size):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ratio = max(width / size, height / size)
    small = Image.fromarray(frame).resize((int(width / ratio), int(height / ratio)), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (size, size))
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    np.testing.assert_array_equal(resize_with_pad(frame, size), np.asarray(square))


@pytest.mark.parametrize(
    ("text", "words"), [("short", "24 to 256"), ("two " * 10, "one word"), ("ü" * 30, "cannot be read")]
)
def test_a_token_that_is_none_is_named(tmp_path, text, words):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_token(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_a_token_is_proven_by_itself_alone(tmp_path):
    path = tmp_path / "token"
    path.write_text("a" * 32 + "\n")
    token = read_token(path)
    assert proven(header(token), token)
    for wrong in (
        "",
        token,
        f"Bearer {token}",
        header(token[:-1]),
        header(token + "a"),
        header(token).lower(),
        "\udcff",
    ):
        assert not proven(wrong, token)

"""Requests and replies made of observations and actions, and back again, for client and server.

Raises where a message is not what the keys say; the message of the error names key, shape and dtype.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from gymnast_core.episodes.messages import ACTION_NAMES, MAX_INSTRUCTION_CHARACTERS, PROPRIO_NAMES
from gymnast_core.errors import ConfigError, PolicyFailedError
from gymnast_core.pictures import MAX_IMAGE_SIDE
from gymnast_core.types import ByteArray, FloatArray
from gymnast_core.wire.errors import InvalidMessageError, TooLargeError
from gymnast_core.wire.inference import MOST_PROPRIO
from gymnast_core.wire.openpi.codec import Message, Value
from gymnast_core.wire.openpi.images import resize_with_pad
from gymnast_core.wire.openpi.keys import Keys
from gymnast_core.wire.openpi.link import MAX_ROWS


def request(keys: Keys, frames: Mapping[str, ByteArray], proprio_P: FloatArray, instruction: str) -> Message:
    """Return what asks a policy server.

    Args:
        keys: of the server.
        frames: camera -> (H, W, 3) uint8 RGB.
        proprio_P: (7,) see gymnast_core.types.PROPRIO_DIM.
        instruction: what to do.

    Raises:
        ConfigError: a camera that a key names is not there.
    """
    images: dict[str, Value] = {key: _image(keys, key, camera, frames) for key, camera in keys.images.items()}
    named = dict(zip(PROPRIO_NAMES, proprio_P.tolist(), strict=True))
    closed, opened = keys.state_gripper
    named["gripper"] = closed + named["gripper"] * (opened - closed)
    state: dict[str, Value] = {
        key: np.array([named[name] if name else 0.0 for name in names], np.float32) for key, names in keys.state.items()
    }
    return {**({keys.image_map: images} if keys.image_map else images), **state, keys.prompt: instruction}


def actions_from(keys: Keys, reply: Message) -> FloatArray:
    """Return (K, 7) actions of ours, of a policy server's reply.

    Raises:
        PolicyFailedError: it has none, or they have another shape or dtype, or are not finite.
    """
    found, width = reply.get("actions"), len(keys.actions)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.ndim != 2:
        raise PolicyFailedError(f"actions must be (K, {width}) floats, got {described(found)}")
    if not 1 <= found.shape[0] <= MAX_ROWS or found.shape[1] != width:
        raise PolicyFailedError(f"actions must be (1..{MAX_ROWS}, {width}) floats, got {described(found)}")
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        ours_KA = found[:, _slots(keys)].astype(np.float32) * _units(keys)
    if not np.isfinite(ours_KA).all():
        raise PolicyFailedError("an action is not finite")
    closed, opened = keys.action_gripper
    ours_KA[:, 6] = np.clip((ours_KA[:, 6] - closed) / (opened - closed), 0.0, 1.0)
    return ours_KA.astype(np.float32)


def observed(keys: Keys, message: Message) -> tuple[dict[str, ByteArray], FloatArray, str]:
    """Return what request() put into a message: frames by camera, proprioception (7,) and instruction.

    Raises:
        InvalidMessageError: a key is missing or unknown, or its value has another shape, dtype or range.
        TooLargeError: the instruction is too long.
    """
    _check_names("the request", keys.top, message)
    images = message
    if keys.image_map:
        inside = message[keys.image_map]
        if not isinstance(inside, Mapping):
            raise InvalidMessageError(f"{keys.image_map} must be a map of images, got {described(inside)}")
        _check_names(keys.image_map, keys.images, inside)
        images = inside
    frames = {key: _frame(keys, key, images[key]) for key in keys.images}
    seen = {camera: frames[key] for key, camera in keys.images.items() if camera}
    return seen, _proprio(keys, message), _instruction(keys, message[keys.prompt])


def reply(keys: Keys, actions_KA: FloatArray) -> FloatArray:
    """Return (K, D) float32 actions as a client with these keys expects them, of (K, 7) of ours."""
    out_KD = np.zeros((len(actions_KA), len(keys.actions)), np.float32)
    closed, opened = keys.action_gripper
    scaled_KA = actions_KA / _units(keys)
    scaled_KA[:, 6] = closed + actions_KA[:, 6] * (opened - closed)
    out_KD[:, _slots(keys)] = scaled_KA
    return out_KD


def described(value: Value) -> str:
    """Return what a value is, in a few words: never what it holds."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return "nothing" if value is None else type(value).__name__


def _slots(keys: Keys) -> list[int]:
    return [keys.actions.index(name) for name in ACTION_NAMES]


def _units(keys: Keys) -> FloatArray:
    return np.array([keys.translation_m] * 3 + [keys.rotation_rad] * 3 + [1.0], np.float32)


def _image(keys: Keys, key: str, camera: str, frames: Mapping[str, ByteArray]) -> ByteArray:
    if camera and camera not in frames:
        raise ConfigError(f"openpi: {key} needs camera {camera!r}; this arm has {sorted(frames)}: name one, or none")
    if camera:
        frame = resize_with_pad(frames[camera], keys.size) if keys.size else frames[camera]
    else:
        frame = np.zeros((keys.size, keys.size, 3) if keys.size else next(iter(frames.values())).shape, np.uint8)
    return np.ascontiguousarray(frame.transpose(2, 0, 1)) if keys.channels_first else frame


def _check_names(what: str, known: Collection[str], given: Mapping[str, Value]) -> None:
    """Refuse keys that are missing or that nobody reads: both are a client set up for something else."""
    for words, names in (("lacks", set(known) - set(given)), ("has unknown", set(given) - set(known))):
        if names:
            listed = ", ".join(repr(name[:60]) for name in sorted(names)[:8])
            raise InvalidMessageError(f"{what} {words} {listed}; its keys are {', '.join(known)}")


def _frame(keys: Keys, key: str, value: Value) -> ByteArray:
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype == np.uint8:
        frame: ByteArray = value.transpose(1, 2, 0) if keys.channels_first else value
        if frame.shape[2] == 3 and 1 <= min(frame.shape[:2]) <= max(frame.shape[:2]) <= MAX_IMAGE_SIDE:
            return frame
    wanted = "(3, H, W)" if keys.channels_first else "(H, W, 3)"
    raise InvalidMessageError(
        f"{key} must be {wanted} uint8 of at most {MAX_IMAGE_SIDE} pixels a side, got {described(value)}"
    )


def _proprio(keys: Keys, message: Message) -> FloatArray:
    named = dict.fromkeys(PROPRIO_NAMES, 0.0)
    for key, names in keys.state.items():
        value = message[key]
        if not isinstance(value, np.ndarray) or value.shape != (len(names),) or value.dtype.kind not in "fiu":
            raise InvalidMessageError(f"{key} must be ({len(names)},) numbers, got {described(value)}")
        numbers = value.astype(np.float64)
        if not (np.abs(numbers) <= MOST_PROPRIO).all():  # NaN is not below anything
            raise InvalidMessageError(f"{key} has a number that is not within {MOST_PROPRIO:.0f}: {numbers.tolist()}")
        named |= {name: number for name, number in zip(names, numbers.tolist(), strict=True) if name}
        if "gripper" in names:
            closed, opened = keys.state_gripper
            named["gripper"] = (named["gripper"] - closed) / (opened - closed)
    return np.array([named[name] for name in PROPRIO_NAMES], np.float32)


def _instruction(keys: Keys, value: Value) -> str:
    if not isinstance(value, str):
        raise InvalidMessageError(f"{keys.prompt} must be a text, got {described(value)}")
    if len(value) > MAX_INSTRUCTION_CHARACTERS:
        raise TooLargeError(f"{keys.prompt} has {len(value)} characters; {MAX_INSTRUCTION_CHARACTERS} are accepted")
    return value

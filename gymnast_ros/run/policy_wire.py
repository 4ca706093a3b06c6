"""What passes between a robot's rollout and the process of its policies: arrays as they are, the rest as JSON.

One message is a safetensors document; its array "words" holds a JSON object in UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from gymnast_core.policy import Committed
from gymnast_core.types import ActionChunk, Observation, Past

Arrays = Mapping[str, npt.NDArray[Any]]
_WORDS, _CAMERA, _TRACE, _PAST = "words", "camera/", "trace/", "past/"


def packed(words: Mapping[str, Any], arrays: Arrays | None = None) -> bytes:
    """Return a message.

    Args:
        words: JSON values.
        arrays: by name.
    """
    text = np.frombuffer(json.dumps(dict(words)).encode(), np.uint8)
    whole = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    return bytes(save({**whole, _WORDS: text}))


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return words and arrays of a message.

    Raises:
        ValueError: it is none.
    """
    try:
        arrays = load(data)
        words = json.loads(arrays.pop(_WORDS).tobytes())
    except Exception as error:  # safetensors has an error of its own for what is none
        raise ValueError(f"{len(data)} bytes that are no message: {error}") from error
    return dict(words), arrays


def arrays_of(observation: Observation) -> Arrays:
    """Return an observation's arrays; cameras keep their order in camera_names()."""
    frames = {f"{_CAMERA}{name}": np.asarray(observation.images[name]) for name in observation.images}
    past = {} if observation.past is None else {f"{_PAST}{n}": array for n, array in vars(observation.past).items()}
    return {**frames, **past, "proprio": observation.proprio_BP, "time_ns": observation.time_ns_B}


def observation_of(arrays: Arrays, cameras: list[str]) -> Observation:
    """Return the observation of a message; its first camera is still the first."""
    images = {name: arrays[f"{_CAMERA}{name}"] for name in cameras}
    past = {name.removeprefix(_PAST): arrays[name] for name in arrays if name.startswith(_PAST)}
    return Observation(images, arrays["proprio"], arrays["time_ns"], Past(**past) if past else None)


def arrays_of_chunk(chunk: ActionChunk) -> Arrays:
    """Return a chunk's arrays."""
    drawn = {} if chunk.log_probs_BKA is None else {"log_probs": chunk.log_probs_BKA}
    return {"actions": chunk.actions_BKA, **drawn, **{f"{_TRACE}{name}": chunk.trace[name] for name in chunk.trace}}


def chunk_of(arrays: Arrays, version: str) -> ActionChunk:
    """Return the chunk of a message.

    Raises:
        ShapeError: it is no chunk of actions.
        KeyError: there are no actions.
    """
    trace = {name.removeprefix(_TRACE): arrays[name] for name in arrays if name.startswith(_TRACE)}
    return ActionChunk(arrays["actions"], version, trace, arrays.get("log_probs"))


def arrays_of_committed(committed: Committed | None) -> Arrays:
    """Return the arrays of what is committed; none where nothing is."""
    return {} if committed is None else {"committed": committed.actions_BKA, "committed_weight": committed.weight_K}


def committed_of(arrays: Arrays) -> Committed | None:
    """Return what is committed by a message."""
    return Committed(arrays["committed"], arrays["committed_weight"]) if "committed" in arrays else None


def state_of(rng: np.random.Generator | None) -> dict[str, object] | None:
    """Return where a generator is, as JSON values; integers are as long as they are."""
    return None if rng is None else dict(rng.bit_generator.state)


def generator_at(state: Mapping[str, object] | None) -> np.random.Generator | None:
    """Return a generator that goes on from there."""
    if state is None:
        return None
    bits = getattr(np.random, str(state["bit_generator"]))()
    bits.state = dict(state)
    return np.random.Generator(bits)

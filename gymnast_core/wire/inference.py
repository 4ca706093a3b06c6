"""Requests to a policy on another machine, answered: decoded within bounds, and what fails is named in the reply."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gymnast_core.episodes.messages import MAX_INSTRUCTION_CHARACTERS
from gymnast_core.errors import GymnastError, PolicyFailedError
from gymnast_core.pictures import decode_jpeg, jpeg_size
from gymnast_core.policy import Policy
from gymnast_core.sampling import MOST_TEMPERATURE, own_temperature, set_temperature
from gymnast_core.types import ACTION_DIM, PAST_STEPS, PROPRIO_DIM, ActionChunk, Observation, Past
from gymnast_core.wire.errors import InvalidMessageError, TooLargeError
from gymnast_core.wire.gymnast.v1 import policy_pb2

Answer = Callable[[policy_pb2.InferRequest], policy_pb2.InferReply]
"""An InferRequest's reply."""
MAX_ROWS = 64
MOST_PROPRIO = 100.0
MAX_CAMERAS = 8
MAX_PIXELS = 8 << 20
"""Of all images of one request, decoded: 24 MiB."""


def answers(policy: Policy) -> Answer:
    """Return what answers requests with a policy, one at a time.

    A request that cannot be answered gets the error's name and words.
    """
    own = own_temperature(policy)

    def answer(request: policy_pb2.InferRequest) -> policy_pb2.InferReply:
        try:
            return _infer(policy, request, own)
        except GymnastError as error:
            return failed(request, policy.version, error)

    return answer


def failed(request: policy_pb2.InferRequest, version: str, error: GymnastError) -> policy_pb2.InferReply:
    """Return the reply to a request that cannot be answered."""
    return policy_pb2.InferReply(
        request_id=request.request_id, policy_version=version, error=type(error).__name__, message=str(error)[:500]
    )


def observation_from(request: policy_pb2.InferRequest) -> Observation:
    """Decode a request.

    Raises:
        InvalidMessageError: counts do not match, or a number is not finite.
        TooLargeError: too many rows, cameras or pixels.
        CorruptError: an image is no sane JPEG.
    """
    rows = len(request.instructions)
    if rows > MAX_ROWS or len(request.cameras) > MAX_CAMERAS:
        raise TooLargeError(f"{rows} rows of {len(request.cameras)} cameras; {MAX_ROWS} and {MAX_CAMERAS} are accepted")
    if len(request.proprio) != rows * PROPRIO_DIM or len(request.time_ns) != rows:
        raise InvalidMessageError(
            f"{rows} instructions need {rows * PROPRIO_DIM} proprioception values and {rows} times"
        )
    if max(request.time_ns, default=0) >= 1 << 63:
        raise InvalidMessageError(f"time_ns {max(request.time_ns)} is no time; it must be below 2^63")
    proprio = np.array(request.proprio, np.float32).reshape(rows, PROPRIO_DIM)
    if not (np.abs(proprio) <= MOST_PROPRIO).all():  # NaN is not below anything
        raise InvalidMessageError(f"proprioception is not within {MOST_PROPRIO} m and rad")
    if (longest := max(map(len, request.instructions))) > MAX_INSTRUCTION_CHARACTERS:
        raise TooLargeError(f"an instruction of {longest} characters; {MAX_INSTRUCTION_CHARACTERS} are accepted")
    pixels = sum(math.prod(jpeg_size(jpeg)) for camera in request.cameras for jpeg in camera.jpeg)
    if pixels > MAX_PIXELS:
        raise TooLargeError(f"{pixels} pixels in one request; {MAX_PIXELS} are accepted")
    images = {}
    for camera in request.cameras:
        frames = [decode_jpeg(jpeg) for jpeg in camera.jpeg]
        if len(frames) != rows or len({frame.shape for frame in frames}) != 1:
            raise InvalidMessageError(
                f"camera {camera.name!r} has {len(frames)} frames for {rows} rows, or mixed sizes"
            )
        images[camera.name] = np.stack(frames)
    return Observation(images, proprio, np.array(request.time_ns, np.int64), _past(request, rows))


def _past(request: policy_pb2.InferRequest, rows: int) -> Past | None:
    """Read what the rows' episodes have behind them; an older robot sends nothing."""
    if not request.past_steps:
        return None
    count = rows * PAST_STEPS
    lengths = (len(request.past_proprio), len(request.past_actions), len(request.past_steps))
    if lengths != (count * PROPRIO_DIM, count * ACTION_DIM, rows):
        raise InvalidMessageError(f"{rows} rows cannot have a past of {lengths} numbers")
    proprio = np.array(request.past_proprio, np.float32).reshape(rows, PAST_STEPS, PROPRIO_DIM)
    actions = np.array(request.past_actions, np.float32).reshape(rows, PAST_STEPS, ACTION_DIM)
    if not ((np.abs(proprio) <= MOST_PROPRIO).all() and (np.abs(actions) <= MOST_PROPRIO).all()):
        raise InvalidMessageError(f"the past is not within {MOST_PROPRIO} m and rad")
    valid = np.arange(PAST_STEPS) >= PAST_STEPS - np.array(request.past_steps, np.int64).clip(max=PAST_STEPS)[:, None]
    return Past(proprio, actions, valid)


def _infer(policy: Policy, request: policy_pb2.InferRequest, own: float | None) -> policy_pb2.InferReply:
    reply = policy_pb2.InferReply(
        request_id=request.request_id, policy_version=policy.version, chunk_length=policy.chunk_length,
        temperature=own or 0.0,
    )  # fmt: skip
    if not request.instructions:  # a greeting asks which policy answers
        return reply
    if not 0 <= request.temperature <= MOST_TEMPERATURE:  # NaN is not below anything
        raise InvalidMessageError(f"temperature {request.temperature} is not within 0 and {MOST_TEMPERATURE:g}")
    if (temperature := request.temperature or own) is not None:
        set_temperature(policy, temperature)
    rng = np.random.default_rng(request.seed) if request.sample else None
    chunk = _act(policy, observation_from(request), list(request.instructions), rng)
    reply.policy_version = chunk.policy_version
    reply.actions.extend(chunk.actions_BKA.ravel().tolist())
    if request.with_log_probs and "tokens" in chunk.trace and chunk.log_probs_BKA is not None:
        reply.tokens.extend(chunk.trace["tokens"].ravel().tolist())
        reply.log_probs.extend(chunk.log_probs_BKA.ravel().tolist())
    return reply


def _act(
    policy: Policy, observation: Observation, instructions: list[str], rng: np.random.Generator | None
) -> ActionChunk:
    """Ask the policy; whatever it raises, or answers that is no action, is its own fault and reported as that.

    Raises:
        PolicyFailedError: see there.
    """
    try:
        chunk = policy.act(observation, instructions, rng=rng)
    except Exception as error:
        raise PolicyFailedError(f"policy {policy.version} raised {type(error).__name__}: {error}") from error
    if not np.isfinite(chunk.actions_BKA).all():
        raise PolicyFailedError(f"policy {policy.version} asked for actions that are not finite")
    return chunk

"""An episode on its way to a judge and the judgement on its way back, both within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gymnast_core.episodes.messages import MAX_INSTRUCTION_CHARACTERS
from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.errors import ContractError
from gymnast_core.outcome import Judgement
from gymnast_core.pictures import decode_picture, encode_png, picture_size
from gymnast_core.types import ByteArray, IntArray, Outcome
from gymnast_core.wire.errors import InvalidMessageError, TooLargeError
from gymnast_core.wire.gymnast.v1 import judge_pb2

MOST_FRAMES = 8
"""Of one camera: first and last, and what lies evenly between them."""
MOST_CAMERAS = 4
MOST_PIXELS = 16 << 20
"""Of all pictures of one request, decoded: 48 MiB."""
MOST_SCENE_CHARACTERS = 200
MOST_STEP = 1 << 20


def shown_steps(frames: int) -> IntArray:
    """Return the indices of the frames that a judge is shown of an episode of so many, first and last always."""
    steps: IntArray = np.unique(np.linspace(0, frames - 1, min(MOST_FRAMES, frames)).round().astype(np.int64))
    return steps


def request_of(frames: Mapping[str, ByteArray], instruction: str, scene: str) -> judge_pb2.JudgeRequest:
    """Return the question about an episode: frames of its first camera, as judges are taught on that one.

    Args:
        frames: camera name -> (T, H, W, 3) uint8 RGB, the first camera first.
        instruction: what the arm was asked to do.
        scene: where it stands.

    Raises:
        ContractError: no camera, or no frame.
    """
    name, frames_THWC = next(iter(frames.items()), ("", np.zeros((0, 1, 1, 3), np.uint8)))
    if not len(frames_THWC):
        raise ContractError(f"a judge needs a frame at least; got {list(frames)} without any")
    steps = shown_steps(len(frames_THWC))
    return request_with(name, steps, [frames_THWC[step] for step in steps], instruction, scene)


def request_with(
    camera: str, steps: IntArray, frames: Sequence[ByteArray], instruction: str, scene: str, *, lossless: bool = False
) -> judge_pb2.JudgeRequest:
    """Return the question with frames that were chosen already.

    Args:
        camera: its name.
        steps: (F,) index of each frame in the episode.
        frames: F frames, (H, W, 3) uint8 RGB.
        instruction: what the arm was asked to do.
        scene: where it stands.
        lossless: as PNG, for frames that were compressed before.
    """
    encode = encode_png if lossless else encode_jpeg
    pictures = [encode(np.asarray(frame_HWC)) for frame_HWC in frames]
    return judge_pb2.JudgeRequest(
        instruction=instruction, scene=scene, frame_steps=steps.tolist(),
        cameras=[judge_pb2.CameraFrames(name=camera, pictures=pictures)],
    )  # fmt: skip


def check_request(request: judge_pb2.JudgeRequest) -> None:
    """Return if a question is within bounds; nothing is decoded for that.

    Raises:
        InvalidMessageError: counts do not match, or the frames are not in order.
        TooLargeError: too many frames, cameras, pixels or characters.
        CorruptError: a picture is neither a plain JPEG nor a PNG.
    """
    counts = [len(camera.pictures) for camera in request.cameras]
    steps = list(request.frame_steps)
    if len(counts) > MOST_CAMERAS or len(steps) > MOST_FRAMES or max(counts, default=0) > MOST_FRAMES:
        raise TooLargeError(
            f"{len(steps)} frames of {len(counts)} cameras; {MOST_FRAMES} and {MOST_CAMERAS} are accepted"
        )
    if not counts or not steps or set(counts) != {len(steps)}:
        raise InvalidMessageError(
            f"cameras with {counts} pictures for {len(steps)} frames; send one each, at least one"
        )
    if steps != sorted(set(steps)) or steps[-1] > MOST_STEP:
        raise InvalidMessageError(f"frame_steps must rise and stay below {MOST_STEP}, got {steps}")
    for what, text, most in (
        ("an instruction", request.instruction, MAX_INSTRUCTION_CHARACTERS),
        ("a scene", request.scene, MOST_SCENE_CHARACTERS),
    ):
        if len(text) > most:
            raise TooLargeError(f"{what} of {len(text)} characters; {most} are accepted")
    pixels = sum(math.prod(picture_size(data)) for camera in request.cameras for data in camera.pictures)
    if pixels > MOST_PIXELS:
        raise TooLargeError(f"{pixels} pixels in one request; {MOST_PIXELS} are accepted")


def frames_from(request: judge_pb2.JudgeRequest) -> dict[str, ByteArray]:
    """Decode a question: camera name -> (F, H, W, 3) uint8 RGB.

    Raises:
        InvalidMessageError: as check_request(), or frames of one camera differ in size.
        TooLargeError: as there.
        CorruptError: a picture is broken.
    """
    check_request(request)
    found = {}
    for camera in request.cameras:
        frames = [decode_picture(data) for data in camera.pictures]
        if len({frame.shape for frame in frames}) > 1:
            raise InvalidMessageError(f"frames of camera {camera.name[:80]!r} differ in size")
        found[camera.name] = np.stack(frames)
    return found


def reply_of(judgement: Judgement) -> judge_pb2.JudgeReply:
    """Return a judgement as a message."""
    return judge_pb2.JudgeReply(
        outcome=judgement.outcome.value, score=judgement.score, frame=judgement.frame, judge=judgement.judge,
        reason=judgement.reason,
    )  # fmt: skip


def judgement_from(reply: judge_pb2.JudgeReply) -> Judgement:
    """Read a judgement; one that makes no sense is an abstention."""
    try:
        return Judgement(Outcome(reply.outcome), reply.score, reply.frame, reply.judge, reply.reason)
    except (ValueError, ContractError) as error:
        return Judgement.abstain(f"the answer is no judgement: {error}", judge=reply.judge)

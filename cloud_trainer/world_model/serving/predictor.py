"""Dreams on request: one sample at a time, so that no other sample changes a pixel of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloud_trainer.progress import Cancelled, CancelledError
from cloud_trainer.world_model.serving.messages import API_VERSION, ApiError, Picture, PredictRequest, Sample
from cloud_trainer.world_model.serving.pictures import to_frame, to_picture
from cloud_trainer.world_model.starts import PAST_FRAMES, StartState
from cloud_trainer.world_model.worlds import World
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonValue
from gymnast_core.spec import RobotSpec
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM, FloatArray

PROFILE = "gymnast-bridge-delta-ee-7"
REPRESENTATION = "bridge_delta_ee_7"
UNSTATED = "as commanded"
"""Instruction of a dream that was asked for without one; world models follow the actions alone."""
CONTEXT_FRAMES = PAST_FRAMES + 2
"""At most: the episode's first frame, those just before now, and now."""
MIB = 2**20


@dataclass(frozen=True)
class PredictLimits:
    """What a caller may ask for.

    Attributes:
        horizon: actions of a sample; beyond what the model was audited for, its frames mean nothing.
        batch: samples of a request.
        request_bytes: of a request.
        concurrency: requests computed at once.
        timeout_s: after which a request is given up.
    """

    horizon: int = 15
    batch: int = 8
    request_bytes: int = 32 * MIB
    concurrency: int = 1
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through."""
        if min(self.horizon, self.batch, self.request_bytes, self.concurrency) < 1 or self.timeout_s <= 0:
            raise ConfigError(f"limits must be above zero, got {self}")


class Predictor:
    """Checks requests and dreams their samples.

    Args:
        world: the world model.
        limits: of a request.
        robot: whose actions it takes.

    Raises:
        ConfigError: nobody says which image size the model was trained on.
    """

    def __init__(self, world: World, limits: PredictLimits, robot: RobotSpec) -> None:
        self.version, self.limits = world.version, limits
        self._world, self.image_size = world, world.image_size
        self._low_A, self._high_A = robot.action_low_A, robot.action_high_A

    def capabilities(self) -> dict[str, JsonValue]:
        """Return what this model takes and gives, as the API's capability manifest."""
        limits = self.limits
        return {
            "api_version": API_VERSION, "model_version": self.version,
            "profiles": [{
                "profile_id": PROFILE,
                "image": {
                    "encoding": "png_base64", "color_space": "RGB", "height": self.image_size, "width": self.image_size,
                    "channels": 3,
                },
                "context_frames": {"min": 1, "max": CONTEXT_FRAMES},
                "prediction_frames": {"min": 1, "max": limits.horizon},
                "action": {"dtype": "float32", "dimension": ACTION_DIM, "representation": REPRESENTATION},
                "state": {"supported": True, "dimension": PROPRIO_DIM},
                "instruction": {"supported": False},
            }],
            "limits": {
                "max_batch_size": limits.batch, "max_request_bytes": limits.request_bytes,
                "max_concurrency": limits.concurrency, "recommended_timeout_ms": int(1000 * limits.timeout_s),
            },
            "determinism": {"seed_supported": True, "same_seed_same_pixels": True},
        }  # fmt: skip

    def check(self, request: PredictRequest) -> list[StartState]:
        """Return where each sample's dream begins; the whole request is checked before anything is dreamt.

        Raises:
            ApiError: of another version or profile, or a sample that cannot be dreamt, by the name of its field.
        """
        for name, told, known in (
            ("api_version", request.api_version, API_VERSION), ("model_version", request.model_version, self.version),
            ("profile_id", request.profile_id, PROFILE),
        ):  # fmt: skip
            if told != known:
                raise ApiError("UNSUPPORTED_VERSION", f"{name} is {told[:100]!r}; this service has {known!r}")
        if len(request.samples) > self.limits.batch:
            raise ApiError("INVALID_ARGUMENT", f"{len(request.samples)} samples; at most {self.limits.batch}")
        ids = [sample.sample_id for sample in request.samples]
        if len(set(ids)) < len(ids):
            raise ApiError("INVALID_ARGUMENT", "a sample_id stands twice in this request")
        return [self._start(sample, f"samples[{index}]") for index, sample in enumerate(request.samples)]

    def dream(self, sample: Sample, start: StartState, cancelled: Cancelled) -> list[Picture]:
        """Return a frame for every action.

        Raises:
            CancelledError: cancelled; asked before every step.
        """
        env = self._world.env([start])
        try:
            env.reset(start.instruction, seed=sample.seed)
            pictures = []
            for action in sample.actions:
                if cancelled():
                    raise CancelledError("nobody waits for this prediction any more")
                seen = env.step(np.array([action], np.float32)).observation
                pictures.append(to_picture(seen.images[env.spec.cameras[0]][0]))
        finally:
            env.close()
        return pictures

    def _start(self, sample: Sample, where: str) -> StartState:
        known, context = len(sample.context.frames), sample.context
        asked = len(sample.actions)
        for name, count, most in (
            (f"{where}.context.frames", known, CONTEXT_FRAMES),
            (f"{where}.actions", asked, self.limits.horizon),
        ):
            if not 1 <= count <= most:
                raise ApiError("INVALID_ARGUMENT", f"{name} has {count} entries; 1 to {most} are taken")
        led_FA = self._actions(context.actions, f"{where}.context.actions", known - 1)
        self._actions(sample.actions, f"{where}.actions", asked)
        states = context.states
        if states is None:
            raise ApiError("INVALID_ARGUMENT", f"{where}.context.states is missing; this model needs the arm's pose")
        pose_P = _table(states, f"{where}.context.states", known, PROPRIO_DIM)[-1]
        frames = [
            to_frame(picture, f"{where}.context.frames[{index}]", self.image_size)
            for index, picture in enumerate(context.frames)
        ]
        past = frames[1:-1]
        return StartState(
            frames[0], frames[-1], pose_P, (context.instruction or "").strip() or UNSTATED, known - 1, sample.sample_id,
            known - 1 + asked,
            np.stack(past) if past else np.zeros((0, *frames[0].shape), np.uint8), led_FA,
        )  # fmt: skip

    def _actions(self, rows: Sequence[Sequence[float]], where: str, count: int) -> FloatArray:
        """(count, 7) actions within the robot's limits; the gate would let no other through."""
        table = _table(rows, where, count, ACTION_DIM)
        wrong = np.argwhere((table < self._low_A - 1e-6) | (table > self._high_A + 1e-6))
        if len(wrong):
            row, column = (int(place) for place in wrong[0])
            low, high = self._low_A[column], self._high_A[column]
            raise ApiError(
                "INVALID_ARGUMENT",
                f"{where}[{row}][{column}] is {table[row, column]:g}; from {low:g} to {high:g} is taken",
            )
        return table


def _table(rows: Sequence[Sequence[float]], where: str, count: int, width: int) -> FloatArray:
    """(count, width) float32 of JSON lists.

    Raises:
        ApiError: another number of rows, or one of another width.
    """
    if len(rows) != count:
        raise ApiError("INVALID_ARGUMENT", f"{where} has {len(rows)} entries; expected {count}")
    for index, row in enumerate(rows):
        if len(row) != width:
            raise ApiError("INVALID_ARGUMENT", f"{where}[{index}] has dimension {len(row)}; expected {width}")
    return np.array(rows, np.float32).reshape(count, width)

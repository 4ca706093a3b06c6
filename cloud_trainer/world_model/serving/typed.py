"""Predictions by the typed service: checked as the HTTP API's requests are, and dreamt by the same predictor."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.serving.messages import (
    API_VERSION,
    ApiError,
    Context,
    Picture,
    PredictRequest,
    Sample,
    invalid,
)
from cloud_trainer.world_model.serving.predictor import CONTEXT_FRAMES, PROFILE, Predictor
from cloud_trainer.world_model.serving.seen import SeenRequests
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.pictures import picture_size
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM
from gymnast_core.wire.errors import BusyError, IdReusedError, InvalidMessageError, ServerFaultError, TooLargeError
from gymnast_core.wire.gymnast.v1 import worlds_pb2

ERRORS: dict[str, type[GymnastError]] = {
    "REQUEST_ID_CONFLICT": IdReusedError, "PAYLOAD_TOO_LARGE": TooLargeError, "OVERLOADED": BusyError,
    "DEADLINE_EXCEEDED": BusyError, "INTERNAL": ServerFaultError,
}  # fmt: skip
"""Of ours by code of the HTTP API; every other one is an InvalidMessageError."""


class TypedPredictions:
    """Answers gymnast_core.wire.world_server.WorldServer.

    Args:
        predictor: checks and dreams.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self._seen = predictor, SeenRequests()
        self._places = threading.BoundedSemaphore(predictor.limits.concurrency)

    def describe(self) -> worlds_pb2.WorldDescription:
        """Return what the model takes, and how much of it."""
        limits = self._predictor.limits
        return worlds_pb2.WorldDescription(
            model_version=self._predictor.version, image_size=self._predictor.image_size, context_frames=CONTEXT_FRAMES,
            horizon=limits.horizon, batch=limits.batch, request_bytes=limits.request_bytes,
            concurrency=limits.concurrency, timeout_s=limits.timeout_s,
        )  # fmt: skip

    def predict(
        self, request: worlds_pb2.WorldPredictRequest, waiting: Callable[[], bool]
    ) -> worlds_pb2.WorldPredictReply:
        """Dream every sample, while the caller waits and time is left.

        Raises:
            InvalidMessageError: a field makes no sense; the message names it.
            IdReusedError: the request's id stood for something else.
            BusyError: others are dreamt for, or the time is over.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError(f"{self._predictor.limits.concurrency} requests are computed; ask again")
        try:
            return self._dreamt(request, waiting)
        except ApiError as error:
            raise ERRORS.get(error.code, InvalidMessageError)(str(error)) from error
        except CancelledError as error:
            raise BusyError(f"not done within {self._predictor.limits.timeout_s:g} s") from error
        finally:
            self._places.release()

    def _dreamt(
        self, request: worlds_pb2.WorldPredictRequest, waiting: Callable[[], bool]
    ) -> worlds_pb2.WorldPredictReply:
        until = time.monotonic() + self._predictor.limits.timeout_s
        asked = _asked(request)
        starts = self._predictor.check(asked)
        self._seen.remember(asked)
        reply = worlds_pb2.WorldPredictReply(model_version=self._predictor.version)
        for sample, start in zip(asked.samples, starts, strict=True):
            frames = self._predictor.dream(sample, start, lambda: not waiting() or time.monotonic() > until)
            pictures = [base64.b64decode(frame.data) for frame in frames]
            reply.predictions.append(worlds_pb2.WorldFrames(sample_id=sample.sample_id, frames=pictures))
        return reply


def _asked(request: worlds_pb2.WorldPredictRequest) -> PredictRequest:
    """The same request in the words of the HTTP API, whose checks hold for both.

    Raises:
        ApiError: a field makes no sense.
    """
    samples = [_sample(sample, f"samples[{index}]") for index, sample in enumerate(request.samples)]
    try:
        return PredictRequest.model_validate(
            {"api_version": API_VERSION, "profile_id": PROFILE, "request_id": request.request_id,
             "model_version": request.model_version, "samples": samples}
        )  # fmt: skip
    except ValidationError as error:
        raise invalid(error) from error


def _sample(sample: worlds_pb2.WorldSample, where: str) -> Sample:
    try:
        context = Context(
            frames=[_picture(data, f"{where}.frames[{index}]") for index, data in enumerate(sample.frames)],
            actions=_rows(sample.led, ACTION_DIM, f"{where}.led"),
            states=_rows(sample.states, PROPRIO_DIM, f"{where}.states"), instruction=sample.instruction or None,
        )  # fmt: skip
        actions = _rows(sample.actions, ACTION_DIM, f"{where}.actions")
        return Sample(sample_id=sample.sample_id, seed=sample.seed, context=context, actions=actions)
    except ValidationError as error:
        raise invalid(error, where) from error


def _picture(data: bytes, where: str) -> Picture:
    try:
        height, width = picture_size(data)
    except CorruptError as error:
        raise ApiError("INVALID_ARGUMENT", f"{where} is no PNG") from error
    return Picture(height=height, width=width, data=base64.b64encode(data).decode("ascii"))


def _rows(numbers: Sequence[float], width: int, where: str) -> list[list[float]]:
    if len(numbers) % width:
        raise ApiError("INVALID_ARGUMENT", f"{where} has {len(numbers)} numbers; expected a multiple of {width}")
    return [list(numbers[low : low + width]) for low in range(0, len(numbers), width)]

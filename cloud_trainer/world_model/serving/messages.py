"""Requests and answers of the API, version 1.0: what may stand in them, and the ways they can be wrong."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

API_VERSION = "1.0"
STATUSES = {
    "INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "NOT_FOUND": 404, "REQUEST_ID_CONFLICT": 409,
    "PAYLOAD_TOO_LARGE": 413, "UNSUPPORTED_VERSION": 422, "OVERLOADED": 429, "INTERNAL": 500,
    "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
RETRYABLE = ("OVERLOADED", "INTERNAL", "DEADLINE_EXCEEDED")
MOST_TEXT = 2000
"""Characters of an instruction or a name."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]


class ApiError(Exception):
    """What a caller is answered instead of frames.

    Args:
        code: of STATUSES.
        message: which field is wrong and how; no path, host or secret.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status, self.retryable = code, STATUSES[code], code in RETRYABLE


def invalid(error: ValidationError, where: str = "") -> ApiError:
    """Return what is answered to a request whose fields, below `where`, make no sense: the first of them."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return ApiError("INVALID_ARGUMENT", f"{place.lstrip('.') or 'the request'}: {first['msg']}"[:500])


class _Message(BaseModel):
    """Fields that a later 1.x adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Picture(_Message):
    """An RGB frame as PNG."""

    encoding: Literal["png_base64"] = "png_base64"
    color_space: Literal["RGB"] = "RGB"
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[3] = 3
    data: str


class Context(_Message):
    """What was seen and done before: F frames, F - 1 actions, F states; oldest first."""

    frames: list[Picture]
    actions: list[list[Finite]]
    states: list[list[Finite]] | None = None
    instruction: Text | None = None


class Sample(_Message):
    """One rollout: actions[j] leads to the j-th frame of the answer."""

    sample_id: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    context: Context
    actions: list[list[Finite]]


class PredictRequest(_Message):
    """What POST /v1/predict takes."""

    api_version: Text
    request_id: UUID
    model_version: Text
    profile_id: Text
    samples: Annotated[list[Sample], Field(min_length=1)]


class Prediction(_Message):
    """The frames of a sample."""

    sample_id: str
    frames: list[Picture]


class PredictAnswer(_Message):
    """What it gives."""

    api_version: str
    request_id: UUID
    model_version: str
    predictions: list[Prediction]

"""Requests and answers as JSON objects, checked with the same models on both sides (gymnast_ros.run.requests).

A request is {"id", "operation", "arguments"}; its answers name its id: the first one refuses or accepts it, the last
one reports how it ended (the same one where nothing takes long). An id is done once.
"""

from __future__ import annotations

import json
import typing
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from gymnast_core.errors import ConfigError, GymnastError, OccupiedError
from gymnast_ros.run.requests import KINDS, Json, Request

MOST_ID = 64
"""Characters of a request's id."""


class BadRequestError(ConfigError):
    """A request that is none: not the JSON of one, an unknown operation, or an argument that is wrong or unknown."""


class RobotBusyError(OccupiedError):
    """Something else is under way, and only one such thing runs at a time."""


class UnmarkedRequestError(GymnastError):
    """A request that only the robot's own people may make, without the mark of its graph's key; nothing was done."""


class NothingToDoError(GymnastError):
    """There is nothing that this could act on, e.g. no episode that waits for a label."""


class RequestEnvelope(BaseModel):
    """A request on the wire.

    Attributes:
        id: made by the caller, never used twice.
        operation: key of KINDS.
        arguments: fields of its model.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Annotated[str, StringConstraints(min_length=1, max_length=MOST_ID)]
    operation: str
    arguments: Json = {}


class Failure(BaseModel):
    """Why something was refused or did not end well.

    Attributes:
        error: name of the error's class; what a program looks at.
        message: what a person reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    error: str
    message: str

    @staticmethod
    def of(error: BaseException) -> Failure:
        """Describe an exception."""
        return Failure(error=type(error).__name__, message=str(error))


class Answer(BaseModel):
    """An answer on the wire.

    Attributes:
        id: of the request.
        done: whether it is the last one.
        message: the acceptance in words; of what lasts, the name of its run.
        result: JSON values of what has ended.
        failure: set when it was refused or did not end well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    id: str
    done: bool
    message: str = ""
    result: Json = {}
    failure: Failure | None = None


R = TypeVar("R", bound=Request)


def new_id() -> str:
    """Return an id for a request."""
    return uuid.uuid4().hex


def checked(kind: type[R], values: Mapping[str, Any]) -> R:
    """Return a request with these arguments; lists will do for tuples.

    Raises:
        BadRequestError: the message names each argument that is wrong, missing or unknown.
    """
    try:
        return kind.model_validate_json(json.dumps(dict(values)))
    except ValidationError as error:
        raise BadRequestError(f"{kind.operation}: {_named(error)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequestError(f"{kind.operation}: an argument has no JSON: {error}") from error


def to_wire(request_id: str, request: Request) -> dict[str, Any]:
    """Return the JSON object of a request."""
    return {"id": request_id, "operation": request.operation, "arguments": request.model_dump(mode="json")}


def from_wire(value: Mapping[str, Any]) -> RequestEnvelope:
    """Parse a request as far as its id, so that it can be answered.

    Raises:
        BadRequestError: it is none.
    """
    try:
        return RequestEnvelope.model_validate(dict(value))
    except (ValidationError, RecursionError) as error:
        reason = _named(error) if isinstance(error, ValidationError) else "nested too deeply"
        raise BadRequestError(f"not a request: {reason}") from error


def opened(asked: RequestEnvelope, node: str) -> Request:
    """Return the typed request in a parsed one.

    Raises:
        BadRequestError: this node knows no such operation, or an argument is wrong, missing or unknown.
    """
    kind = KINDS.get(asked.operation)
    if kind is None or kind.node != node:
        known = ", ".join(name for name, each in KINDS.items() if each.node == node)
        raise BadRequestError(f"{node} knows no operation {asked.operation[:80]!r}; it knows {known}")
    return checked(kind, asked.arguments)


def answer_from_wire(value: Mapping[str, Any]) -> Answer:
    """Parse an answer.

    Raises:
        BadRequestError: it is none.
    """
    try:
        return Answer.model_validate(dict(value))
    except (ValidationError, RecursionError) as error:
        raise BadRequestError("not an answer of a robot's node") from error


def bounds(kind: type[Request], name: str) -> tuple[str, float | None, float | None]:
    """Return description, lowest and highest value of an argument."""
    field = kind.model_fields[name]
    rules = [*field.metadata]
    for part in typing.get_args(field.annotation):
        rules += [rule for rule in getattr(part, "__metadata__", ()) if rule not in rules]
    low = next((rule.ge for rule in rules if hasattr(rule, "ge")), None)
    high = next((rule.le for rule in rules if hasattr(rule, "le")), None)
    return field.description or "", low, high


def _named(error: ValidationError) -> str:
    """Each argument that is wrong, with its value and what it should be."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        name, given = ".".join(str(part) for part in item["loc"]) or "request", item["input"]
        if item["type"] == "extra_forbidden":
            parts.append(f"there is no {name!r}")
        elif item["type"] == "missing":
            parts.append(f"{name} is missing")
        else:
            shown = repr(given)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            parts.append(f"{name}={shown}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)

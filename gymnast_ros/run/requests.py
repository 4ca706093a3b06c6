"""What the robot's nodes may be asked, typed: one model per operation, the same on both sides of every request.

On the wire a request is one JSON object {"id", "operation", "arguments"} and its answers name its id: the first one
refuses or accepts it, the last one says how it ended (the same one where nothing takes long). An id is done once.
"""

from __future__ import annotations

import json
import typing
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from gymnast_core.episodes.messages import MAX_ANNOTATION_CHARACTERS
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.evaluation.purpose import PURPOSES
from gymnast_ros.run.operator import LABELS

ROLLOUT, BRIDGE = "rollout", "bridge"
MOST_SEED = 2**53
MOST_ID = 64
"""Characters of a request's id."""


class BadRequestError(ConfigError):
    """A request that is none: not the JSON of one, an unknown operation, or an argument that is wrong or unknown."""


class RobotBusyError(GymnastError):
    """Something else is under way, and only one such thing runs at a time."""


class NothingToDoError(GymnastError):
    """There is nothing that this could act on, e.g. no episode that waits for a label."""


def _one_of(values: Sequence[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return AfterValidator(check)


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Purpose = Annotated[str, _one_of(PURPOSES)]
Words = Annotated[str, AfterValidator(_not_blank)]
By = Annotated[str, StringConstraints(max_length=200)]
Json = dict[str, JsonValue]


class Request(BaseModel):
    """One operation with its arguments; an unknown one is refused by name.

    Attributes:
        operation: its name, as the service of the same name.
        node: the node that does it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    operation: ClassVar[str]
    node: ClassVar[str]


class RunEpisode(Request):
    """One episode on the arm."""

    operation, node = "run_episode", ROLLOUT
    instruction: Annotated[Words, Field(description="what to do, or a task's name")]
    seed: Annotated[Seed, Field(description="start state")]
    scene: Annotated[str, Field(description="look of the simulated world")] = "standard"
    checkpoint: Annotated[
        str, Field(description="id in the store, folder, 'replay:FILE' or 'remote:HOST:PORT'; empty: the one in force")
    ] = ""
    temperature_seed: Annotated[
        int, Field(ge=-1, le=MOST_SEED, description="negative is greedy; else seeds the sampling")
    ] = -1
    record: Annotated[bool, Field(description="write episodes to the spool")] = True
    purpose: Annotated[
        Purpose, Field(description="rides in the recordings' metadata; says whether they may be learned from")
    ] = "collect"


class Evaluate(Request):
    """Checkpoints compared from the same start states."""

    operation, node = "evaluate", ROLLOUT
    tasks: Annotated[tuple[Words, ...], Field(min_length=1, description="instructions or task names, at least one")]
    seed_start: Annotated[Seed, Field(description="first start state")]
    seed_count: Annotated[int, Field(ge=1, le=1_000_000, description="start states per task")]
    checkpoints: Annotated[
        tuple[str, ...], Field(description="ids or folders compared from the same starts; empty: the one in force")
    ] = ()
    scene: str = "standard"
    temperature_seed: Annotated[int, Field(ge=-1, le=MOST_SEED)] = -1
    record: bool = False
    purpose: Purpose = "evaluate"
    episode_ids: Annotated[
        str, Field(description="first part of the recordings' ids, task and seed follow; empty gives fresh ones")
    ] = ""


class Cancel(Request):
    """End what the rollout node runs after its present step."""

    operation, node = "cancel", ROLLOUT


class Label(Request):
    """Label, or discard, the episode that waits for it."""

    operation, node = "label", ROLLOUT
    label: Annotated[str, _one_of(LABELS), Field(description="of the episode that waits for it")]
    labelled_by: Annotated[By, Field(description="labels and annotates in this name")] = "operator"


class Annotate(Request):
    """Note something at this moment of the episode that is being recorded."""

    operation, node = "annotate", ROLLOUT
    text: Annotated[
        Words, StringConstraints(max_length=MAX_ANNOTATION_CHARACTERS),
        Field(description=f"words or tags noted at that moment, 1 to {MAX_ANNOTATION_CHARACTERS} characters"),
    ]  # fmt: skip
    by: By = "operator"


class Swap(Request):
    """Put a staged checkpoint in force from the next episode on."""

    operation, node = "swap", BRIDGE
    checkpoint_id: Annotated[str, Field(description="a staged one; empty is the newest")] = ""
    scene: Annotated[Json, Field(description="fingerprint of the one scene it drives in; empty is everywhere")] = {}
    probation_episodes: Annotated[
        int | None, Field(ge=0, le=10_000, description="good episodes it then needs; none is the robot's setting")
    ] = None


class Rollback(Request):
    """Return to the checkpoint before."""

    operation, node = "rollback", BRIDGE
    current: Annotated[
        str, Field(description="what is in force; refused where it is not any more, so that none is gone back twice")
    ] = ""


class SubmitJob(Request):
    """Submit a job to the trainer and follow it to its end."""

    operation, node = "submit_job", BRIDGE
    kind: Words
    spec: Json
    key: Annotated[Words, Field(description="the same key never starts a second job")]


class CancelJob(Request):
    """Ask the trainer to end a job."""

    operation, node = "cancel_job", BRIDGE
    job_id: Words


class Flush(Request):
    """Wait until the trainer has acknowledged every episode."""

    operation, node = "flush", BRIDGE
    timeout_s: Annotated[float, Field(ge=0.1, le=3600.0, description="longest wait for an empty spool")] = 120.0


class TrainHere(Request):
    """Adapt the policy to what stands before the robot now; a second one lets the candidate onto the arm."""

    operation, node = "test_time_train", BRIDGE
    instruction: Annotated[Words, Field(description="what the arm shall do here; a task's name will do")]
    scene: Annotated[str, Field(description="name of the scene it stands in; empty is the trainer's usual")] = ""
    collect: Annotated[
        int, Field(ge=0, le=1000, description="real episodes at most, where the trust check asks for them")
    ] = 40
    minutes: Annotated[float, Field(ge=0.01, le=1440.0, description="the practice is cut off after so long")] = 60.0
    rollouts: Annotated[int, Field(ge=1, le=10**9, description="budget in imagined rollouts")] = 5000
    money: Annotated[float, Field(ge=0.01, le=1e6, description="budget in the trainer's currency")] = 5.0
    mode: Annotated[
        Literal["", "full", "lora"],
        Field(description="the whole policy, or a small adapter; empty is the trainer's usual"),
    ] = ""
    approve: Annotated[bool, Field(description="let the candidate onto the arm unasked, for its canary")] = False
    seed: Annotated[Seed, Field(description="of everything random")] = 0
    config: Annotated[Json, Field(description="JSON settings of the training job")] = {}
    world_model: Annotated[str, Field(description="checkpoint id; empty is the trainer's newest")] = ""
    judge: Annotated[str, Field(description="checkpoint id; empty is the trainer's newest")] = ""


class CancelTrainHere(Request):
    """End the adaptation under way at its next whole step."""

    operation, node = "cancel_test_time_train", BRIDGE


KINDS: Mapping[str, type[Request]] = {
    kind.operation: kind
    for kind in (
        RunEpisode, Evaluate, Cancel, Label, Annotate, Swap, Rollback, SubmitJob, CancelJob, Flush, TrainHere,
        CancelTrainHere,
    )
}  # fmt: skip


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

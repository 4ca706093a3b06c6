"""Orders: what a trainer's operators may have a robot do, and what it reports of that; the same on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gymnast_core.episodes.messages import MAX_INSTRUCTION_CHARACTERS
from gymnast_core.errors import GymnastError, OccupiedError
from gymnast_core.json_values import JsonObject

KINDS = ("run_episode", "evaluate", "practise", "flush", "wait_staged", "swap", "attach", "rollback")
"""Calls of gymnast_ros.nodes.client.GraphClient; anything else is refused by the robot."""


LASTING = ("practise",)
"""Kinds that go on for hours: what they began is not ended by a trainer that is merely started again."""


@dataclass(frozen=True)
class Order:
    """Something to do.

    Attributes:
        order_id: never reused; a robot does each one once.
        kind: one of KINDS.
        spec: JSON values, the call's arguments.
        by: in whose name, and what ends it; for people at the robot.
    """

    order_id: str
    kind: str
    spec: JsonObject = field(default_factory=dict)
    by: str = ""


@dataclass(frozen=True)
class OrderNews:
    """What became of an order.

    Attributes:
        order_id: whose.
        done: it has ended.
        error: why it ended badly; empty when it went well.
        occupied: it ended badly because the robot does something else; worth trying again once that has ended.
        result: JSON values.
    """

    order_id: str
    done: bool = False
    error: str = ""
    occupied: bool = False
    result: JsonObject = field(default_factory=dict)


class OrderError(GymnastError):
    """A robot did not do what it was ordered to, or answered with what is no answer; the message has the reason."""


class RobotOccupiedError(OrderError, OccupiedError):
    """A robot does something for somebody else, whom the message names; it takes the order once that has ended."""


class _Answer(BaseModel):
    """A newer robot may answer with more."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class EpisodeAnswer(_Answer):
    """What a robot answers of one episode.

    Attributes:
        episode_id: of the recording; empty when there is none.
        success: its label; None when nobody labelled it.
        labelled_by: the labeller, in the robot's words.
        truncated_reason: empty when it ran to its end; see gymnast_ros.run.plan.EpisodeResult.
        task: its name on the robot.
        instruction: as the policy got it.
        seed: start state.
    """

    episode_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
    success: bool | None
    labelled_by: Annotated[str, StringConstraints(max_length=300)]
    truncated_reason: Annotated[str, StringConstraints(max_length=300)]
    task: Annotated[str, StringConstraints(max_length=MAX_INSTRUCTION_CHARACTERS)]
    instruction: Annotated[str, StringConstraints(max_length=MAX_INSTRUCTION_CHARACTERS)]
    seed: int


class EvaluationAnswer(_Answer):
    """What a robot answers of an evaluation; fewer episodes than were asked for when it was cancelled there."""

    episodes: Annotated[tuple[EpisodeAnswer, ...], Field(strict=False)]


class PracticeFigures(_Answer):
    """What a loop reads of a practice run that has ended; see gymnast_core.practice_status.PracticeStatus."""

    episodes: Annotated[int, Field(ge=0)]
    interventions: Annotated[int, Field(ge=0)]
    reason: Annotated[str, StringConstraints(max_length=2000)]


class PracticeAnswer(_Answer):
    """What a robot answers of a practice run."""

    practice: PracticeFigures


class CheckpointAnswer(_Answer):
    """What a robot answers when it has put a checkpoint in force."""

    value: Annotated[str, StringConstraints(min_length=1, max_length=300)]


A = TypeVar("A", bound=_Answer)


def answer_of(kind: type[A], robot: str, order: str, result: Mapping[str, object]) -> A:
    """Read what a robot answered.

    Args:
        kind: what is expected.
        robot: its name.
        order: kind of the order.
        result: JSON values.

    Raises:
        OrderError: it is no such answer; the message names each field that is wrong.
    """
    try:
        return kind.model_validate(dict(result))
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, item['loc']))}={str(item['input'])[:60]!r}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False)[:4]
        ]
        raise OrderError(f"{robot} answered {order} with what is no answer: {'; '.join(wrong)}") from error

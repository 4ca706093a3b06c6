"""How a long job says where it is, and how it learns that it should stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gymnast_core.errors import GymnastError


class CancelledError(GymnastError):
    """Somebody asked the job to stop; its state file, if it has one, holds everything up to the last whole step."""


class ClosingError(GymnastError):
    """This process ends; nothing is concluded, and whoever resumes goes on here."""


@dataclass(frozen=True)
class ProgressEvent:
    """One line of progress.

    Attributes:
        stage: what is running, e.g. "sft", "world_model", "grpo".
        step: units done.
        total: units in all.
        metrics: numbers worth showing: loss, imagined_reward, ...
    """

    stage: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[ProgressEvent], None]
Cancelled = Callable[[], bool]


def silent(event: ProgressEvent) -> None:
    """Ignore progress."""


def never() -> bool:
    """Never cancel."""
    return False

"""Work for the trainer as both sides see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

from gymnast_core.json_values import JsonObject

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
FINAL_STATES: tuple[JobState, ...] = ("done", "failed", "cancelled")
REACHES = ("judges", "plug-ins", "ray")
"""What a job's configuration may name beyond checkpoints and episodes: addresses, folders, key variables and code of
the trainer's machine. Only the user that starts the trainer can allow that."""


def final_state(text: str) -> JobState | None:
    """Return the state of this name in which a job does not change any more; None where it is none."""
    return next((state for state in FINAL_STATES if state == text), None)


@dataclass(frozen=True)
class JobView:
    """One job.

    Attributes:
        job_id: never reused.
        kind: what to do.
        spec: JSON values.
        state: where it is.
        submitted_by: name in the certificate.
        result: JSON values, when done.
        error: why it failed.
        cancel_requested: the runner should stop.
        created_ns: wall clock.
        last_event: sequence of its newest event.
    """

    job_id: str
    kind: str
    spec: JsonObject
    state: JobState
    submitted_by: str
    result: JsonObject
    error: str
    cancel_requested: bool
    created_ns: int
    last_event: int

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class JobEvent:
    """One line of a job's story.

    Attributes:
        sequence: 1, 2, 3, ... within the job.
        time_ns: wall clock.
        kind: what happened: progress, log, state, ...
        data: JSON values.
    """

    sequence: int
    time_ns: int
    kind: str
    data: JsonObject


SHOWN = ("imagined_reward", "agreement", "optimism", "loss")
"""What of a job's metrics fits into one line."""


class JobProgress(TypedDict, total=False):
    """The data of an event of kind "progress"."""

    stage: str
    step: int
    total: int
    metrics: Mapping[str, float]


def progress_of(event: JobEvent) -> JobProgress:
    """Return the progress that an event reports; empty for one of another kind."""
    return cast(JobProgress, event.data) if event.kind == "progress" else {}


def described(progress: JobProgress) -> str:
    """Return a job's progress in one short line: the stage and its newest numbers."""
    metrics = progress.get("metrics", {})
    numbers = ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.2f}" for name in SHOWN if name in metrics)
    return f"{progress['stage'].replace('_', ' ')}{': ' + numbers if numbers else ''}"

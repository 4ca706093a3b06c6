"""A job as its worker sees it, and the recorded episodes it learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import Cancelled, Progress, ProgressEvent
from gymnast_core.episodes import read_episode, read_summary
from gymnast_core.errors import ConfigError
from gymnast_core.types import Episode, Outcome

_LABELS = (Outcome.SUCCESS.value, Outcome.FAILURE.value)


@dataclass(frozen=True)
class Job:
    """One job as its worker sees it.

    Attributes:
        spec: seed, config, and for adapt: scene, instruction.
        checkpoints: policy, world_model and judge folders.
        episodes: recorded episodes, oldest first.
        folder: where it works; its results stay there.
        progress: told what happens.
        cancelled: asked at every iteration.
    """

    spec: Mapping[str, Any]
    checkpoints: Mapping[str, Path]
    episodes: Sequence[Recorded]
    folder: Path
    progress: Progress
    cancelled: Cancelled

    @property
    def seed(self) -> int:
        """Of everything random in this job."""
        return int(self.spec.get("seed", 0))


def load_episodes(job: Job, most: int, image_size: int, steps: int | None = None) -> list[Episode]:
    """Read the newest labelled, full-length episodes, frames of image_size pixels a side.

    Others (e-stop, crash, another time limit) are kept in the store but not learned from; progress tells how many.

    Args:
        job: whose.
        most: only the newest so many are looked at.
        image_size: pixels a side.
        steps: length of a full episode; None is full_length() of those that are labelled.

    Raises:
        ConfigError: there is none; the message tells the lengths that were found.
    """
    wanted = job.episodes[-most:]
    lengths = {entry.path: read_summary(entry.path).steps for entry in wanted if entry.outcome in _LABELS}
    full = full_length(list(lengths.values())) if steps is None else steps
    chosen = [entry for entry in wanted if lengths.get(entry.path) == full]
    if not chosen:
        raise ConfigError(
            f"none of {len(job.episodes)} episodes is labelled{told(lengths.values(), full)}; collect and label some"
        )
    if odd := len(lengths) - len(chosen):
        job.progress(ProgressEvent("other_lengths", odd, len(lengths), {"episode_steps": full}))
    episodes = []
    for index, entry in enumerate(chosen):
        episode = read_episode(entry.path, image_size=(image_size, image_size))
        episodes.append(replace(episode, outcome=Outcome(entry.outcome)))
        if index % 50 == 0:
            job.progress(ProgressEvent("read_episodes", index, len(chosen)))
    return episodes


def other_lengths(job: Job, most: int, used: int) -> int:
    """How many of a job's newest labelled episodes were left out for their length, when so many were used."""
    return sum(entry.outcome in _LABELS for entry in job.episodes[-most:]) - used


def full_length(steps: Sequence[int]) -> int:
    """Return the length that most episodes have, the longer of two that are as frequent; 0 of none."""
    counts = Counter(steps)
    return max(counts, key=lambda length: (counts[length], length), default=0)


def told(steps: Iterable[int], full: int) -> str:
    """Words for an error: what length was looked for and which there are; empty where there are none."""
    found = ", ".join(f"{length} ({count})" for length, count in sorted(Counter(steps).items()))
    return (
        f" and {full} steps long (lengths there: {found}; the job's config dream.episode_steps names another)"
        if found
        else ""
    )

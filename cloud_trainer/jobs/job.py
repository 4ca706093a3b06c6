"""A job as its worker sees it, and the recorded episodes it learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import Cancelled, Progress, ProgressEvent
from cloud_trainer.world_model.worlds import EPISODE_STEPS
from gymnast_core.episodes import read_episode, read_summary
from gymnast_core.errors import ConfigError
from gymnast_core.types import Episode, Outcome


@dataclass(frozen=True)
class Job:
    """One job as its worker sees it.

    Attributes:
        spec: seed, config, and for adapt: scene, instruction, budget_s.
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


def load_episodes(job: Job, most: int, image_size: int) -> list[Episode]:
    """Read the newest labelled, full-length episodes, frames of image_size pixels a side.

    Shorter ones (e-stop, crash) are kept in the store but not learned from.

    Raises:
        ConfigError: there is none.
    """
    episodes = []
    wanted = job.episodes[-most:]
    for index, entry in enumerate(wanted):
        labelled = entry.outcome in (Outcome.SUCCESS.value, Outcome.FAILURE.value)
        if labelled and read_summary(entry.path).steps == EPISODE_STEPS:
            episode = read_episode(entry.path, image_size=(image_size, image_size))
            episodes.append(replace(episode, outcome=Outcome(entry.outcome)))
        if index % 50 == 0:
            job.progress(ProgressEvent("read_episodes", index, len(wanted)))
    if not episodes:
        raise ConfigError(
            f"none of {len(job.episodes)} episodes is labelled and {EPISODE_STEPS} steps long; collect and label some"
        )
    return episodes

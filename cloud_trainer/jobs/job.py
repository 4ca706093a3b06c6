"""A job as its worker sees it, and the recorded episodes it learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import Cancelled, Progress, ProgressEvent
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import JobSpec
from gymnast_core.outcome import judge_in
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import model_in, one_arm, robot_named
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import Episode, Outcome

SpecT = TypeVar("SpecT", bound=JobSpec, covariant=True)
_LABELS = (Outcome.SUCCESS.value, Outcome.FAILURE.value)


@dataclass(frozen=True)
class Job(Generic[SpecT]):
    """One job as its worker sees it.

    Attributes:
        spec: what was asked for.
        checkpoints: folder of each that the spec names.
        episodes: recorded episodes, oldest first.
        folder: where it works; its results stay there.
        progress: called with what happens.
        cancelled: asked at every iteration.
    """

    spec: SpecT
    checkpoints: Mapping[str, Path]
    episodes: Sequence[Recorded]
    folder: Path
    progress: Progress
    cancelled: Cancelled


def load_episodes(job: Job[JobSpec], most: int, image_size: int, *, also: Collection[str] = ()) -> list[Episode]:
    """Read the newest labelled episodes, whatever their length, frames of image_size pixels a side.

    The catalogue's label and robot hold, not the file's. An episode without a label says nothing about success and is
    not read.

    Args:
        job: the job they belong to.
        most: only the newest so many are looked at.
        image_size: pixels a side.
        also: ids that are read however old they are.

    Raises:
        ConfigError: none is labelled, one of `also` is not there any more, or they are not of the policy's arm.
    """
    newest = {entry.path for entry in job.episodes[-most:]}
    wanted = [entry for entry in job.episodes if entry.path in newest or entry.episode_id in also]
    chosen = [entry for entry in wanted if entry.outcome in _LABELS]
    if not chosen:
        raise ConfigError(f"none of {len(job.episodes)} episodes is labelled; collect and label some")
    if gone := sorted(set(also) - {entry.episode_id for entry in chosen}):
        raise ConfigError(f"episodes {', '.join(gone[:3])} of the trust check were withdrawn since; check trust again")
    episodes = []
    for index, entry in enumerate(chosen):
        episode = read_episode(entry.path, image_size=(image_size, image_size))
        robot = entry.robot or episode.metadata.get("robot", "")
        by = entry.labelled_by or episode.labelled_by
        metadata = {**episode.metadata, "robot": robot}
        episodes.append(replace(episode, outcome=Outcome(entry.outcome), labelled_by=by, metadata=metadata))
        if index % 50 == 0:
            job.progress(ProgressEvent("read_episodes", index, len(chosen)))
    if "policy" in job.checkpoints:
        one_arm([arm_of(job.checkpoints).name, *(model_in(episode.metadata) for episode in episodes)])
    return episodes


def arm_of(checkpoints: Mapping[str, Path]) -> RobotSpec:
    """Return the arm that a job's policy was made for; without a policy, the WidowX 250s.

    Raises:
        ConfigError: nobody here knows it; install the package that adds it.
    """
    policy = checkpoints.get("policy")
    return WIDOWX_250S if policy is None else robot_named(read_manifest(policy).robot_model)


def by_people(episodes: Sequence[Episode]) -> list[Episode]:
    """Return those that no judge labelled: what judges and world models are measured by."""
    return [episode for episode in episodes if not judge_in(episode.labelled_by)]


def require_audited(held_out: Sequence[Episode], asked: int | None) -> None:
    """Refuse dreams that are longer than any episode which the world model is audited on.

    Raises:
        ConfigError: they are; carries both lengths.
    """
    longest = max((episode.steps for episode in held_out), default=0)
    if asked is not None and asked > longest:
        raise ConfigError(
            f"dream.episode_steps {asked} is beyond the {longest} steps of the longest held-out episode: no audit sees "
            f"so far. Ask for at most {longest}, or record and label longer episodes"
        )


def practice_steps(episodes: Sequence[Episode], asked: int | None) -> int:
    """Return how long a dream to practise in lasts: what was asked for, else what most episodes last.

    Of two lengths that are as frequent, the longer. Demonstrations and early ends are shorter; a dream that begins
    where they did lasts as long as any other.
    """
    if asked is not None:
        return asked
    counts = Counter(episode.steps for episode in episodes)
    return max(counts, key=lambda length: (counts[length], length))

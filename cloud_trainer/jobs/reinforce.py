"""Practice as every kind of job does it: the same groups, judge and learner, in this process or on a Ray cluster."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cloud_trainer.jobs.forgetting import ForgettingCheck
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.practice import Dream, lora_of, practice_judge, whole_manifest
from cloud_trainer.practice.grpo_job import GrpoJob
from cloud_trainer.practice.pieces import Ground, Recipe
from cloud_trainer.practice.ray import cluster
from cloud_trainer.practice.recorded import Lesson, lesson_of
from cloud_trainer.practice.sharded import LocalPool, ShardedSampler
from cloud_trainer.practice.start_states import novel_starts
from cloud_trainer.practice.train import Anchor, Sampler, Training, left_by
from cloud_trainer.progress import Cancelled, CancelledError, ProgressEvent, never
from cloud_trainer.world_model.compact.data import Clips, median_background
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.jobs import ImproveSpec
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.practice import NovelConfig, PracticeSettings, RefiningSettings
from gymnast_core.jobs.spec import Candidate, RefiningSpec, ReinforcingSpec, TrainingSpec
from gymnast_core.judge import Judge
from gymnast_core.records.manifest import read_manifest

T = TypeVar("T")
TOLD_STARTS = 10
"""Starts a task from which a candidate is dreamt beside its parent where that is reported and decides nothing."""
MOST_LOST = 0.10
"""Loss of success on other tasks beyond which that report calls it forgotten."""


def reinforce(
    job: Job[ReinforcingSpec],
    grounds: Sequence[Ground],
    judge: Callable[[], Judge],
    grpo: GrpoConfig,
    *,
    lineage: Mapping[str, Any],
    candidate_every: int,
    anchor: Callable[[], Anchor] | None = None,
    lesson: Lesson | None = None,
    over: Cancelled = never,
    number: int | None = None,
) -> Training:
    """Practise, from where an interrupted run of this job stopped; candidates lie in the job's folder.

    Args:
        job: its policy is the parent.
        grounds: see ground().
        judge: see judge_maker().
        grpo: how to reinforce.
        lineage: for the candidates' manifests.
        candidate_every: iterations between candidates.
        anchor: makes a further loss; see GrpoJob.
        lesson: recorded episodes that come first; see GrpoJob.
        over: time is up: what was done by then, and the iteration under way, is the result.
        number: of several practices of this job, whose candidates and state are kept apart.

    Raises:
        CancelledError: the job was cancelled; its state has the last whole iteration.
    """
    config = job.spec.config
    ahead = None if config.ray is None else config.ray.ahead
    own = "" if number is None else f"-{number + 1}"
    whole = GrpoJob(
        job.checkpoints["policy"], grounds, judge, grpo,
        job.folder / f"candidates{own}", job.folder / f"grpo{own}.state",
        lora_of(job.spec), lineage, anchor, lesson, candidate_every=candidate_every, ahead=ahead,
        device=config.device,
    )  # fmt: skip

    def stop() -> bool:
        return job.cancelled() or over()

    try:
        if config.ray is None:
            here = functools.partial(LocalPool, cancelled=job.cancelled)
            return whole.run(here, progress=job.progress, cancelled=stop)
        return cluster.train(whole, config.ray, progress=job.progress, cancelled=stop)
    except CancelledError:
        if job.cancelled():
            raise
        return left_by(whole.out, whole.state)


@contextmanager
def imagined_groups(
    job: Job[TrainingSpec], grounds: Sequence[Ground], judge: Callable[[], Judge], grpo: GrpoConfig
) -> Iterator[Sampler]:
    """Give a sampler of the same groups to a job that does not reinforce."""
    config = job.spec.config
    recipe = Recipe.of(grounds, judge, job.checkpoints["policy"], None, grpo, device=config.device)
    if config.ray is None:
        yield ShardedSampler(LocalPool(recipe, cancelled=job.cancelled), grounds, grpo)
        return
    with cluster.rollout_pool(recipe, config.ray) as pool:
        yield ShardedSampler(pool, grounds, grpo)


def ground_of(job: Job[TrainingSpec], dream: Dream, held_out: Clips) -> tuple[Ground, dict[str, object]]:
    """Return where practice in a trusted dream takes place, and what lineage says of the new starts.

    Nothing begins at a held-out episode: from there candidates are reported on, see report_other_tasks().
    """
    apart = set(held_out.episode_ids)
    starts, keyframes = (
        [start for start in recorded if start.episode_id not in apart] for recorded in (dream.starts, dream.keyframes)
    )
    config = job.spec.config
    novel, beginnings = novel_beginnings(starts, dream.parts["world_model"], config.novel, seed=job.spec.seed)
    again = functools.partial(load_world, dream.world_model, config.dream)
    return Ground(at_hand(config, dream.world, again), [*evened(starts), *novel], evened(keyframes)), beginnings


def evened(starts: Sequence[StartState]) -> list[StartState]:
    """Return the starts so that every instruction has about as many, those of a rarer one several times.

    A robot that practises by itself tries what fails again and again: most of what it records is of its worst skill,
    and a policy that practised from those starts alone forgot the others (benchmarks/practice_cpu2_202611.md).
    """
    times = Counter(start.instruction for start in starts)
    most = max(times.values(), default=0)
    return [start for start in starts for _ in range(round(most / times[start.instruction]))]


def lesson_for(job: Job[ImproveSpec], dream: Dream, held_out: Clips) -> Lesson | None:
    """Return what the policy recorded itself, but for the episodes that candidates are reported on."""
    folder, epochs = job.checkpoints["policy"], job.spec.config.recorded_epochs
    parts, version = list(dream.parts.values()), read_manifest(folder).id
    return lesson_of(parts, whole_manifest(folder), version, epochs, apart=set(held_out.episode_ids))


def reported_starts(config: RefiningSettings, dream: Dream) -> Clips:
    """Return the episodes that candidates are dreamt from beside their parent."""
    most = TOLD_STARTS if config.forgetting_starts is None else config.forgetting_starts
    return at_most(dream.parts["audit"], most)


def judge_maker(job: Job[TrainingSpec], judge: Judge, checkpoint: Path) -> Callable[[], Judge]:
    """Return what makes the judge of this job, in this process or in another."""
    config = job.spec.config
    return at_hand(config, judge, functools.partial(practice_judge, config, checkpoint, job.folder))


def at_hand(config: PracticeSettings, here: T, again: Callable[[], T]) -> Callable[[], T]:
    """Return what gives a part of practice: as it is in this process, made again where others must have it."""
    return (lambda: here) if config.ray is None else again


def novel_beginnings(
    starts: Sequence[StartState], recorded: Clips, config: NovelConfig, *, seed: int
) -> tuple[list[StartState], dict[str, object]]:
    """Return the new starts that are asked for, and what the candidates' lineage says of them.

    Args:
        starts: recorded beginnings, to be changed.
        recorded: of the same camera and scene; its median picture is the empty scene.
        config: what is asked for.
        seed: of everything random.
    """
    if not config.asked:
        return [], {}
    made = novel_starts(starts, config, median_background(recorded.frames_NTHWC, seed=seed), seed=seed)
    return [one.start for one in made], {"novel_starts": [dict(one.lineage) for one in made]}


def report_other_tasks(
    job: Job[RefiningSpec], dream: Dream, held_out: Clips, candidates: Sequence[Candidate]
) -> tuple[Candidate, ...]:
    """Dream every candidate beside its parent, task by task, on episodes nothing was learned from.

    A few starts a task bound no loss: that a candidate forgets nothing is decided by the robot's own trial.

    Returns:
        The candidates, each with what was found.
    """
    if not len(held_out) or not candidates:
        return tuple(candidates)
    check = ForgettingCheck(
        dream.world, dream.judge, held_out, job.checkpoints["policy"], steps=dream.steps, seed=job.spec.seed,
        device=job.spec.config.device, cancelled=job.cancelled,
    )  # fmt: skip
    reported = []
    for index, candidate in enumerate(candidates):
        found = check.of(Path(candidate.folder)).record(MOST_LOST)
        reported.append(candidate.extended(Candidate, other_tasks=found))
        job.progress(ProgressEvent("forgetting", index + 1, len(candidates)))
    return tuple(reported)


def at_most(clips: Clips, per_task: int | None) -> Clips:
    """Return the first so many episodes of every task; None is all."""
    texts = clips.instructions
    if per_task is None:
        return clips
    return clips.take([row for row, text in enumerate(texts) if texts[:row].count(text) < per_task])

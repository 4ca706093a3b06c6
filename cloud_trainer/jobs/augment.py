"""The stage of a job after practice: each candidate learns other looks and words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.practice import Dream
from cloud_trainer.practice.augment import AugmentTrainer, asked_in, asked_in_dreams
from cloud_trainer.practice.train import TrainedCandidate, Training
from cloud_trainer.world_model.starts import StartState
from gymnast_core.jobs import ImproveSpec
from gymnast_core.jobs.augment import AugmentChoices
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Asked

PARTS = ("world_model", "judge")
"""Recorded episodes that the job learns from anyway; what audits it is left alone."""


def augmented(job: Job[ImproveSpec], training: Training, dream: Dream, starts: Sequence[StartState]) -> Training:
    """Return what practice left; where that is asked for, with candidates that act alike in other looks and words.

    A run that was interrupted goes on where it stopped; what practice made stays in its folders.

    Args:
        job: its settings say how.
        training: the candidates.
        dream: where the candidates practised.
        starts: where in it they began.

    Raises:
        CancelledError: asked to stop.
    """
    config = job.spec.config.augment
    if config is None:
        return training
    recorded = functools.cache(lambda: _recorded(job, training, dream))  # not read where all candidates are there
    found = tuple(_augmented(job, config, candidate, dream, starts, recorded) for candidate in training.candidates)
    return replace(training, candidates=found)


def _recorded(job: Job[ImproveSpec], training: Training, dream: Dream) -> list[Asked]:
    """Return recorded frames and instructions: the candidates are of one kind, which sees the same of them."""
    policy = load_trainable(training.candidates[0].folder, device=job.spec.config.device)
    return [asked_in(dream.parts[name], policy) for name in PARTS if len(dream.parts[name])]


def _augmented(
    job: Job[ImproveSpec], config: AugmentChoices, candidate: TrainedCandidate, dream: Dream,
    starts: Sequence[StartState], recorded: Callable[[], Sequence[Asked]],
) -> TrainedCandidate:  # fmt: skip
    manifest, out = read_manifest(candidate.folder), candidate.folder.with_name(f"augmented-{candidate.iteration:02d}")
    if not out.exists():
        policy, teacher = (load_trainable(candidate.folder, device=job.spec.config.device) for _ in range(2))
        images, texts = _joined([*recorded(), *_imagined(job, teacher, dream, starts, config.imagined)])
        AugmentTrainer(policy, teacher, images, texts, config, seed=job.spec.seed).run(
            state=out.with_suffix(".state"), progress=job.progress, cancelled=job.cancelled
        )
        policy.save(out, parents=manifest.parents, lineage={**manifest.lineage, "augment": config.model_dump()})
    return replace(candidate, folder=out, version=read_manifest(out).id)


def _imagined(
    job: Job[ImproveSpec], policy: LearningPolicy, dream: Dream, starts: Sequence[StartState], count: int
) -> list[Asked]:
    """Return frames and instructions where the policy itself gets to in the dream."""
    if not count:
        return []
    rng = np.random.default_rng(job.spec.seed)
    begun = [starts[int(row)] for row in rng.permutation(len(starts))[:count]]
    return [asked_in_dreams(dream.world, begun, policy, seed=job.spec.seed, cancelled=job.cancelled)]


def _joined(parts: Sequence[Asked]) -> Asked:
    return np.concatenate([frames for frames, _ in parts]), [text for _, said in parts for text in said]

"""Refine, audit, practise: the job that makes a better policy out of recorded episodes."""

from __future__ import annotations

from cloud_trainer.jobs.augment import augmented
from cloud_trainer.jobs.averaged import averaged, practices_of
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.practice import grpo_config, lineage_of, result_of, trusted_dream
from cloud_trainer.jobs.reinforce import (
    ground_of,
    judge_maker,
    lesson_for,
    reinforce,
    report_other_tasks,
    reported_starts,
)
from cloud_trainer.practice.train import Training
from gymnast_core.jobs import ImproveResult, ImproveSpec

APART = 1_000_003
"""Between the seeds of a job's practices."""


def improve(job: Job[ImproveSpec]) -> ImproveResult:
    """Refine world model and judge on the recorded episodes, audit them, practise, and return the candidates.

    Raises:
        NotTrustedError: the audit is out of bounds, or the judge's precision is not proven; nothing was trained.
        ConfigError: too few labelled episodes, or several practices of an adapter.
        CancelledError: asked to stop; the job folder has everything up to the last whole iteration.
    """
    practices = practices_of(job)  # refused before anything is spent
    dream = trusted_dream(job)
    held_out = reported_starts(job.spec.config, dream)
    ground, beginnings = ground_of(job, dream, held_out)
    lineage = lineage_of(job, dream.world, dream.judge, dream.passed, dream.parts.values()) | beginnings
    lesson = lesson_for(job, dream, held_out)

    def practise(job: Job[ImproveSpec], number: int | None) -> Training:
        grpo = grpo_config(job)
        return reinforce(
            job, [ground], judge_maker(job, dream.judge, dream.judge_folder),
            grpo.changed(seed=grpo.seed + APART * (number or 0)), candidate_every=job.spec.config.candidate_every,
            lesson=lesson, number=number, lineage=lineage,
        )  # fmt: skip

    training = averaged(job, practices, practise)
    training = augmented(job, training, dream, ground.starts)
    count = sum(len(part) for part in dream.parts.values())
    result = result_of(job, training, dream.world_model, dream.judge_folder, dream.passed, count)
    candidates = report_other_tasks(job, dream, held_out, result.candidates)
    return result.extended(ImproveResult, candidates=candidates, world_model_kept=dream.kept)

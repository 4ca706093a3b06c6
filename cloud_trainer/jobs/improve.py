"""Refine, audit, practise: the job that makes a better policy out of recorded episodes."""

from __future__ import annotations

from typing import Any

from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.practice import grpo_config, lineage_of, result_of, trusted_dream
from cloud_trainer.jobs.reinforce import ground_of, judge_maker, reinforce, tell_other_tasks, told_starts
from cloud_trainer.jobs.settings import PipelineConfig


def improve(job: Job) -> dict[str, Any]:
    """Refine world model and judge on the recorded episodes, audit them, practise, and return the candidates.

    Returns:
        JSON: candidates [{id, iteration, folder, imagined_reward, other_tasks}], world_model, judge (ids), register
        (folders), audit, judge_trust, judge_drift, horizon, imagined_reward (curve), episodes (count), folder, and
        world_model_kept: why a refined world model was not promoted over its parent, or empty.

    Raises:
        NotTrustedError: the audit is out of bounds, or the judge's precision is not proven; nothing was trained.
        ConfigError: too few labelled episodes, or an unknown setting.
        CancelledError: asked to stop; the job folder has everything up to the last whole iteration.
    """
    config = PipelineConfig.of(job.spec.get("config", {}))
    dream = trusted_dream(job, config)
    held_out = told_starts(config, dream)
    ground, told = ground_of(job, config, dream, held_out)
    training = reinforce(
        job, config, [ground], judge_maker(job, config, dream.judge, dream.judge_folder),
        grpo_config(job, config), candidate_every=config.candidate_every,
        lineage=lineage_of(job, dream.world, dream.judge, dream.passed, dream.parts.values(), config) | told,
    )  # fmt: skip
    count = sum(len(part) for part in dream.parts.values())
    result = result_of(job, training, dream.world_model, dream.judge_folder, dream.passed, count)
    tell_other_tasks(job, config, dream, held_out, result["candidates"])
    return {**result, "world_model_kept": dream.kept}

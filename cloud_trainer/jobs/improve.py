"""Refine, audit, practise: the job that makes a better policy out of recorded episodes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloud_trainer.jobs import cluster
from cloud_trainer.jobs.dreams import watched
from cloud_trainer.jobs.forgetting import ForgettingCheck
from cloud_trainer.jobs.grpo_job import GrpoJob
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.pieces import Recipe
from cloud_trainer.jobs.practice import (
    Dream,
    grpo_config,
    lineage_of,
    lora_of,
    practice_judge,
    result_of,
    trusted_dream,
)
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.jobs.start_states import novel_starts
from cloud_trainer.jobs.train import Training, run_grpo, world_model_sampler
from cloud_trainer.progress import ProgressEvent, never, silent
from cloud_trainer.world_model.compact_data import StartState, median_background
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.judge import Judge


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
    if config.novel.instructions and not config.judge:
        raise ConfigError("novel.instructions need config.judge: the learned judge knows only what it was taught")
    dream = trusted_dream(job, config)
    background = median_background(dream.parts["world_model"].frames_NTHWC, seed=job.seed)
    novel = novel_starts(dream.starts, config.novel, background, seed=job.seed)
    starts = [*dream.starts, *(made.start for made in novel)]
    lineage = lineage_of(dream.world, dream.judge, dream.passed, dream.parts.values(), config)
    lineage |= {"novel_starts": [dict(made.lineage) for made in novel]} if novel else {}
    training = _practise(job, config, dream, starts, lineage)
    count = sum(len(part) for part in dream.parts.values())
    result = result_of(job, training, dream.world_model, dream.judge_folder, dream.passed, count)
    _tell_other_tasks(job, config, dream, result["candidates"])
    return {**result, "world_model_kept": dream.kept}


def _practise(
    job: Job, config: PipelineConfig, dream: Dream, starts: Sequence[StartState], lineage: dict[str, Any]
) -> Training:
    """Reinforce in this process, or on a Ray cluster where the configuration names one."""
    grpo, lora, parent = grpo_config(job, config), lora_of(job, config), job.checkpoints["policy"]
    out, state = job.folder / "candidates", job.folder / "grpo.state"
    if config.ray is None:
        sampler = world_model_sampler(
            dream.world, dream.judge, starts, grpo, keyframes=dream.keyframes, cancelled=job.cancelled
        )
        return run_grpo(
            parent, watched(sampler, job.folder), grpo, out, candidate_every=config.candidate_every, state=state,
            lineage=lineage, lora=lora, progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    recipe = Recipe(
        functools.partial(load_world, dream.world_model, config.dream),
        functools.partial(_judge_elsewhere, job.folder, config, dream.judge_folder),
        parent, lora,
    )  # fmt: skip
    whole = GrpoJob(
        parent, recipe, starts, grpo, out, state, dream.keyframes, lineage, candidate_every=config.candidate_every,
        ahead=config.ray.ahead,
    )  # fmt: skip
    return cluster.train(whole, config.ray, progress=job.progress, cancelled=job.cancelled)


def _judge_elsewhere(folder: Path, config: PipelineConfig, checkpoint: Path) -> Judge:
    """What a judge actor runs: the judge of this job, in another process."""
    return practice_judge(Job({}, {}, (), folder, silent, never), config, checkpoint)


def _tell_other_tasks(job: Job, config: PipelineConfig, dream: Dream, candidates: Sequence[dict[str, Any]]) -> None:
    """Dream every candidate beside its parent, task by task, on episodes nothing was learned from; told, not judged.

    A few starts a task bound no loss: that a candidate forgets nothing is decided by the robot's own trial.
    """
    held_out = dream.parts["audit"]
    texts, most = held_out.instructions, config.forgetting_starts
    rows = [row for row, text in enumerate(texts) if texts[:row].count(text) < most]
    if not rows or not candidates:
        return
    check = ForgettingCheck(
        dream.world, dream.judge, held_out.take(rows), job.checkpoints["policy"], seed=job.seed, cancelled=job.cancelled
    )
    for index, candidate in enumerate(candidates):
        candidate["other_tasks"] = check.of(Path(candidate["folder"])).to_json(config.forgetting)
        job.progress(ProgressEvent("forgetting", index + 1, len(candidates)))

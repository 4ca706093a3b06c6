"""Refine world model and judge on recorded episodes; what is worse than its parent is not used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud_trainer.jobs.gates import (
    no_worse_than_parent,
)
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.judging import JudgeData, refine_judge
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.judge.training import JudgeTraining
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.compact_data import Clips
from cloud_trainer.world_model.compact_model import CompactWorldModel
from cloud_trainer.world_model.compact_train import WorldModelTraining, train_world_model
from gymnast_core.types import Episode

CALIBRATION_EPISODES = 20
"""Fewer held-out episodes than this say nothing about a threshold: the parent judge is kept."""


def _refined_world_model(job: Job, config: PipelineConfig, clips: Clips, parent: Path) -> Path:
    out = job.folder / "world_model"
    if config.refine_iterations == 0:
        return parent
    if not out.exists():
        training = WorldModelTraining(
            iterations=config.refine_iterations, learning_rate=config.refine_rate, own_context_from=0.0, seed=job.seed
        )
        train_world_model(
            clips, training, out, parent=parent, state=job.folder / "world_model.state",
            progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    return out


def promoted_world_model(
    job: Job, config: PipelineConfig, clips: Clips, held_out: Sequence[Episode]
) -> tuple[Path, str]:
    """Refine; returns the refined model, or its parent and why the refined one is not promoted."""
    parent = job.checkpoints["world_model"]
    refined = _refined_world_model(job, config, clips, parent)
    if refined == parent or not config.check:
        return refined, ""
    models = (CompactWorldModel.load(refined), CompactWorldModel.load(parent))
    worse = no_worse_than_parent(*models, held_out, config.audit, seed=job.seed)
    if worse:
        job.progress(ProgressEvent("world_model_not_promoted", 1, 1))
    return (parent, worse) if worse else (refined, "")


def refined_judge(job: Job, config: PipelineConfig, model: CompactWorldModel, parts: Mapping[str, Clips]) -> Path:
    """Refine the learned judge; returns its folder, or the parent's where too few episodes could calibrate it."""
    out = job.folder / "judge"
    if config.judge_iterations == 0:
        return job.checkpoints["judge"]
    if not _can_calibrate(parts["judge"]) or not _can_calibrate(parts["thresholds"]):
        job.progress(ProgressEvent("judge_kept_too_few_episodes", 1, 1))
        return job.checkpoints["judge"]
    if not out.exists():
        data = JudgeData(recorded=parts["world_model"], imagined=parts["judge"], choosing=parts["thresholds"])
        training = JudgeTraining(iterations=config.judge_iterations, learning_rate=config.judge_rate, seed=job.seed)
        refine_judge(
            model, data, training, out,
            parent=job.checkpoints["judge"], state=job.folder / "judge.state",
            progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    return out


def _can_calibrate(clips: Clips) -> bool:
    """Whether both outcomes are there, and enough of them to move a threshold for."""
    return len(clips) >= CALIBRATION_EPISODES and bool(clips.success_N.any()) and not bool(clips.success_N.all())

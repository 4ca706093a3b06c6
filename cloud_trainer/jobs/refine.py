"""Refine world model and judge on recorded episodes; what is worse than its parent is not used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud_trainer.jobs.calibrated import calibrated_bounds, inherit
from cloud_trainer.jobs.gates import no_worse_than_parent
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.judging import JudgeData, refine_judge
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.judge.training import JudgeTraining
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.refinement import Refinement, refine_world
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.types import Episode

CALIBRATION_EPISODES = 20
"""Fewer held-out episodes than this say nothing about a threshold: the parent judge is kept."""


def promoted_world_model(
    job: Job, config: PipelineConfig, home: World, episodes: Mapping[str, Sequence[Episode]], clips: Clips
) -> tuple[Path, World, str]:
    """Refine; returns the refined model, or its parent and why the refined one is not promoted.

    Args:
        job: its world model is the parent.
        config: how long, how fast.
        home: the parent, loaded.
        episodes: by part, see jobs.splits.
        clips: those of the part world_model, stacked.
    """
    parent, out = job.checkpoints["world_model"], job.folder / "world_model"
    if config.refine_iterations == 0:
        return parent, home, ""
    if not out.exists():
        how = Refinement(
            config.refine_iterations, config.refine_rate, job.seed, job.folder / "world_model.state",
            config.dream.torch_device, job.progress, job.cancelled,
        )  # fmt: skip
        refine_world(parent, episodes["world_model"], how, out, clips=clips)
        inherit(parent, out)
    refined = load_world(out, config.dream)
    worse = ""
    if config.check:
        demanded = config.gates(calibrated_bounds(parent, "promotion"))
        worse = no_worse_than_parent(
            refined, home, episodes["audit"], demanded, tracker_episodes=episodes["world_model"], seed=job.seed
        )
    if worse:
        job.progress(ProgressEvent("world_model_not_promoted", 1, 1))
        return parent, home, worse
    return out, refined, ""


def refined_judge(job: Job, config: PipelineConfig, world: World, parts: Mapping[str, Clips]) -> Path:
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
            world, data, training, out,
            parent=job.checkpoints["judge"], state=job.folder / "judge.state",
            progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    return out


def _can_calibrate(clips: Clips) -> bool:
    """Whether both outcomes are there, and enough of them to move a threshold for."""
    success = clips.success_N[clips.labelled_N]
    return len(success) >= CALIBRATION_EPISODES and bool(success.any()) and not bool(success.all())

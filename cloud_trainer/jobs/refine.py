"""Refine world model and judge on recorded episodes; what is worse than its parent is not used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cloud_trainer.jobs.calibrated import calibrated_bounds, inherit
from cloud_trainer.jobs.gates import gates_of, no_worse_than_parent
from cloud_trainer.jobs.job import Job, arm_of
from cloud_trainer.jobs.judging import JudgeData, refine_judge
from cloud_trainer.judge.training import JudgeTraining
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.capabilities import declared_by, require_practice
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.refinement import Refinement, refine_world
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.jobs.spec import RefiningSpec
from gymnast_core.policies.placement import device_of
from gymnast_core.records.manifest import read_manifest
from gymnast_core.spec import RobotSpec
from gymnast_core.types import Episode

CALIBRATION_EPISODES = 20
"""Fewer held-out episodes than this say nothing about a threshold: the parent judge is kept."""


def promoted_world_model(
    job: Job[RefiningSpec], home: World, episodes: Mapping[str, Sequence[Episode]], clips: Clips
) -> tuple[Path, World, str]:
    """Refine; returns the refined model, or its parent and why the refined one is not promoted.

    Refined on episodes of an arm, it knows that arm.

    Args:
        job: its world model is the parent.
        home: the parent, loaded.
        episodes: by part, see jobs.splits.
        clips: those of the part world_model, stacked.

    Raises:
        ConfigError: the parent, which is not refined or better than what it was refined to, does not know the arm.
    """
    config, parent, out = job.spec.config, job.checkpoints["world_model"], job.folder / "world_model"
    arm = arm_of(job.checkpoints)
    if config.refine_iterations == 0:
        _require_arm(parent, arm)
        return parent, home, ""
    if not out.exists():
        how = Refinement(
            config.refine_iterations, config.refine_rate, job.spec.seed, job.folder / "world_model.state",
            device_of(config.dream.device), job.progress, job.cancelled,
        )  # fmt: skip
        refine_world(parent, episodes["world_model"], how, out, clips=clips)
    inherit(parent, out)  # also where a kill came between the two
    refined = load_world(out, config.dream, robot=arm)
    worse = ""
    if config.check:
        demanded = gates_of(config, calibrated_bounds(parent, "promotion"))
        worse = no_worse_than_parent(
            refined, home, episodes["audit"], demanded, tracker_episodes=episodes["world_model"], seed=job.spec.seed
        )
    if worse:
        job.progress(ProgressEvent("world_model_not_promoted", 1, 1))
        _require_arm(parent, arm)
        return parent, home, worse
    return out, refined, ""


def _require_arm(folder: Path, arm: RobotSpec) -> None:
    manifest = read_manifest(folder)
    require_practice(declared_by(manifest), manifest.id, robot=arm)


def refined_judge(job: Job[RefiningSpec], world: World, parts: Mapping[str, Clips]) -> Path:
    """Refine the learned judge; returns its folder, or the parent's where too few episodes could calibrate it."""
    config, out = job.spec.config, job.folder / "judge"
    if config.judge_iterations == 0:
        return job.checkpoints["judge"]
    if not _can_calibrate(parts["judge"]) or not _can_calibrate(parts["thresholds"]):
        job.progress(ProgressEvent("judge_kept_too_few_episodes", 1, 1))
        return job.checkpoints["judge"]
    if not out.exists():
        data = JudgeData(recorded=parts["world_model"], imagined=parts["judge"], choosing=parts["thresholds"])
        training = JudgeTraining(
            iterations=config.judge_iterations, learning_rate=config.judge_rate, seed=job.spec.seed
        )
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

"""A plan as a job: drawn, judged and kept for people to look at; nothing moves."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from cloud_trainer.film import film
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.plan_files import FILM, PATH
from cloud_trainer.judge.choice import read_judge
from cloud_trainer.practice.plan_policy import PlanPolicy
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.data.video import decode_picture
from cloud_trainer.world_model.planner.choice import load_planner
from cloud_trainer.world_model.planner.picture import path_picture
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.jobs import PlanResult, PlanSpec
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import model_in, one_arm
from gymnast_core.types import PROPRIO_DIM, ByteArray, FloatArray, Observation


def plan(job: Job[PlanSpec]) -> PlanResult:
    """Plan from the job's picture, and keep the best of its plans by what the judge sees in their frames.

    Raises:
        ConfigError: no picture to begin from, or one of another arm than the planner's; or a checkpoint is no planner.
    """
    spec, planner = job.spec, load_planner(job.checkpoints["planner"])
    frame_HWC, pose_P = _first(job, planner.robot.name)
    observation = seen(frame_HWC, pose_P)
    judge = read_judge(job.checkpoints["judge"])
    policy = PlanPolicy(planner, judge=judge, best_of=spec.best_of)
    job.progress(ProgressEvent("plan", 0, 1))
    chosen = policy.choose(observation, [spec.instruction], seed=spec.seed)
    (job.folder / FILM).write_bytes(film(chosen.plans.frames_BFHWC[0]))
    camera = read_manifest(job.checkpoints["world_model"]) if spec.world_model else None
    shown = path_picture(frame_HWC, pose_P, chosen.plans.actions_BTA[0], camera, planner.robot)
    if shown.png:
        (job.folder / PATH).write_bytes(shown.png)
    job.progress(ProgressEvent("plan", 1, 1))
    return PlanResult(
        folder=str(job.folder), planner=chosen.plans.planner, judge=judge.version, best=int(chosen.best_B[0]),
        scores=tuple(float(score) if np.isfinite(score) else None for score in chosen.scores_BN[0]),
        frame_steps=tuple(map(int, chosen.plans.frame_steps_F)),
        actions=tuple(tuple(round(float(value), 5) for value in row) for row in chosen.plans.actions_BTA[0]),
        camera=camera.id if camera is not None and shown.png else "", no_path=shown.why_not,
    )  # fmt: skip


def seen(frame_HWC: ByteArray, pose_P: FloatArray | None = None) -> Observation:
    """Return what a policy would see there.

    Args:
        frame_HWC: square picture.
        pose_P: (7,) proprioception; None is not known, and zeros.

    Raises:
        ConfigError: the picture is not square.
    """
    height, width = frame_HWC.shape[:2]
    if height != width:
        raise ConfigError(f"the picture has {width} x {height} pixels; crop it to the square that the camera records")
    pose_P = np.zeros(PROPRIO_DIM, np.float32) if pose_P is None else pose_P
    return Observation({"camera": frame_HWC[None]}, pose_P[None], np.zeros(1, np.int64))


def _first(job: Job[PlanSpec], model: str) -> tuple[ByteArray, FloatArray | None]:
    """The picture that the plan begins from, and where the arm is there, if anybody knows; an episode's of this arm."""
    spec = job.spec
    try:
        if spec.picture:
            return decode_picture(base64.b64decode(spec.picture, validate=True), "the picture to plan from"), None
        if not job.episodes:
            raise ConfigError(f"episode {spec.episode} was withdrawn meanwhile; plan from another")
        episode = read_episode(job.episodes[0].path)
        one_arm((model_in(episode.metadata), model))
    except (CorruptError, binascii.Error) as error:
        raise ConfigError(f"{error}; plan from another picture") from error
    frames_THWC = next(iter(episode.images.values()))
    return frames_THWC[0], episode.proprio_TP[0]

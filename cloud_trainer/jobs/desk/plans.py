"""Plans from words and a picture at a desk, without a service: a planner trained or adopted, a plan made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloud_trainer.jobs.desk.episodes import episode_files, labelled_episodes
from cloud_trainer.jobs.plan import seen
from cloud_trainer.jobs.plan_files import PATH
from cloud_trainer.practice.plan_policy import PlanSettings, open_plan_policy
from cloud_trainer.progress import Progress
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.data.video import read_picture, write_video
from cloud_trainer.world_model.planner.network import PlannerConfig
from cloud_trainer.world_model.planner.picture import path_picture
from cloud_trainer.world_model.planner.train import PlannerTraining, train_planner
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.robots import arm_of_all, model_in, one_arm
from gymnast_core.settings import settings_in
from gymnast_core.types import Observation

__all__ = ["PlanSettings", "Planned", "PlannerTraining", "adopt_planner", "make_plan", "train"]

EPISODE = ".mcap"


@dataclass(frozen=True)
class Planned:
    """What was planned and where it lies.

    Attributes:
        planner: id.
        video: of the plan.
        actions: file of the actions, as `replay:FILE` plays them.
        steps: control steps.
        scores: the judge's, of every plan that there was; empty without one.
        best: which was kept.
        path: picture of the gripper's path in what the camera sees; None where it is not drawn.
        no_path: why not.
    """

    planner: str
    video: Path
    actions: Path
    steps: int
    scores: tuple[float, ...]
    best: int
    path: Path | None
    no_path: str


def train(episodes: Sequence[Path], out: Path, config: PlannerTraining, *, progress: Progress) -> Manifest:
    """Train a planner on recorded episodes; a run that was stopped goes on.

    Args:
        episodes: labelled .mcap files or folders; it learns from the successes, inverse dynamics from all.
        out: checkpoint folder to create.
        config: how.
        progress: called every 20 steps.

    Raises:
        ConfigError: no success among them, or they are of several arms.
    """
    sizes = PlannerConfig()
    known = labelled_episodes(episodes, sizes.image_size)
    robot, state = arm_of_all(episode.metadata for episode in known), out.with_name(f"{out.name}.state")
    out.parent.mkdir(parents=True, exist_ok=True)
    clips = clips_of(known, sizes.image_size)
    return train_planner(clips, config, out, sizes=sizes, robot=robot, state=state, progress=progress)


def adopt_planner(
    folder: Path, reader: Path, out: Path, *, network: Path | None = None, settings: Path | None = None
) -> Manifest:
    """Make a planner that draws with a Wan image-to-video model, or a Large Video Planner.

    Args:
        folder: of the video model, in diffusers' layout.
        reader: checkpoint of a compact planner; its inverse dynamics reads the actions.
        out: checkpoint folder to create.
        network: file of the network's tensors; None is the folder's.
        settings: file of the other settings, see WanSettings; None is all defaults.

    Raises:
        ConfigError: a setting, or a part of the video model, is not what is needed.
        CheckpointError: tensors are missing, unknown or of another shape; each is named.
    """
    from cloud_trainer.world_model.planner.wan import WanSettings, adopt  # heavy, and few have one

    values = {} if settings is None else settings_in(settings, "planner settings")
    named = {"folder": folder} if network is None else {"folder": folder, "network": network}
    return adopt(WanSettings.model_validate({**values, **named}), reader, out)


def make_plan(
    settings: PlanSettings, image: Path, instruction: str, out: Path, *, camera: Path | None = None
) -> Planned:
    """Plan from one picture, or from where a recorded episode began; writes plan.mp4, actions.json and plan.json.

    Where an episode says where the arm is, and a world model how the camera sees it, path.png shows the gripper's path.

    Args:
        settings: how.
        image: a square picture, or an .mcap file.
        instruction: what the arm should do; empty is the episode's.
        out: folder to write.
        camera: checkpoint of a compact world model that knows the camera; None is the one of the settings, if any.

    Raises:
        ConfigError: no instruction; a world model is to do the plan's actions, and a picture does not say where the arm
            is; or the episode is of another arm than the planner.
        CorruptError: no readable picture or episode.
    """
    observation, said, model = _seen(image, posed=settings.world_model is not None)
    if not (text := instruction or said):
        raise ConfigError(f"{image} says nothing about what to do; give --instruction")
    policy = open_plan_policy(settings)
    if model is not None:
        one_arm((model, policy.robot.name))
    chosen = policy.choose(observation, [text], seed=settings.seed)
    plans, scores = chosen.plans, [float(score) for score in chosen.scores_BN[0] if np.isfinite(score)]
    out.mkdir(parents=True, exist_ok=True)
    video, actions = out / "plan.mp4", out / "actions.json"
    every = int(plans.frame_steps_F[1])
    write_video(video, plans.frames_BFHWC[0], fps=max(1, round(policy.robot.control_hz / every)))
    actions.write_text(json.dumps(plans.actions_BTA[0].round(5).tolist()))
    knows, pose_P = camera or settings.world_model, observation.proprio_BP[0] if image.suffix == EPISODE else None
    shown = path_picture(
        observation.frames_of("")[0], pose_P, plans.actions_BTA[0], None if knows is None else read_manifest(knows),
        policy.robot,
    )  # fmt: skip
    (out / PATH).unlink(missing_ok=True)  # of a plan before
    if shown.png:
        (out / PATH).write_bytes(shown.png)
    found = Planned(
        plans.planner, video, actions, plans.actions_BTA.shape[1], tuple(scores), int(chosen.best_B[0]),
        out / PATH if shown.png else None, shown.why_not,
    )  # fmt: skip
    about = {"planner": found.planner, "instruction": text, "image": str(image), "scores": scores, "best": found.best,
             "frame_steps": plans.frame_steps_F.tolist(), "no_path": found.no_path,
             "settings": settings.to_json()}  # fmt: skip
    (out / "plan.json").write_text(json.dumps(about, indent=1))
    return found


def _seen(image: Path, *, posed: bool) -> tuple[Observation, str, str | None]:
    """What a policy would see there; what an episode was about, and its arm's model."""
    if image.suffix == EPISODE:
        episode = read_episode(episode_files([image])[0])
        frame, pose_P = next(iter(episode.images.values()))[0], episode.proprio_TP[0]
        return seen(frame, pose_P), episode.instruction, model_in(episode.metadata)
    if posed:
        raise ConfigError(
            f"a world model begins where the arm is, which {image.name} does not say: plan from a recorded episode "
            "(--image FILE.mcap), or without --world-model"
        )
    if not image.is_file():
        raise ConfigError(f"no picture {image}; name one, or an episode's .mcap file")
    return seen(read_picture(image)), "", None

"""What a candidate would do, imagined beside the policy in force from the very frame an operator captured."""

from __future__ import annotations

from cloud_trainer.film import film
from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.scene_trust import divide
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.scene import PreviewResult, PreviewSpec
from gymnast_core.policies import load_policy

FILMS = ("old", "new")


def preview(job: Job[PreviewSpec]) -> PreviewResult:
    """Imagine both policies in a scene: old.webp and new.webp in the job's folder.

    Raises:
        ConfigError: the captured episode is not here any more.
    """
    spec = job.spec
    home = load_world(job.checkpoints["world_model"], spec.config.dream)
    start = next((entry for entry in job.episodes if entry.episode_id == spec.start), None)
    if start is None:
        raise ConfigError(f"the captured start {spec.start} was withdrawn meanwhile; begin a new adaptation")
    episodes = load_episodes(job, len(job.episodes), home.image_size)
    chosen = divide(episodes, robot=spec.robot, scene=spec.scene, instruction=spec.instruction, checked=spec.checked)
    world = home.in_scene(clips_of(chosen.here, home.image_size), seed=spec.seed)
    captured = read_episode(start.path, image_size=(world.image_size, world.image_size))
    starts = starts_of(clips_of([captured], world.image_size))
    for number, (name, kind) in enumerate(zip(FILMS, ("policy", "candidate"), strict=True)):
        rollouts = imagine_from(world, starts, load_policy(job.checkpoints[kind]), seed=0)
        (job.folder / f"{name}.webp").write_bytes(film(rollouts.frames_BFHWC[0]))
        job.progress(ProgressEvent("preview", number + 1, len(FILMS)))
    return PreviewResult(folder=str(job.folder))

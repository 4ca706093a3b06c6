"""What a candidate would do, imagined beside the policy in force from the very frame an operator captured."""

from __future__ import annotations

from typing import Any

from cloud_trainer.film import film
from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.scene_trust import divide
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.policies import load_policy

FILMS = ("old", "new")


def preview(job: Job) -> dict[str, Any]:
    """Imagine both policies in a scene: old.webp and new.webp in the job's folder.

    Args:
        job: spec as of an adapt job, with policy (the old one), candidate (the new one), start (id of the episode whose
            first frame was captured) and episodes (ids of what shows
            how it looks here, `start` among them), of which checked are the trust check's.

    Returns:
        {folder}: where the films are.

    Raises:
        ConfigError: the captured episode is not here any more.
    """
    config = PipelineConfig.of(job.spec.get("config", {}))
    home = load_world(job.checkpoints["world_model"], config.dream)
    start = next((entry for entry in job.episodes if entry.episode_id == job.spec["start"]), None)
    if start is None:
        raise ConfigError(f"the captured start {job.spec['start']} was withdrawn meanwhile; begin a new adaptation")
    episodes = load_episodes(job, len(job.episodes), home.image_size)
    asked = {name: str(job.spec.get(name, "")) for name in ("robot", "scene", "instruction")}
    chosen = divide(episodes, checked=job.spec.get("checked"), **asked)
    world = home.in_scene(clips_of(chosen.here, home.image_size), seed=job.seed)
    captured = read_episode(start.path, image_size=(world.image_size, world.image_size))
    starts = starts_of(clips_of([captured], world.image_size))
    for number, (name, kind) in enumerate(zip(FILMS, ("policy", "candidate"), strict=True)):
        rollouts = imagine_from(world, starts, load_policy(job.checkpoints[kind]), seed=0)
        (job.folder / f"{name}.webp").write_bytes(film(rollouts.frames_BFHWC[0]))
        job.progress(ProgressEvent("preview", number + 1, len(FILMS)))
    return {"folder": str(job.folder)}

"""Jobs over the shared material, small enough for a test."""

import functools
from dataclasses import replace
from pathlib import Path

from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import never, silent
from gymnast_core.episodes import read_episode, read_summary, write_episode
from gymnast_core.jobs import KINDS, spec_of

TINY_SCENE = {"grpo_iterations": 2, "groups": 4, "group_size": 4, "check": False}
"""What an adapt job takes too."""
TINY = {**TINY_SCENE, "refine_iterations": 2, "judge_iterations": 4, "candidate_every": 1, "practices": 1}


def job_of(material, folder: Path, *, kind="improve", config=TINY, cancelled=never, **spec) -> Job:
    checkpoints, files = material
    folder.mkdir(parents=True, exist_ok=True)
    asked = spec_of(kind, {"policy": checkpoints["policy"].name, "seed": 5, "config": config, **spec})
    return Job(asked, checkpoints, files, folder, silent, cancelled)


scene_job = functools.partial(job_of, kind="adapt", config=TINY_SCENE)
imitation_job = functools.partial(job_of, kind="imitate")


def fitting(kind, config):
    """What of a configuration a kind of job has, where one test asks several."""
    known = KINDS[kind].spec.model_fields["config"].annotation.model_fields
    return {name: value for name, value in config.items() if name in known}


def in_another_scene(material, folder: Path) -> list[Recorded]:
    """Six recorded episodes of the lift task once more, as if of a scene called bench."""
    files = []
    for entry in material[1][9:15]:
        episode = read_episode(entry.path)
        own = replace(
            episode, episode_id=f"bench-{episode.episode_id}", metadata={**episode.metadata, "scene": "bench"}
        )
        files.append(write_episode(folder, own, robot="sim-0"))
    return [Recorded(path, read_summary(path).end.outcome.value) for path in files]

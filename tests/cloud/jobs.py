"""Jobs over the shared material, small enough for a test."""

from dataclasses import replace
from pathlib import Path

from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import never, silent
from gymnast_core.episodes import read_episode, read_summary, write_episode

TINY = {"refine_iterations": 2, "judge_iterations": 4, "grpo_iterations": 2, "groups": 4, "group_size": 4}
TINY |= {"candidate_every": 1, "check": False}


def job_of(material, folder: Path, *, config=None, cancelled=never, **spec) -> Job:
    checkpoints, files = material
    folder.mkdir(parents=True, exist_ok=True)
    return Job({"seed": 5, "config": config or TINY, **spec}, checkpoints, files, folder, silent, cancelled)


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

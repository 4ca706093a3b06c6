"""Jobs over the shared material, small enough for a test."""

from pathlib import Path

from cloud_trainer.jobs.job import Job
from cloud_trainer.progress import never, silent

TINY = {"refine_iterations": 2, "judge_iterations": 4, "grpo_iterations": 2, "groups": 4, "group_size": 4}
TINY |= {"candidate_every": 1, "check": False}


def job_of(material, folder: Path, *, config=None, cancelled=never, **spec) -> Job:
    checkpoints, files = material
    folder.mkdir(parents=True, exist_ok=True)
    return Job({"seed": 5, "config": config or TINY, **spec}, checkpoints, files, folder, silent, cancelled)

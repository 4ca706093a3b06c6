"""The report's moving pictures: the same start before and after, and recorded episodes beside their dreams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file

from gymnast_cli.demo.config import TASKS
from gymnast_cli.report_media import DreamPair, ReportMedia, Strip, TaskStrips
from gymnast_core.policies import load_policy
from gymnast_core.policy import Policy
from gymnast_core.seeds import EVALUATION_SEEDS
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import task_for

FRAME_SIZE = 128


def film(before: Path, after: Path, jobs: Sequence[Path]) -> ReportMedia:
    """Film the first evaluation start of every task under both policies; add the dreams that the jobs kept.

    Args:
        before: checkpoint folder of the base policy.
        after: checkpoint folder of the trained one.
        jobs: job folders of the trainer, see cloud_trainer.practice.dreams.
    """
    env = SimEnv(image_size=256)
    try:
        strips = [_strips(env, name, load_policy(before), load_policy(after)) for name in TASKS]
    finally:
        env.close()
    pairs = [pair for folder in jobs for pair in dream_pairs(folder)]
    return ReportMedia(strips=strips, pairs=pairs)


def _strips(env: SimEnv, task: str, before: Policy, after: Policy) -> TaskStrips:
    seed = EVALUATION_SEEDS.start
    films = []
    for policy in (before, after):
        episode = collect(env, policy, task, [seed], frame_size=FRAME_SIZE)[0]
        frames = next(iter(episode.images.values()))
        films.append(Strip(frames, episode.outcome.value))
    return TaskStrips(task, films[0], films[1], task_for(task).instruction)


def dream_pairs(job: Path) -> list[DreamPair]:
    """Read what a job kept of its audit: real and imagined frames of held-out episodes.

    Returns:
        An empty list when the job kept none (it was refused before the audit).
    """
    index = job / "dreams.json"
    if not index.exists():
        return []
    frames = load_file(job / "dreams.safetensors")
    pairs = []
    for number, entry in enumerate(json.loads(index.read_text())):
        name = task_for(entry["instruction"]).name
        real = Strip(frames[f"real_{number}"], entry["real"])
        imagined = Strip(frames[f"imagined_{number}"], entry["imagined"])
        pairs.append(DreamPair(name, real, imagined, tuple(entry["frame_steps"])))
    return pairs

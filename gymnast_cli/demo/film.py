"""The report's moving pictures: the same start before and after, and recorded episodes beside their dreams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud_trainer.app.dreams import read_dreams
from gymnast_cli.demo.config import TASKS
from gymnast_cli.report_media import DreamPair, ReportMedia, Strip, TaskStrips
from gymnast_core.seeds import EVALUATION_SEEDS
from gymnast_core.types import Episode
from gymnast_ros.sim.films import before_and_after
from gymnast_ros.sim.tasks import task_for


def film(before: Path, after: Path, jobs: Sequence[Path]) -> ReportMedia:
    """Film the first evaluation start of every task under both policies; add the dreams that the jobs kept.

    Args:
        before: checkpoint folder of the base policy.
        after: checkpoint folder of the trained one.
        jobs: job folders of the trainer.
    """
    films = before_and_after(before, after, TASKS, EVALUATION_SEEDS.start)
    strips = [
        TaskStrips(task, _strip(first), _strip(second), task_for(task).instruction)
        for task, (first, second) in films.items()
    ]
    return ReportMedia(strips=strips, pairs=[pair for folder in jobs for pair in dream_pairs(folder)])


def _strip(episode: Episode) -> Strip:
    return Strip(next(iter(episode.images.values())), episode.outcome.value)


def dream_pairs(job: Path) -> list[DreamPair]:
    """What a job kept of its audit; an empty list where it kept none, as it was refused before."""
    return [
        DreamPair(
            task_for(dream.instruction).name, Strip(dream.real_FHWC, dream.real),
            Strip(dream.imagined_FHWC, dream.imagined), dream.frame_steps,
        )
        for dream in read_dreams(job)
    ]  # fmt: skip

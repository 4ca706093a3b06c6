"""Several practices that differ by their random numbers alone, and the mean of their weights.

One practice of a few updates ends where chance takes it; the mean of several ends near the best of them. They begin
with the same weights and stay close enough together for a mean to make sense (Wortsman et al., "Model soups", 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.jobs.job import Job
from cloud_trainer.practice.grpo.trainer import write_policy
from cloud_trainer.practice.train import TrainedCandidate, Training
from cloud_trainer.progress import ProgressEvent
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import ImproveSpec
from gymnast_core.policies.adapter import ARCHITECTURE as ADAPTER
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest

USUAL = 3
"""Practices of a compact policy of tokens; on two seeds the mean of three was as good as of four."""
OFTEN = ("compact_policy", "compact_history")
"""Of gymnast_core.policies.ARCHITECTURES those that are practised so often."""

Practice = Callable[[Job[ImproveSpec], int | None], Training]
"""Practises as a job, in folders of its own where a number is given, from 0."""


def practices_of(job: Job[ImproveSpec]) -> int:
    """Return how many practices are averaged.

    Raises:
        ConfigError: several of an adapter: the mean of two products is no product of means.
    """
    asked, kind = job.spec.config.practices, read_manifest(job.checkpoints["policy"]).architecture
    adapter = job.spec.mode == "lora" or kind == ADAPTER
    if asked is not None and asked > 1 and adapter:
        raise ConfigError(
            f"practices is {asked}, and an adapter cannot be averaged; leave it out, or use mode full on a whole policy"
        )
    return asked or (USUAL if kind in OFTEN and not adapter else 1)


def averaged(job: Job[ImproveSpec], count: int, practise: Practice) -> Training:
    """Practise so often; what it offers are the means of the practices' candidates.

    Args:
        job: the practices' folders and progress are its own.
        count: see practices_of().
        practise: does it once.

    Raises:
        CancelledError: asked to stop; finished practices are kept.
    """
    if count == 1:
        return practise(job, None)
    trainings = [practise(replace(job, progress=_counted(job, number, count)), number) for number in range(count)]
    history = [_mean(rows) for rows in zip(*(training.history for training in trainings), strict=True)]
    alike = zip(*(training.candidates for training in trainings), strict=True)
    return Training(tuple(_average(made, job.folder / "candidates") for made in alike), tuple(history))


def mean_of(folders: Sequence[Path], share: Callable[[int], float]) -> LearningPolicy:
    """Return the first policy with the mean of all their weights.

    Args:
        folders: checkpoints of the same sizes.
        share: of the number-th, from 2, in the mean of those up to it: 1 / number weighs all alike.
    """
    policy = load_trainable(folders[0])
    mean = dict(policy.network.named_parameters())
    for number, folder in enumerate(folders[1:], start=2):
        for name, weight in load_trainable(folder).network.named_parameters():
            mean[name].data.lerp_(weight.data, share(number))
    return policy


def _counted(job: Job[ImproveSpec], number: int, count: int) -> Callable[[ProgressEvent], None]:
    """Report updates as those of all practices."""

    def report(event: ProgressEvent) -> None:
        if event.stage == "grpo":
            event = replace(event, step=number * event.total + event.step, total=count * event.total)
        job.progress(event)

    return report


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of every figure of an iteration; where nothing was to be learned, a practice lacks some."""
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {**means, "iteration": rows[0]["iteration"]}


def _average(made: Sequence[TrainedCandidate], out: Path) -> TrainedCandidate:
    """Write the mean of the practices' weights after the same update, unless it is there."""
    folder, first = out / made[0].folder.name, read_manifest(made[0].folder)
    reward = float(np.mean([candidate.imagined_reward for candidate in made]))
    if not folder.exists():
        policy = mean_of([candidate.folder for candidate in made], lambda number: 1 / number)
        lineage = {**first.lineage, "imagined_reward": reward, "averaged": [candidate.version for candidate in made]}
        write_policy(policy, folder, parents=first.parents, lineage=lineage)
    return replace(made[0], folder=folder, version=read_manifest(folder).id, imagined_reward=reward)

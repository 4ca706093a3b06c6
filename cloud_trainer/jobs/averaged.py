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
from gymnast_core.policies.compact import CompactPolicy
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.records.manifest import read_manifest

USUAL = 3
"""Practices of a compact policy of tokens; of three seeds the mean of three was as good as of four."""

Practice = Callable[[Job[ImproveSpec], int | None], Training]
"""Practises as a job, in folders of its own where a number is given, from 0."""


def practices_of(job: Job[ImproveSpec]) -> int:
    """Return how many practices are averaged.

    Raises:
        ConfigError: several of an adapter: the mean of two products is no product of means.
    """
    asked, lora = job.spec.config.practices, job.spec.mode == "lora"
    if asked is not None and asked > 1 and lora:
        raise ConfigError(f"practices is {asked}, and an adapter cannot be averaged; leave it out, or use mode full")
    if asked is not None or lora:
        return asked or 1
    return USUAL if isinstance(load_trainable(job.checkpoints["policy"]), CompactPolicy) else 1


def averaged(job: Job[ImproveSpec], practise: Practice) -> Training:
    """Practise as often as the job asks; what it offers are the means of the practices' candidates.

    Raises:
        ConfigError: see practices_of().
        CancelledError: asked to stop; finished practices are kept.
    """
    count = practices_of(job)
    if count == 1:
        return practise(job, None)
    trainings = [practise(replace(job, progress=_counted(job, number, count)), number) for number in range(count)]
    history = [_mean(rows) for rows in zip(*(training.history for training in trainings), strict=True)]
    alike = zip(*(training.candidates for training in trainings), strict=True)
    return Training(tuple(_average(made, job.folder / "candidates") for made in alike), tuple(history))


def _counted(job: Job[ImproveSpec], number: int, count: int) -> Callable[[ProgressEvent], None]:
    """Report updates as those of all practices."""

    def report(event: ProgressEvent) -> None:
        whole = event.total * count
        if event.stage == "grpo":
            event = replace(event, step=number * event.total + event.step, total=whole)
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
        policy = load_trainable(made[0].folder)
        weights = dict(policy.network.named_parameters())
        for number, candidate in enumerate(made[1:], start=2):
            for name, weight in load_trainable(candidate.folder).network.named_parameters():
                weights[name].data.lerp_(weight.data, 1 / number)
        lineage = {**first.lineage, "imagined_reward": reward, "averaged": [candidate.version for candidate in made]}
        write_policy(policy, folder, parents=first.parents, lineage=lineage)
    return replace(made[0], folder=folder, version=read_manifest(folder).id, imagined_reward=reward)

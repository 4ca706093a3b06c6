"""Imitation as a job: SFT on recorded successes, and Iter-SFT, which adds imagined ones the judge let pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.grpo.scored import join_scored
from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.practice import Dream, grpo_config, lineage_of, lora_of, trusted_dream
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.jobs.train import Sampler, world_model_sampler
from cloud_trainer.sft.trainer import train_sft
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.manifest import read_manifest
from gymnast_core.policies.trainable import TokenPolicy, load_trainable
from gymnast_core.types import Episode, Outcome, RolloutBatch

Imagined = tuple[RolloutBatch, Sequence[int]]
"""Rollouts, and the rows that the judge called successes."""


def imitate(job: Job) -> dict[str, Any]:
    """Fine-tune the policy on recorded successes and, with imagined_rounds, on imagined ones (Iter-SFT).

    Returns:
        JSON: candidates [{id, iteration, folder}], register (folders), episodes (count), imagined_successes, folder;
        with imagined_rounds also world_model, judge, audit and what improve() says of them.

    Raises:
        NotTrustedError: with imagined_rounds: the dream or its judge is not good enough.
        ConfigError: nothing to imitate, or an unknown setting.
        CancelledError: asked to stop; the job folder has the last saved step.
    """
    config = PipelineConfig.of(job.spec.get("config", {}))
    size = load_world(job.checkpoints["world_model"], config.dream).image_size
    won = [e for e in load_episodes(job, config.most_episodes, size) if e.outcome is Outcome.SUCCESS]
    if not won:
        raise ConfigError("no recorded success to imitate; collect and label some, by hand or with the scripted expert")
    dream = trusted_dream(job, config) if config.imagined_rounds else None
    imagined = None if dream is None else _imagined(job, config, dream)
    candidate = _fine_tuned(job, config, won, dream, imagined)
    told = {} if dream is None else _of_dream(dream)
    return {
        "register": [], **told, "candidates": [candidate], "episodes": len(won), "folder": str(job.folder),
        "imagined_successes": 0 if imagined is None else len(imagined[1]),
    }  # fmt: skip


def _fine_tuned(
    job: Job, config: PipelineConfig, won: Sequence[Episode], dream: Dream | None, imagined: Imagined | None
) -> dict[str, Any]:
    out, parent, lora = job.folder / "candidates" / "imitation", job.checkpoints["policy"], lora_of(job, config)
    sft = replace(config.sft, seed=job.seed)
    if lora is not None:
        sft = replace(sft, learning_rate=config.lora_rate)
    lineage: Mapping[str, Any] = {}
    if dream is not None:
        told = lineage_of(dream.world, dream.judge, dream.passed, dream.parts.values(), config)
        lineage = {"starts": told.pop("episodes"), **told}  # "episodes" are those that were imitated
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        train_sft(
            won, sft, out, parent=parent, imagined=imagined, lora=lora, state=job.folder / "sft.state",
            lineage=lineage, progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    return {"id": read_manifest(out).id, "iteration": sft.iterations, "folder": str(out)}


def _imagined(job: Job, config: PipelineConfig, dream: Dream) -> Imagined:
    grpo = grpo_config(job, config)
    sampler = world_model_sampler(
        dream.world, dream.judge, dream.starts, grpo, keyframes=dream.keyframes, cancelled=job.cancelled
    )
    policy = load_trainable(job.checkpoints["policy"], temperature=grpo.temperature)
    return imagined_successes(sampler, policy, grpo, rounds=config.imagined_rounds)


def imagined_successes(sampler: Sampler, policy: TokenPolicy, config: GrpoConfig, *, rounds: int) -> Imagined:
    """Roll a policy out and return the rollouts with the rows that were rewarded.

    Raises:
        ConfigError: none was.
    """
    rng = np.random.default_rng(config.seed)
    scored = sampler(policy, rng)
    for _ in range(rounds - 1):
        scored = join_scored(scored, sampler(policy, rng))
    rows = np.flatnonzero((scored.reward_B > 0.5) & scored.use_B)
    if not len(rows):
        raise ConfigError(f"the judge rewarded none of {len(scored.reward_B)} imagined rollouts; nothing to imitate")
    return scored.rollouts, rows.tolist()


def _of_dream(dream: Dream) -> dict[str, Any]:
    return {
        "world_model": read_manifest(dream.world_model).id,
        "judge": read_manifest(dream.judge_folder).id,
        "register": [str(dream.world_model), str(dream.judge_folder)],
        "audit": dream.passed.report.summary(),
        **dream.passed.to_json(),
    }

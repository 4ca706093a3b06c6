"""Imitation as a job: SFT on recorded successes, and Iter-SFT, which adds imagined ones the judge let pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.practice import Dream, frame_sizes, grpo_config, lineage_of, lora_of, trusted_dream
from cloud_trainer.jobs.reinforce import ground_of, imagined_groups, judge_maker, tell_other_tasks, told_starts
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.practice.grpo.config import GrpoConfig
from cloud_trainer.practice.grpo.scored import join_scored
from cloud_trainer.practice.train import Sampler
from cloud_trainer.sft.trainer import train_sft
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode, Outcome, RolloutBatch

Imagined = tuple[RolloutBatch, Sequence[int]]
"""Rollouts, and the rows that the judge called successes."""


def imitate(job: Job) -> dict[str, Any]:
    """Fine-tune the policy on recorded successes and, with imagined_rounds, on imagined ones (Iter-SFT).

    Returns:
        JSON: candidates [{id, iteration, folder}], register (folders), episodes (count), imagined_successes, folder;
        with imagined_rounds also world_model, judge, audit, other_tasks and what improve() says of them.

    Raises:
        NotTrustedError: with imagined_rounds: the dream or its judge is not good enough.
        ConfigError: nothing to imitate, or an unknown setting.
        CancelledError: asked to stop; the job folder has the last saved step.
    """
    config = PipelineConfig.of(job.spec.get("config", {}))
    _check(config)
    size = frame_sizes(job, config, load_world(job.checkpoints["world_model"], config.dream))["world_model"]
    episodes = load_episodes(job, config.most_episodes, size)
    won = [episode for episode in episodes if episode.outcome is Outcome.SUCCESS]
    if not won:
        raise ConfigError("no recorded success to imitate; collect and label some, by hand or with the scripted expert")
    if not config.imagined_rounds:
        candidate = _fine_tuned(job, config, won, {}, None)
        told: dict[str, Any] = {"register": []}
    else:
        dream = trusted_dream(job, config)
        held_out = told_starts(config, dream)
        won = [episode for episode in won if episode.episode_id not in held_out.episode_ids]
        imagined, lineage = _imagined(job, config, dream, held_out)
        candidate = _fine_tuned(job, config, won, lineage, imagined)
        tell_other_tasks(job, config, dream, held_out, [candidate])
        told = {**_of_dream(dream), "imagined_successes": len(imagined[1])}
    return {
        "imagined_successes": 0, **told, "candidates": [candidate], "episodes": len(won), "folder": str(job.folder),
    }  # fmt: skip


def _check(config: PipelineConfig) -> None:
    """Refuse what imitation cannot use, by name."""
    asked = {"ray": config.ray is not None, "novel": config.novel.asked, "forgetting_starts": config.forgetting_starts}
    if not config.imagined_rounds and (named := [name for name, value in asked.items() if value]):
        raise ConfigError(
            f"{', '.join(named)}: imitation of recorded successes alone imagines nothing; set imagined_rounds above 0, "
            f"or leave out {', '.join(named)}"
        )
    if config.ray is not None and (config.ray.learner_ranks or config.ray.ahead is not None):
        raise ConfigError(
            "ray.learner_ranks and ray.ahead are of reinforcement; imitation spreads its rollouts alone and fine-tunes "
            "in the job's own process: leave them out"
        )


def _fine_tuned(
    job: Job, config: PipelineConfig, won: Sequence[Episode], lineage: Mapping[str, Any], imagined: Imagined | None
) -> dict[str, Any]:
    out, parent, lora = job.folder / "candidates" / "imitation", job.checkpoints["policy"], lora_of(job, config)
    sft = replace(config.sft, seed=job.seed)
    if lora is not None:
        sft = replace(sft, learning_rate=config.lora_rate)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        train_sft(
            won, sft, out, parent=parent, imagined=imagined, lora=lora, device=config.device,
            state=job.folder / "sft.state", lineage=lineage, progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    return {"id": read_manifest(out).id, "iteration": sft.iterations, "folder": str(out)}


def _imagined(job: Job, config: PipelineConfig, dream: Dream, held_out: Clips) -> tuple[Imagined, dict[str, Any]]:
    """Rollouts with their successes, and what the manifest says of where they were dreamt."""
    grpo = grpo_config(job, config)
    ground, told = ground_of(job, config, dream, held_out)
    judge = judge_maker(job, config, dream.judge, dream.judge_folder)
    policy: Any = load_trainable(job.checkpoints["policy"], temperature=grpo.temperature, device=config.device)
    with imagined_groups(job, config, [ground], judge, grpo) as sampler:
        imagined = imagined_successes(sampler, policy, grpo, rounds=config.imagined_rounds)
    lineage = lineage_of(job, dream.world, dream.judge, dream.passed, dream.parts.values(), config)
    return imagined, {"starts": lineage.pop("episodes"), **lineage, **told}  # "episodes" are those that were imitated


def imagined_successes(sampler: Sampler, policy: LearningPolicy, config: GrpoConfig, *, rounds: int) -> Imagined:
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

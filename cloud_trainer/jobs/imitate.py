"""Imitation as a job: SFT on recorded successes, and Iter-SFT, which adds imagined ones the judge let pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.practice import Dream, dreamt_in, frame_sizes, lineage_of, lora_of, trusted_dream
from cloud_trainer.jobs.reinforce import ground_of, imagined_groups, judge_maker, report_other_tasks, reported_starts
from cloud_trainer.practice.grpo.scored import join_scored
from cloud_trainer.practice.train import Sampler
from cloud_trainer.sft.trainer import FRESH, train_sft
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import Candidate, ImitateResult, ImitateSpec
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode, Outcome, RolloutBatch

Imagined = tuple[RolloutBatch, Sequence[int]]
"""Rollouts, and the rows that the judge called successes."""


def imitate(job: Job[ImitateSpec]) -> ImitateResult:
    """Fine-tune the policy on recorded successes and, with imagined_rounds, on imagined ones (Iter-SFT).

    Raises:
        NotTrustedError: with imagined_rounds: the dream or its judge is not good enough.
        ConfigError: nothing to imitate.
        CancelledError: asked to stop; the job folder has the last saved step.
    """
    config = job.spec.config
    size = frame_sizes(job, load_world(job.checkpoints["world_model"], config.dream))["world_model"]
    episodes = load_episodes(job, config.most_episodes, size)
    won = [episode for episode in episodes if episode.outcome is Outcome.SUCCESS]
    if not won:
        raise ConfigError("no recorded success to imitate; collect and label some, by hand or with the scripted expert")
    if not config.imagined_rounds:
        candidate = _fine_tuned(job, won, {}, None)
        return ImitateResult(
            imagined_successes=0, register=(), candidates=(candidate,), episodes=len(won), folder=str(job.folder)
        )
    dream = trusted_dream(job)
    held_out = reported_starts(config, dream)
    won = [episode for episode in won if episode.episode_id not in held_out.episode_ids]
    imagined, lineage = _imagined(job, dream, held_out)
    candidate = _fine_tuned(job, won, lineage, imagined)
    return ImitateResult(
        candidates=report_other_tasks(job, dream, held_out, [candidate]), episodes=len(won),
        imagined_successes=len(imagined[1]), **dreamt_in(job, dream.world_model, dream.judge_folder, dream.passed),
    )  # fmt: skip


def _fine_tuned(
    job: Job[ImitateSpec], won: Sequence[Episode], lineage: Mapping[str, Any], imagined: Imagined | None
) -> Candidate:
    config, lora = job.spec.config, lora_of(job.spec)
    out, fresh = job.folder / "candidates" / "imitation", config.fresh
    parent = None if fresh else job.checkpoints["policy"]
    chosen = {**config.sft.named(), "seed": job.spec.seed}
    sft = SftConfig(**(chosen if lora is None else {**chosen, "learning_rate": config.lora_rate}))
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        train_sft(
            won, sft, out, parent=parent, policy_config=FRESH[fresh]() if fresh else None, imagined=imagined, lora=lora,
            device=config.device, state=job.folder / "sft.state", lineage=lineage, progress=job.progress,
            cancelled=job.cancelled,
        )  # fmt: skip
    return Candidate(id=read_manifest(out).id, iteration=sft.iterations, folder=str(out))


def _imagined(job: Job[ImitateSpec], dream: Dream, held_out: Clips) -> tuple[Imagined, dict[str, Any]]:
    """Rollouts with their successes, and what the manifest says of where they were dreamt."""
    config = job.spec.config
    sampling = GrpoConfig(
        group_size=config.group_size, groups=config.groups, keyframe_share=config.keyframe_share,
        mask_after_success=config.mask_after_success, temperature=config.temperature, seed=job.spec.seed,
    )  # fmt: skip
    ground, beginnings = ground_of(job, dream, held_out)
    judge = judge_maker(job, dream.judge, dream.judge_folder)
    policy: Any = load_trainable(job.checkpoints["policy"], temperature=config.temperature, device=config.device)
    with imagined_groups(job, [ground], judge, sampling) as sampler:
        imagined = imagined_successes(sampler, policy, sampling, rounds=config.imagined_rounds)
    lineage = lineage_of(job, dream.world, dream.judge, dream.passed, dream.parts.values())
    return imagined, {
        "starts": lineage.pop("episodes"),
        **lineage,
        **beginnings,
    }


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

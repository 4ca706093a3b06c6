"""GRPO in Meta-World with its own word for success: what a dream could teach at most."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.metaworld.tasks import starts_of
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.imagine import imagine, join_rollouts
from cloud_trainer.practice.train import Sampler, train
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_core.wire.env_client import RemoteEnv

if TYPE_CHECKING:
    from benchmarks.metaworld.loop import MetaWorldSeed


def practise_truly(work: MetaWorldSeed, base: Path) -> Path:
    """As many updates and rollouts as the job's practice, from the starts that the loop collected from."""
    out, settings = work.folder / "true", work.amounts.improve
    last = out / f"iteration-{settings.grpo_iterations:02d}"
    if last.exists():
        return last
    config = GrpoConfig(
        group_size=settings.group_size, groups=settings.groups, iterations=settings.grpo_iterations,
        learning_rate=settings.learning_rate, seed=work.seed, **settings.grpo.named(),
    )  # fmt: skip
    trainer, state = GrpoTrainer(load_trainable(base, seed=work.seed), config), work.folder / "true.state"
    if state.exists():
        trainer.load(state)
    starts = starts_of("loop", work.seed)[: work.amounts.loop]
    with ExitStack() as stack:
        envs = [stack.enter_context(work.served.env(task)) for task in work.tasks]
        train(
            trainer, _sampler(envs, starts, config), out, parent=read_manifest(base).id, state=state,
            candidate_every=config.iterations, progress=work.show,
        )  # fmt: skip
    return last


def _sampler(envs: Sequence[RemoteEnv], starts: Sequence[int], config: GrpoConfig) -> Sampler:
    """Groups take the tasks in turn; an episode ends with its success, so nothing after it is learned from."""

    def sample(policy: LearningPolicy, rng: np.random.Generator) -> Scored:
        batches, rewards = [], []
        for group in range(config.groups):
            env, start = envs[group % len(envs)], int(rng.choice(starts))
            for _ in range(config.group_size):
                rollout = imagine(env, policy, env.instruction, seed=start, rng=rng, group_B=np.array([group]))
                batches.append(replace(rollout, frame_steps_F=_at_chunks(rollout.frame_steps_F)))
                rewards.append(float(env.succeeded()[0]))
        return Scored(join_rollouts(batches), np.array(rewards, np.float32), np.ones(len(rewards), bool))

    return sample


def _at_chunks(steps_F: np.ndarray) -> np.ndarray:
    """Episodes that end inside a chunk keep their last frame as that chunk's, so that all can be stacked."""
    return 5 * np.arange(len(steps_F), dtype=np.int64)

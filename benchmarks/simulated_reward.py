"""GRPO in the simulator with the true reward: the upper bound that learning in the world model is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.imagine import imagine, join_rollouts
from cloud_trainer.practice.train import Sampler
from gymnast_core.images import area_downsample
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.trainable import LearningPolicy
from gymnast_core.types import IntArray, RolloutBatch
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import TASKS


def simulator_sampler(seeds: Sequence[int], config: GrpoConfig, *, tasks: Sequence[str] = tuple(TASKS)) -> Sampler:
    """Return a sampler of groups in the simulator, rewarded by its state; it masks after success as the dream does.

    Args:
        seeds: start states to draw groups from; take them from the training range.
        config: group sizes.
        tasks: names; groups take them in turn.
    """
    env = SimEnv()

    def length_of(rollout: RolloutBatch) -> IntArray:
        if not config.mask_after_success or env.success_step is None:
            return rollout.length_B
        ends = np.asarray(rollout.frame_steps_F)
        return np.minimum(rollout.length_B, ends[ends >= env.success_step][0])

    def sample(policy: LearningPolicy, rng: np.random.Generator) -> Scored:
        batches, rewards = [], []
        for group in range(config.groups):
            seed, instruction = int(rng.choice(seeds)), TASKS[tasks[group % len(tasks)]].instruction
            for _ in range(config.group_size):
                rollout = imagine(env, policy, instruction, seed=seed, rng=rng, group_B=np.array([group]))
                small = area_downsample(rollout.frames_BFHWC, policy.config.image_size)
                batches.append(replace(rollout, frames_BFHWC=small, length_B=length_of(rollout)))
                rewards.append(float(env.succeeded()))
        rollouts = join_rollouts(batches)
        return Scored(rollouts, np.array(rewards, np.float32), np.ones(len(rewards), bool))

    return sample

"""Sampling for test-time training: some groups in the new scene, some where the policy already worked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cloud_trainer.grpo.trainer import GrpoConfig, Scored, join_scored
from cloud_trainer.jobs.train import Sampler, world_model_sampler
from cloud_trainer.world_model.compact_data import StartState
from cloud_trainer.world_model.compact_model import CompactWorldModel
from gymnast_core.judge import Judge
from gymnast_core.policies.compact import CompactPolicy


def two_scene_sampler(
    there: CompactWorldModel,
    starts_there: Sequence[StartState],
    home: CompactWorldModel,
    starts_home: Sequence[StartState],
    judge: Judge,
    config: GrpoConfig,
    *,
    rehearsal: float,
) -> Sampler:
    """Return a sampler whose groups are split between the new scene and rehearsal at home.

    Args:
        there: the world model with the new scene's background.
        starts_there: recorded beginnings in the new scene.
        home: the world model as it was.
        starts_home: recorded beginnings elsewhere; empty means no rehearsal.
        judge: of both.
        config: its groups are shared out.
        rehearsal: share of the groups at home, 0..1.
    """
    at_home = round(config.groups * rehearsal) if starts_home else 0
    new = world_model_sampler(there, judge, starts_there, replace(config, groups=max(1, config.groups - at_home)))
    if at_home == 0:
        return new
    old = world_model_sampler(home, judge, starts_home, replace(config, groups=at_home))

    def sample(policy: CompactPolicy, rng: np.random.Generator) -> Scored:
        first, second = new(policy, rng), old(policy, rng)
        apart = second.rollouts.group_B + first.rollouts.group_B.max() + 1
        return join_scored(first, replace(second, rollouts=replace(second.rollouts, group_B=apart)))

    return sample

"""A sampler in this process and one world: what a job without a cluster builds, in one call."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_trainer.practice.pieces import Ground, Recipe
from cloud_trainer.practice.sharded import LocalPool, ShardedSampler
from cloud_trainer.progress import Cancelled, never
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.judge import Judge


def local_sampler(
    world: World, judge: Judge, starts: Sequence[StartState], config: GrpoConfig, *,
    keyframes: Sequence[StartState] = (), cancelled: Cancelled = never,
) -> ShardedSampler:  # fmt: skip
    """Sample in this process, in one world; see Ground and LocalPool."""
    grounds = [Ground(lambda: world, starts, keyframes)]
    recipe = Recipe.of(grounds, lambda: judge, None, None, config)
    return ShardedSampler(LocalPool(recipe, cancelled=cancelled), grounds, config)

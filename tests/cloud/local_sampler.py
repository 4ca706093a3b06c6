"""What a job without a cluster builds, in one call each: a sampler in one world, and a learner on any sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.pieces import Ground, Recipe
from cloud_trainer.practice.sharded import LocalPool, ShardedSampler
from cloud_trainer.practice.train import Anchor, Sampler, Training, train
from cloud_trainer.progress import Cancelled, never
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.judge import Judge
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.records.manifest import read_manifest


def local_sampler(
    world: World, judge: Judge, starts: Sequence[StartState], config: GrpoConfig, *,
    keyframes: Sequence[StartState] = (), cancelled: Cancelled = never,
) -> ShardedSampler:  # fmt: skip
    """Sample in this process, in one world; see Ground and LocalPool."""
    grounds = [Ground(lambda: world, starts, keyframes)]
    recipe = Recipe.of(grounds, lambda: judge, None, None, config)
    return ShardedSampler(LocalPool(recipe, cancelled=cancelled), grounds, config)


def run_grpo(
    parent: Path, sampler: Sampler, config: GrpoConfig, out: Path, *, candidate_every: int = 5,
    state: Path | None = None, anchor: Anchor | None = None, lora: LoraSettings | None = None, device: str = "cpu",
    **options: Any,
) -> Training:  # fmt: skip
    """Train a policy on any sampler, e.g. a simulator with the true reward, from its state file where there is one."""
    policy = load_trainable(
        parent, temperature=config.temperature, exploration=config.exploration, lora=lora, seed=config.seed,
        device=device,
    )  # fmt: skip
    trainer = GrpoTrainer(policy, config, anchor=anchor)
    if state is not None and state.exists():
        trainer.load(state)
    name = read_manifest(parent).id
    return train(trainer, sampler, out, parent=name, candidate_every=candidate_every, state=state, **options)

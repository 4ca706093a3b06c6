"""GRPO's speed: rollouts a second by Ray workers, learner tokens a second, where the time goes; and what epochs buy.

    python -m benchmarks.grpo                                   # speed and shares; shipped checkpoints
    python -m benchmarks.grpo --parts epochs --seeds 0 1 2 3 4  # several optimiser epochs against one
    python -m benchmarks.grpo --untrained --json FILE           # fresh weights of the same size: speed only

The epochs part (benchmarks.grpo_epochs) spends the same imagined rollouts in several ways and counts true success in
the simulator, so a higher rate is better sample efficiency.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import grpo_epochs
from benchmarks.policy import Figure, random_compact, show
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.pieces import Ground, Recipe
from cloud_trainer.practice.sharded import Ledger, LocalPool, Pool, ShardedSampler
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.network import CompactWorldModelConfig, CompactWorldNetwork
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.images import area_downsample
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.compact import CompactPolicy
from gymnast_core.policies.processor import use_threads
from gymnast_core.seeds import TRAINING_SEEDS
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import TASKS

TOKENS_PER_ROLLOUT = 15 * 7


@dataclass(frozen=True)
class Setting:
    """What every part works on.

    Attributes:
        checkpoints: folder with policy, world_model and judge.
        starts: recorded beginnings.
        options: of the command line.
    """

    checkpoints: Path
    starts: tuple[StartState, ...]
    options: argparse.Namespace

    @property
    def grounds(self) -> list[Ground]:
        """Where rollouts begin."""
        return [Ground(self.recipe.worlds[0], self.starts)]

    @property
    def recipe(self) -> Recipe:
        """How workers build themselves."""
        return Recipe(
            (functools.partial(load_world, self.checkpoints / "world_model"),),
            functools.partial(LearnedJudge.load, self.checkpoints / "judge"),
            self.checkpoints / "policy",
        )


def main() -> int:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--untrained", action="store_true", help="fresh weights of the shipped sizes; speed only")
    parser.add_argument("--parts", nargs="+", default=["workers", "learner"], choices=list(PARTS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], help="Ray rollout actors to try")
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--iterations", type=int, default=10, help="of the epochs part")
    parser.add_argument("--arms", nargs="+", default=["1:2e-4", "2:2e-4", "4:2e-4", "1:8e-4"], metavar="EPOCHS:RATE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--eval-starts", type=int, default=50, help="start states per task")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    use_threads()
    if options.untrained and "epochs" in options.parts:
        raise ConfigError("--untrained has nothing to improve; leave out --parts epochs, or pass --checkpoints")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = untrained(Path(scratch)) if options.untrained else options.checkpoints
        setting = Setting(folder, simulator_starts(), options)
        figures = [figure for part in options.parts for figure in PARTS[part](setting)]
    machine = {
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "threads": 1,
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "untrained": options.untrained,
    }
    show(figures, machine)
    if options.json:
        rows = [figure.__dict__ for figure in figures]
        options.json.write_text(json.dumps({"machine": machine, "figures": rows}, indent=1) + "\n")
    return 0


def simulator_starts(per_task: int = 16) -> tuple[StartState, ...]:
    """First frames of the simulator, downsampled as recorders do."""
    env = SimEnv()
    try:
        return tuple(_starts(env, per_task))
    finally:
        env.close()


def _starts(env: SimEnv, per_task: int) -> Iterator[StartState]:
    for task in TASKS.values():
        for seed in TRAINING_SEEDS[700_000 : 700_000 + per_task]:
            seen = env.reset(task.instruction, seed=seed)
            frame = area_downsample(seen.images[env.spec.cameras[0]][0], 64)
            yield StartState(frame, frame, seen.proprio_BP[0], task.instruction, 0, f"sim-{task.name}-{seed}", 15)


def untrained(folder: Path) -> Path:
    """Write fresh checkpoints of the shipped sizes; the judge pays half by chance."""
    torch.manual_seed(0)
    random_compact().save(folder / "policy")
    camera = (0.0, -100.0, 0.0, 32.0, -100.0, 0.0, 0.0, 60.0, 0.0, 0.0, 0.0, 1.0)
    world = CompactWorldModel(CompactWorldNetwork(CompactWorldModelConfig(camera)), np.full((64, 64, 3), 120, np.uint8))
    world.save(folder / "world_model")
    LearnedJudge(JudgeNetwork(JudgeConfig())).save(folder / "judge")
    return folder


def workers(setting: Setting) -> list[Figure]:
    """Rollouts a second in this process and on Ray, same pieces of work."""
    figures = _speed("in this process", LocalPool(setting.recipe), setting)
    if setting.options.workers:
        import ray

        from cloud_trainer.practice.ray.pool import RayPool
        from gymnast_core.jobs.cluster import RayConfig

        ray.init(
            num_cpus=max(2, os.cpu_count() or 2),
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        try:
            for count in setting.options.workers:
                pool = RayPool(setting.recipe, RayConfig(rollout_actors=count, cpus_per_actor=0.25))
                figures += _speed(f"Ray, {count} rollout actor(s) + 1 judge actor", pool, setting)
        finally:
            ray.shutdown()
    return figures


def _speed(name: str, pool: Pool, setting: Setting) -> list[Figure]:
    config = GrpoConfig(groups=setting.options.groups)
    policy = CompactPolicy.load(setting.checkpoints / "policy", row_by_row=False)
    sampler = ShardedSampler(pool, setting.grounds, config)
    try:
        sampler(policy, np.random.default_rng(0))  # actors start, weights travel
        sampler.ledger = Ledger()
        sampler(policy, np.random.default_rng(1))
        ledger = sampler.ledger
    finally:
        pool.close()
    busy = sum(ledger.seconds.values())
    shares = ", ".join(f"{part} {100 * spent / busy:.0f} %" for part, spent in sorted(ledger.seconds.items()))
    return [
        Figure(
            f"rollouts a second, {name}",
            ledger.rollouts / ledger.wall_s,
            "1/s",
            f"{ledger.rollouts} rollouts of 15 steps; worker time: {shares}",
        )
    ]


def learner(setting: Setting) -> list[Figure]:
    """One whole iteration in this process: sampling and learning."""
    config = GrpoConfig(groups=setting.options.groups, keep_low=0.0, keep_high=1.0)
    trainer = GrpoTrainer(CompactPolicy.load(setting.checkpoints / "policy", row_by_row=False), config)
    pool = LocalPool(setting.recipe)
    sampler = ShardedSampler(pool, setting.grounds, config)
    scored = _balanced(sampler(trainer.policy, trainer.rng))
    begin = time.perf_counter()
    report = trainer.update(scored)
    learning = time.perf_counter() - begin
    tokens = report.trajectories * TOKENS_PER_ROLLOUT * config.epochs
    spent = dict(sampler.ledger.seconds) | {"learner": learning}
    idle = max(0.0, sampler.ledger.wall_s - sum(sampler.ledger.seconds.values()))
    whole = sampler.ledger.wall_s + learning
    parts = [
        Figure(f"share of an iteration: {name}", 100 * seconds / whole, "%")
        for name, seconds in [*sorted(spent.items()), ("idle and hand-over", idle)]
    ]
    note = f"{config.epochs} epochs over {report.trajectories} rollouts"
    return [Figure("learner tokens a second", tokens / learning, "1/s", note), *parts]


def _balanced(scored: Scored) -> Scored:
    """Make every group informative, so that the learner's full load is timed whatever the judge says."""
    reward = np.arange(len(scored.reward_B), dtype=np.float32) % 2
    return replace(scored, reward_B=reward, use_B=np.ones(len(reward), bool))


def epochs(setting: Setting) -> list[Figure]:
    """Several optimiser epochs per batch against one, see benchmarks.grpo_epochs."""
    return grpo_epochs.epochs(setting.checkpoints, setting.starts, setting.options)


PARTS: dict[str, Callable[[Setting], list[Figure]]] = {"workers": workers, "learner": learner, "epochs": epochs}


if __name__ == "__main__":
    sys.exit(main())

"""What each way of improving the base policy is worth, on the same fresh start states, in the simulator.

    python -m benchmarks.learning --seed 0 --variants base base_sampled grpo more_sft iter_sft grpo_simulator

Shipped policy, world model and judge; nothing is refined. Every variant may use 1,920 rollouts or as many optimiser
seconds: GRPO and Iter-SFT imagine them, the upper bound plays them in the simulator with the true reward, more SFT
steps see the demonstrations again. One line of JSON per variant is appended to --out; start states are those of
EVALUATION_SEEDS, which nothing is trained on or chosen with.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.simulated_reward import simulator_sampler
from cloud_trainer.grpo.trainer import GrpoConfig
from cloud_trainer.jobs.imagine import join_rollouts
from cloud_trainer.jobs.train import run_grpo, world_model_sampler
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.sft.trainer import SftConfig, train_sft
from cloud_trainer.world_model.compact_data import StartState, clips_of, starts_of
from cloud_trainer.world_model.compact_model import CompactWorldModel
from gymnast_cli.pretrain_data import Order, collect_orders, load_episodes
from gymnast_core.policies import load_policy
from gymnast_core.policies.compact import CompactPolicy
from gymnast_core.statistics import PairCounts, mcnemar_exact, paired_difference, wilson_interval
from gymnast_ros.sim.collect import Trial, evaluate
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import EVALUATION_SEEDS, TASKS


@dataclass(frozen=True)
class Setting:
    """Where things are and how much of them.

    Attributes:
        checkpoints: folder with policy, world_model and judge.
        demos: the demonstrations of `make pretrain`, for the SFT variants.
        work: scratch folder.
        seed: of starts, sampling and shuffling.
        episodes: per task, recorded by the base policy as start states.
        iterations: of GRPO.
        sft_steps: of the SFT variants.
    """

    checkpoints: Path
    demos: Path
    work: Path
    seed: int
    episodes: int
    iterations: int
    sft_steps: int

    @property
    def base(self) -> Path:
        """The base policy."""
        return self.checkpoints / "policy"

    @property
    def grpo(self) -> GrpoConfig:
        """The recipe."""
        return GrpoConfig(seed=self.seed, iterations=self.iterations)


def main() -> int:
    """Run the variants asked for and append their results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--demos", type=Path, default=Path("runs/pretrain/demos.npz"))
    parser.add_argument("--work", type=Path, default=Path("runs/learning"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/learning.jsonl"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=100, help="start states per task in the evaluation")
    parser.add_argument("--episodes", type=int, default=100, help="on-policy episodes per task, as start states")
    parser.add_argument("--iterations", type=int, default=GrpoConfig().iterations)
    parser.add_argument("--sft-steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(
        options.checkpoints,
        options.demos,
        options.work / f"seed-{options.seed}",
        options.seed,
        options.episodes,
        options.iterations,
        options.sft_steps,
    )
    base = _evaluated(setting.base, options.starts)
    for name in options.variants:
        began = time.monotonic()
        folder = VARIANTS[name](setting)
        seconds = time.monotonic() - began
        rng = np.random.default_rng(setting.seed) if name == "base_sampled" else None
        trials = base if name == "base" else _evaluated(folder, options.starts, rng)
        line = _summary(name, setting, base, trials) | {"train_seconds": round(seconds, 1)}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    return 0


def _base(setting: Setting) -> Path:
    return setting.base


def _grpo(setting: Setting) -> Path:
    model, judge = CompactWorldModel.load(setting.checkpoints / "world_model"), _judge(setting)
    sampler = world_model_sampler(model, judge, _starts(setting), setting.grpo)
    return _fresh_run(setting, "grpo", sampler)


def _grpo_simulator(setting: Setting) -> Path:
    first = 600_000 + 10_000 * setting.seed
    return _fresh_run(setting, "grpo_simulator", simulator_sampler(range(first, first + 10_000), setting.grpo))


def _fresh_run(setting: Setting, name: str, sampler: Any) -> Path:
    out = setting.work / name
    shutil.rmtree(out, ignore_errors=True)
    run = run_grpo(setting.base, sampler, setting.grpo, out, progress=_show)
    return run.candidates[-1].folder


def _more_sft(setting: Setting) -> Path:
    return _sft(setting, "more_sft", None)


def _iter_sft(setting: Setting) -> Path:
    """Imitate the imagined rollouts that the judge calls successes, mixed 1:1 with demonstrations."""
    model, judge = CompactWorldModel.load(setting.checkpoints / "world_model"), _judge(setting)
    sampler = world_model_sampler(model, judge, _starts(setting), setting.grpo)
    policy = CompactPolicy.load(setting.base, row_by_row=False)
    rng = np.random.default_rng(setting.seed)
    rounds = [sampler(policy, rng) for _ in range(setting.iterations)]
    rollouts = join_rollouts([scored.rollouts for scored in rounds])
    good = np.flatnonzero(np.concatenate([scored.reward_B * scored.use_B for scored in rounds]) > 0)
    return _sft(setting, "iter_sft", (rollouts, [int(row) for row in good]))


def _sft(setting: Setting, name: str, imagined: Any) -> Path:
    out = setting.work / name
    shutil.rmtree(out, ignore_errors=True)
    config = SftConfig(iterations=setting.sft_steps, learning_rate=3e-4, seed=setting.seed)
    train_sft(load_episodes(setting.demos), config, out, parent=setting.base, imagined=imagined, progress=_show)
    return out


def _judge(setting: Setting) -> LearnedJudge:
    return LearnedJudge.load(setting.checkpoints / "judge")


def _starts(setting: Setting) -> list[StartState]:
    first = 500_000 + 10_000 * setting.seed
    seeds = tuple(range(first, first + setting.episodes))
    episodes = collect_orders([Order("policy", task, seeds, setting.base) for task in TASKS], 1)
    return starts_of(clips_of(episodes, 64))


VARIANTS: dict[str, Callable[[Setting], Path]] = {
    "base": _base,
    "base_sampled": _base,
    "grpo": _grpo,
    "more_sft": _more_sft,
    "iter_sft": _iter_sft,
    "grpo_simulator": _grpo_simulator,
}


def _evaluated(folder: Path, starts: int, rng: np.random.Generator | None = None) -> list[Trial]:
    env = SimEnv()
    trials = evaluate(env, load_policy(folder), EVALUATION_SEEDS[:starts], rng=rng)
    env.close()
    return trials


def _summary(name: str, setting: Setting, base: list[Trial], trials: list[Trial]) -> dict[str, Any]:
    successes = sum(trial.succeeded for trial in trials)
    rate = wilson_interval(successes, len(trials))
    pairs = PairCounts.of([trial.succeeded for trial in base], [trial.succeeded for trial in trials])
    difference = paired_difference(pairs)
    tasks = {
        task: round(float(np.mean([trial.succeeded for trial in trials if trial.task == task])), 4) for task in TASKS
    }
    return {
        "variant": name,
        "seed": setting.seed,
        "iterations": setting.iterations,
        "successes": successes,
        "n": len(trials),
        "rate": [round(rate.low, 4), round(successes / len(trials), 4), round(rate.high, 4)],
        "minus_base": [round(difference.low, 4), round(difference.high, 4)],
        "mcnemar_p": mcnemar_exact(pairs),
        "tasks": tasks,
    }


def _show(event: ProgressEvent) -> None:
    if event.stage != "sft" or event.step % 100 == 0:
        numbers = " ".join(f"{name}={value:.3f}" for name, value in event.metrics.items())
        print(f"  {event.stage} {event.step}/{event.total} {numbers}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

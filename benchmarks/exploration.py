"""What exploring costs a policy's success, and what it finds from start states of which its greedy try fails.

Each cell is one policy and one temperature (0 is greedy): success of each skill, the share of greedily failed start
states that one sampled try solves (`found`), and how far a sampled step, chunk and half an episode land from the greedy
one; then success while both pairs are practised, by temperature. Each cell
is written when it is done; the same command goes on where the file ends.

python -m benchmarks.exploration --policy base0=FOLDER base1=FOLDER --json benchmarks/exploration_cpu2_202611.json
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.practice import FIRST_EVALUATED, Cells, Night
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.policy import Policy
from gymnast_core.sampling import set_temperature
from gymnast_ros.sim.collect import evaluate
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import RESET_OF, task_for

SKILLS = tuple(name for task in ("put", "drawer") for name in (task, RESET_OF[task]))
HALF = 3
"""Chunks after which an arm has grasped, or has not."""


def won(policy: Policy, rng: np.random.Generator | None, starts: int) -> list[bool]:
    """Whether each start state of each skill succeeded; greedy without a generator."""
    world = SimEnv()
    trials = evaluate(world, policy, range(FIRST_EVALUATED, FIRST_EVALUATED + starts), tasks=SKILLS, rng=rng)
    world.close()
    return [trial.succeeded for trial in trials]


def strays(policy: Policy, rng: np.random.Generator, starts: int) -> dict[str, float]:
    """Standard deviation of what is sampled, by axis [mm]: one step, a chunk's sum, and HALF chunks of such sums."""
    world, apart = SimEnv(), []
    for name in SKILLS:
        words = [task_for(name).instruction]
        for start in range(FIRST_EVALUATED, FIRST_EVALUATED + starts):
            observation = world.reset(words[0], seed=start)
            sampled, likeliest = (policy.act(observation, words, rng=one).actions_BKA for one in (rng, None))
            apart.append(1e3 * (sampled - likeliest)[0, :, :3])
    world.close()
    apart_NKX = np.stack(apart)
    chunk_mm = float(apart_NKX.sum(1).std())
    return {"step_mm": float(apart_NKX.std()), "chunk_mm": chunk_mm, "half_mm": chunk_mm * HALF**0.5}


def cell(folder: Path, temperature: float, greedy: Sequence[bool], starts: int, seed: int) -> dict[str, object]:
    """One policy at one temperature."""
    policy = load_policy(folder)
    moves, rng = {}, None
    if temperature:
        set_temperature(policy, temperature)
        moves, rng = strays(policy, np.random.default_rng([seed, 8]), 10), np.random.default_rng([seed, 7])
    rows = won(policy, rng, starts)
    interval = wilson_interval(sum(rows), len(rows))
    lost = [row for row, before in zip(rows, greedy, strict=True) if not before] if greedy else []
    return {
        "n": len(rows), "success": sum(rows) / len(rows), "low": interval.low, "high": interval.high,
        "skills": {name: sum(rows[at :: len(SKILLS)]) / starts for at, name in enumerate(SKILLS)},
        **({"found": sum(lost) / len(lost), "failed_greedily": len(lost)} if lost else {}), **moves, "won": rows,
    }  # fmt: skip


def practised(folder: Path, temperature: float, episodes: int, seed: int) -> dict[str, object]:
    """Both pairs practised in turns, each episode sampled at this temperature, as `gymnast practise` does it."""
    done = won_there = calls = 0
    for task in ("put", "drawer"):
        world = SimEnv()
        with tempfile.TemporaryDirectory() as work:
            policy = load_policy(folder)
            set_temperature(policy, temperature)
            state = Night(Path(work), world, task, policy, None, harm={}, seed=seed).run(episodes=episodes, sample=seed)
        world.close()
        done, calls = done + state.episodes, calls + state.interventions
        won_there += state.task.successes + state.reset.successes
    interval = wilson_interval(won_there, done)
    return {"n": done, "success": won_there / done, "low": interval.low, "high": interval.high, "interventions": calls}


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", nargs="+", required=True, metavar="NAME=FOLDER", help="each knows both pairs")
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0, 0.5, 0.25, 0.1])
    parser.add_argument("--starts", type=int, default=60, help="of each skill")
    parser.add_argument("--practised", nargs="+", type=float, default=[1.0, 0.25], help="temperatures of practice")
    parser.add_argument("--episodes", type=int, default=110, help="of practice, of each pair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    use_threads()
    logging.disable(logging.WARNING)
    cells = Cells(args.json)
    for name, folder in (given.split("=", 1) for given in args.policy):
        greedy = cells.get(f"{name}/greedy", lambda folder=folder: cell(Path(folder), 0.0, (), args.starts, args.seed))  # type: ignore[misc]
        for temperature in args.temperatures:
            cells.get(f"{name}/{temperature:g}", lambda folder=folder, t=temperature, before=greedy: cell(
                Path(folder), t, before["won"], args.starts, args.seed))  # type: ignore[misc, arg-type]  # fmt: skip
        for temperature in args.practised:
            cells.get(f"{name}/practised at {temperature:g}", lambda folder=folder, t=temperature: practised(
                Path(folder), t, args.episodes, args.seed))  # type: ignore[misc]  # fmt: skip


if __name__ == "__main__":
    main()

"""Do plans from words and a picture succeed when an arm plays them?

    python -m benchmarks.plans --json benchmarks/plans_cpu2_202611.json

Collects sampled episodes of the base policy in the simulator, trains the compact planner on its successes and inverse
dynamics on all of them, and plays its plans from fresh start states (no episode that anything learned from or was
chosen with) beside the policy that made the recordings, greedily, each from the same states. Arms:

policy     the base policy, which looks again every 5 steps
plan       one plan of 15 steps from the first picture, played to its end
best4      the best of 4 by what the judge sees in their drawn frames
dreamt4    the best of 4 by what the judge sees when their actions are dreamt in the world model
replan     one plan every 5 steps, of which 5 are played

What is there in --out is not made again. Intervals are Wilson's; differences are paired by start state.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.unseen import flat, over_starts, rates, show, shown, succeeded
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.practice.plan_policy import PlanPolicy
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.planner.choice import load_planner
from cloud_trainer.world_model.planner.train import PlannerTraining, train_planner
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.episodes.archive import load_episodes, save_episodes
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.policy import Policy
from gymnast_core.records.manifest import WEIGHTS_NAME
from gymnast_core.seeds import TRAINING_SEEDS
from gymnast_core.types import Episode
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import MAX_STEPS, SimEnv
from gymnast_ros.sim.tasks import TASKS

FIRST_RECORDED = TRAINING_SEEDS.start + 920_000


def main() -> int:
    """Measure what is missing; print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="policy/, world_model/ and judge/"
    )
    parser.add_argument("--recorded", type=int, default=250, help="episodes a task that the planner learns from")
    parser.add_argument("--iterations", type=int, default=1500, help="of the planner")
    parser.add_argument("--inverse-iterations", type=int, default=600, help="of inverse dynamics")
    parser.add_argument("--starts", type=int, default=25, help="of each of the four tasks")
    parser.add_argument("--arms", default="policy,plan,best4,dreamt4,replan", help="comma separated")
    parser.add_argument("--out", type=Path, default=Path("runs/plans"), help="what is made is kept here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", choices=("recordings", "planner"), help="stop once this is there")
    args = parser.parse_args()
    use_threads()
    args.out.mkdir(parents=True, exist_ok=True)
    episodes = recorded(args)
    if args.only == "recordings":
        return 0
    began = time.process_time()
    folder = planner(args, episodes)
    trained_s = time.process_time() - began
    if args.only == "planner":
        return 0
    rows = {arm: measured(arm, folder, args) for arm in args.arms.split(",")}
    arms = {arm: summary(row, rows["policy"]) for arm, row in rows.items()}
    found = {
        "recorded": len(episodes), "successes": sum(episode.outcome.value == "success" for episode in episodes),
        "planner_bytes": (folder / WEIGHTS_NAME).stat().st_size, "training_cpu_s": round(trained_s),
        "inverse_error": inverse_error(folder, args), "arms": arms,
    }  # fmt: skip
    print(table(arms))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def recorded(args: argparse.Namespace, *, first: int = FIRST_RECORDED, name: str = "recorded") -> list[Episode]:
    """Return sampled episodes of the base policy, drawn where a plan has frames; recorded once, task by task."""
    policy, episodes = load_policy(args.checkpoints / "policy"), []
    for number, task in enumerate(TASKS):
        path = args.out / f"{name}-{task}-{args.recorded}.npz"
        if not path.exists():
            env, looked = SimEnv(), range(0, MAX_STEPS + 1, policy.chunk_length)
            seeds, rng = range(first, first + args.recorded), np.random.default_rng(number)
            save_episodes(path, collect(env, policy, task, seeds, frame_steps=looked, rng=rng))
            env.close()
            print(f"{task}: recorded {args.recorded}", file=sys.stderr, flush=True)
        episodes += load_episodes(path)
    return episodes


def planner(args: argparse.Namespace, episodes: list[Episode]) -> Path:
    """Return the planner's checkpoint folder; a run that was stopped goes on."""
    folder: Path = args.out / f"planner-{args.recorded}-{args.iterations}-{args.inverse_iterations}"
    if not folder.exists():
        config = PlannerTraining(iterations=args.iterations, inverse_iterations=args.inverse_iterations)
        state = folder.with_suffix(".state")
        train_planner(clips_of(episodes, 64), config, folder, state=state, progress=show)
    return folder


def measured(arm: str, folder: Path, args: argparse.Namespace) -> dict[str, list[bool]]:
    """Return which start states of each task an arm succeeds from; measured once."""
    path = args.out / f"{folder.name}-{arm}-{args.starts}.json"
    if not path.exists():
        began, env = time.process_time(), SimEnv()
        won = succeeded(env, driver(arm, folder, args), args.starts)
        env.close()
        path.write_text(json.dumps(won))
        print(f"{arm}: {np.mean(flat(won)):.3f}, {time.process_time() - began:.0f} CPU s", file=sys.stderr, flush=True)
    found: dict[str, list[bool]] = json.loads(path.read_text())
    return found


def driver(arm: str, folder: Path, args: argparse.Namespace) -> Policy:
    """Return what drives the arm."""
    if arm == "policy":
        return load_policy(args.checkpoints / "policy")
    judge = LearnedJudge.load(args.checkpoints / "judge") if arm.endswith("4") else None
    world = load_world(args.checkpoints / "world_model") if arm == "dreamt4" else None
    best_of, play = 4 if judge is not None else 1, 5 if arm == "replan" else None
    return PlanPolicy(load_planner(folder), judge=judge, world=world, best_of=best_of, play=play)


def inverse_error(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return how far inverse dynamics is off on recorded frames that nothing learned from."""
    own = argparse.Namespace(**{**vars(args), "recorded": 20})
    clips = clips_of(recorded(own, first=FIRST_RECORDED + 40_000, name="held"), 64)
    made: Any = load_planner(folder)
    chunk = made.config.chunk
    with torch.no_grad():
        film = made.to_input(clips.frames_NTHWC[:, ::chunk])
        said = made.inverse.actions(film[:, :-1].flatten(0, 1), film[:, 1:].flatten(0, 1)).numpy()
    off = said.reshape(clips.actions_NTA.shape) - clips.actions_NTA
    chunks = off[..., :3].reshape(len(clips), -1, chunk, 3).sum(axis=2)
    return {
        "step_mm": 1000 * float(np.linalg.norm(off[..., :3], axis=-1).mean()),
        "chunk_mm": 1000 * float(np.linalg.norm(chunks, axis=-1).mean()),
        "gripper_wrong": float((np.abs(off[..., 6]) > 0.5).mean()),
    }


def summary(won: Mapping[str, list[bool]], policy: Mapping[str, list[bool]]) -> dict[str, Any]:
    """Return an arm's rates, and its difference to the policy from the same states."""
    apart = np.array(flat(won), float) - np.array(flat(policy), float)
    return {**rates(won), "difference": over_starts(apart)}


def table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a markdown table."""
    lines = ["| arm | success | difference to the policy | by task |", "|---" * 4 + "|"]
    for arm, row in arms.items():
        tasks = ", ".join(f"{task} {value:.2f}" for task, value in row["tasks"].items())
        lines.append(f"| {arm} | {shown(row)} | {shown(row['difference'])} | {tasks} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

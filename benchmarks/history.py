"""Does a policy that looks back find out within an episode how its arm errs?

    python -m benchmarks.history                    # five seeds; goes on where it was interrupted
    python -m benchmarks.history --report           # only write what is there

Every episode is 30 steps on an arm of its own that errs (gymnast_ros.sim.actuation): moves land beside their aim, are
too long or short, begin up to two steps late; things slip. The same demonstrations, sizes and updates for both
policies; only past_steps differs: 16, or 0 (it sees picture and pose of the moment: K = 1). Seen arms are drawn as in
training, of other seeds; unseen ones land further beside their aim than any in training. Greedy, 50 start states of
each task, the same ones for all; nothing is chosen, the last update is evaluated. "Second half" is the share that
succeeds in steps 16 to 30 of the episodes that had not by step 15.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from cloud_trainer.progress import ProgressEvent
from cloud_trainer.sft.trainer import train_sft
from gymnast_core.episodes.archive import Share, load_episodes, save_episodes
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies import load_policy
from gymnast_core.policies.history import HistoryPolicyConfig
from gymnast_core.policies.processor import use_threads
from gymnast_core.policy import Policy
from gymnast_core.rollout import run_episode
from gymnast_core.types import PAST_STEPS, Episode
from gymnast_ros.sim.actuation import TWO_TRIES, ActuatedEnv, ActuationRange, CompensatingExpert
from gymnast_ros.sim.drivers import collect_shares
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import TASKS

LOOKS_BACK = {"K = 16": PAST_STEPS, "K = 1": 0}
ARMS = {"seen": ActuationRange(), "unseen offset": ActuationRange(aim_offset_m=(0.015, 0.025))}
DEMONSTRATIONS = 350
"""Per task."""
FIRST_START = 4_000_000
OPERATOR = "operator who knows"


def main() -> int:
    """Collect, train and evaluate, and write table and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma separated")
    parser.add_argument("--updates", type=int, default=2400, help="optimiser steps of each policy")
    parser.add_argument("--starts", type=int, default=50, help="per task")
    parser.add_argument("--out", type=Path, default=Path("runs/history"), help="working folder")
    parser.add_argument("--report", action="store_true", help="only write what is there")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    use_threads()
    rows: list[dict[str, object]] = []
    for seed in map(int, args.seeds.split(",")):
        folder = args.out / f"seed-{seed}"
        if not args.report:
            one_seed(folder, seed, args.updates, args.starts)
        if (folder / "result.json").exists():
            rows.append(json.loads((folder / "result.json").read_text()))
    print(table(rows))
    if args.json is not None:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return 0


def one_seed(folder: Path, seed: int, updates: int, starts: int) -> None:
    """Train both policies of a seed on its demonstrations, and evaluate them; what is there is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    found = json.loads(path.read_text()) if path.exists() else {"seed": seed, "starts": starts, "updates": updates}
    demonstrations: list[Episode] = []
    for name, steps in LOOKS_BACK.items():
        if name in found:
            continue
        made = folder / f"past-{steps}"
        if not made.exists():
            demonstrations = demonstrations or demonstrated(folder / "demonstrations.npz", seed)
            train_sft(
                demonstrations, SftConfig(iterations=updates, seed=seed), made,
                policy_config=HistoryPolicyConfig(past_steps=steps), state=folder / f"past-{steps}.state",
                progress=show,
            )  # fmt: skip
        policy = load_policy(made)
        found[name] = {arms: success_steps(policy, errs, starts) for arms, errs in ARMS.items()}
        path.write_text(json.dumps(found) + "\n")
    if OPERATOR not in found:
        found[OPERATOR] = {arms: success_steps(None, errs, starts) for arms, errs in ARMS.items()}
        path.write_text(json.dumps(found) + "\n")


def demonstrated(path: Path, seed: int) -> list[Episode]:
    """Return the operator's episodes of a seed."""
    if not path.exists():
        first = seed * 200_000
        seeds = tuple(range(first, first + DEMONSTRATIONS))
        save_episodes(path, collect_shares([Share("erring", task, seeds) for task in TASKS], 1))
    return load_episodes(path)


def success_steps(policy: Policy | None, errs: ActuationRange, starts: int) -> list[int | None]:
    """Return in which step each episode succeeded first; without a policy, of the operator who knows the arm."""
    env, steps = ActuatedEnv(SimEnv(max_steps=TWO_TRIES), errs), []
    for task in TASKS.values():
        for start in range(FIRST_START, FIRST_START + starts):
            driver = policy or CompensatingExpert(env, rng=np.random.default_rng(start))
            run_episode(env, driver, task.instruction, seed=start)
            steps.append(env.success_step)
    env.close()
    return steps


def halves(steps: Sequence[int | None]) -> tuple[float, float, float]:
    """Return success by the end, by the middle, and in the second half of those that had not by the middle."""
    by_middle = np.array([step is not None and step <= TWO_TRIES // 2 for step in steps])
    by_end = np.array([step is not None for step in steps])
    return float(by_end.mean()), float(by_middle.mean()), float(by_end[~by_middle].mean())


def over_seeds(values: Sequence[float]) -> str:
    """Return values, their mean and the 95 % t-interval over seeds."""
    each, mean = " ".join(f"{value:.3f}" for value in values), float(np.mean(values))
    if len(values) < 2:
        return each
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{each}; {mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return a markdown table: every policy and arm, then the paired differences, by seed."""
    lines = ["| arms | policy | success | first half | second half |", "|---|---|---|---|---|"]
    for arms in ARMS:
        figures = {
            name: np.array([halves(row[name][arms]) for row in rows if name in row])  # type: ignore[index]
            for name in (*LOOKS_BACK, OPERATOR)
        }
        figures = {name: values for name, values in figures.items() if len(values)}
        if {*LOOKS_BACK} <= set(figures) and len(figures["K = 16"]) == len(figures["K = 1"]):
            figures["K = 16 minus K = 1"] = figures["K = 16"] - figures["K = 1"]
        for name, values in figures.items():
            lines.append(f"| {arms} | {name} | " + " | ".join(over_seeds(column) for column in values.T) + " |")
    return "\n".join(lines)


def show(event: ProgressEvent) -> None:
    """Print now and then how far training is."""
    if event.step % 200 == 0:
        print(f"{event.stage} {event.step}/{event.total} {dict(event.metrics)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

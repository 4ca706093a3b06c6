"""What test-time training gains in a scene and forgets elsewhere, and what the imagined check said of it beforehand.

`python -m benchmarks.forgetting --run runs/demo_seeds/seed-0 --policy iteration-04` takes what a seed of
`benchmarks.learning` left (episodes, refined world model and judge, a practised policy), records 40 sampled episodes in
the scene, runs the trainer's adapt job on them, and evaluates before and after in the simulator, greedily, from the
same start states: the task in the scene, every task in the standard scene. Every candidate the check looked at is
evaluated, refused ones too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.keep_rule import KeepRule, judge_trial
from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import never, silent
from gymnast_core.episodes import read_summary, write_episode
from gymnast_core.errors import NotTrustedError
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.jobs import AdaptSettings, AdaptSpec
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import read_manifest
from gymnast_core.seeds import EVALUATION_SEEDS, TRAINING_SEEDS
from gymnast_ros.sim.collect import collect, evaluate
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.scene import scene_named
from gymnast_ros.sim.tasks import TASKS

COLLECT_FROM = TRAINING_SEEDS.start + 995_000
EVALUATE_FROM = EVALUATION_SEEDS.start + 990_000


def main() -> int:
    """Run one adaptation and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo_seeds/seed-0"), help="folder of one seed")
    parser.add_argument("--policy", default="iteration-04", help="which of its candidates")
    parser.add_argument("--scene", default="pink_cube")
    parser.add_argument("--task", default="lift", choices=sorted(TASKS))
    parser.add_argument("--mode", default="full", choices=("full", "lora"))
    parser.add_argument("--config", type=json.loads, default={}, help="JSON settings of the job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=40, help="per task")
    parser.add_argument("--out", type=Path, default=Path("runs/forgetting"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    use_threads()
    figures = measure(args)
    Console().print(table_of(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Collect, adapt, evaluate; returns JSON figures."""
    base = args.run / "job-1" / "candidates" / args.policy
    folder = args.out / f"{args.run.name}-{args.scene}-{args.task}-{args.mode}-{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    there, home = SimEnv(scene=scene_named(args.scene)), SimEnv()
    paths = record_there(there, base, args, folder / "episodes")
    paths = [*sorted((args.run / "episodes").glob("*.mcap")), *paths]
    files = [Recorded(path, read_summary(path).end.outcome.value) for path in paths]
    checkpoints = {"policy": base, **{kind: args.run / "job-1" / kind for kind in ("world_model", "judge")}}
    spec = AdaptSpec(
        policy=read_manifest(base).id, seed=args.seed, config=AdaptSettings(**args.config), scene=args.scene,
        instruction=TASKS[args.task].instruction, budget_s=7200.0, mode=args.mode,
    )  # fmt: skip
    figures: dict[str, Any] = {
        "spec": spec.to_json(),
        "run": args.run.name,
        "policy": args.policy,
        "starts": args.starts,
    }
    started = time.process_time()
    try:
        result = adapt(Job(spec, checkpoints, files, folder, silent, never)).to_json()
    except NotTrustedError as refusal:
        return {**figures, "refused": str(refusal), "candidates": []}
    figures |= {"train_cpu_s": time.process_time() - started, "refused": result.get("refused", "")}
    figures |= {name: result[name] for name in ("audit", "imagined_reward")}
    before = trials(there, home, base, args)
    figures["candidates"] = [
        {"iteration": tried["iteration"], "check": tried, **compared(before, trials(there, home, path, args))}
        for tried in result.get("forgetting_tried", [])
        for path in [folder / "candidates" / f"iteration-{tried['iteration']:02d}"]
    ]
    return figures


def record_there(env: SimEnv, policy: Path, args: argparse.Namespace, out: Path) -> list[Path]:
    """Record what the robot would: sampled episodes of the running policy in the scene."""
    out.mkdir(exist_ok=True)
    if not (found := sorted(out.glob("*.mcap"))):
        rng = np.random.default_rng([args.seed, 77])
        seeds = range(COLLECT_FROM + args.seed * 100, COLLECT_FROM + args.seed * 100 + 40)
        for episode in collect(env, load_policy(policy), args.task, seeds, rng=rng, frame_size=64):
            write_episode(out, replace(episode, episode_id=f"ttt-{episode.episode_id}"), robot="sim-0")
        found = sorted(out.glob("*.mcap"))
    return found


def trials(there: SimEnv, home: SimEnv, policy: Path, args: argparse.Namespace) -> tuple[Trials, Trials]:
    """Greedy: the task in the scene, the other tasks at home."""
    seeds = range(EVALUATE_FROM + args.seed * 100, EVALUATE_FROM + args.seed * 100 + args.starts)
    loaded = load_policy(policy)
    others = [task for task in TASKS if task != args.task]
    found = (evaluate(there, loaded, seeds, tasks=[args.task]), evaluate(home, loaded, seeds, tasks=others))
    here, elsewhere = ({(trial.task, trial.seed): trial.succeeded for trial in rows} for rows in found)
    return here, elsewhere


def compared(before: Sequence[Trials], after: Sequence[Trials]) -> dict[str, Any]:
    """Counts, paired differences and what the keep rule says."""
    parts = {
        name: {"before": counts(old), "after": counts(new), "difference": difference(old, new)}
        for name, old, new in zip(("scene", "other_tasks"), before, after, strict=True)
    }
    kept, reason = judge_trial(parts["scene"], parts["other_tasks"], KeepRule())
    return {**parts, "kept": kept, "reason": reason}


def table_of(figures: Mapping[str, Any]) -> Table:
    """One row per candidate the check looked at."""
    title = f"{figures['spec']['instruction']} in {figures['spec']['scene']}, mode {figures['spec']['mode']}"
    table = Table(title=f"{title}: {figures['refused'] or 'offered'}")
    for column in ("updates", "scene", "difference", "other tasks", "difference", "check: most lost", "check says"):
        table.add_column(column)
    for row in figures["candidates"]:
        cells = []
        for part in ("scene", "other_tasks"):
            before, after, change = (row[part][name] for name in ("before", "after", "difference"))
            cells.append(f"{before['successes']} -> {after['successes']} of {before['n']}")
            cells.append(f"{change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]")
        check = row["check"]
        table.add_row(str(row["iteration"]), *cells, f"{check['most']:.3f}", "pass" if check["ok"] else "refuse")
    return table


if __name__ == "__main__":
    sys.exit(main())

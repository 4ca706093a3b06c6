"""Meta-World, a benchmark that nobody here made: `python -m benchmarks.metaworld STAGE`, in Meta-World's environment.

    python3 -m venv mw && mw/bin/pip install -e . metaworld==3.1.1 packaging
    MUJOCO_GL=egl mw/bin/python -m benchmarks.metaworld mappings OUT     # a mapping a task, for `gymnast env serve`
    mw/bin/python -m benchmarks.metaworld experts OUT                    # how far each is degraded
    MUJOCO_GL=egl mw/bin/python -m benchmarks.metaworld collect OUT      # episodes of degraded experts, as MCAP

What is done stays done: every stage goes on where it was. Starts that slips are chosen by, that episodes are collected
from and that are only reported are disjoint (gymnast_core.seeds).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metaworld.env import MetaWorld
from benchmarks.metaworld.experts import Expert
from benchmarks.metaworld.tasks import MAX_STEPS, REPEAT, TASKS, MetaWorldTask
from gymnast_core.episodes import EpisodeRecorder
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.foreign.env import GymnasiumEnv
from gymnast_core.foreign.mapping import GymnasiumMapping
from gymnast_core.rollout import run_episode
from gymnast_core.seeds import CHOOSING_SEEDS, EVALUATION_SEEDS, TRAINING_SEEDS
from gymnast_core.types import Outcome

SLIPS = (0.1, 0.2, 0.3, 0.45)
"""Tried from the first on."""
WANTED = (0.2, 0.5)
"""Success of a base policy; the first slip with which an expert is inside is taken."""
CHOSEN_BY, REPORTED = 16, 50
EPISODES = 40


def mapping_of(task: MetaWorldTask, *, draw: bool) -> dict[str, Any]:
    """The mapping file of a task; without pictures, what stands in the observation is shown as one grey pixel field."""
    ours = [{"of": axis, "scale": 100.0} for axis in ("dx", "dy", "dz")]
    return {
        "instruction": task.instruction, "max_steps": MAX_STEPS, "repeat": REPEAT, "robot": "sawyer",
        "success": "info.success", "ends_with_success": True, "draw_every": 5 if draw else MAX_STEPS,
        "action": [*ours, {"of": "gripper", "scale": -2.0, "offset": 1.0}],
        "proprioception": ["[0]", "[1]", "[2]", 0, 0, 0, "[3]"],
        "make": {"task": task.name, **({"render_mode": "rgb_array"} if draw else {})},
    }  # fmt: skip


class Blind(MetaWorld):
    """Draws nothing, for stages that look at states alone."""

    def render(self) -> Any:
        """One grey field."""
        return np.full((8, 8, 3), 128, np.uint8)


def successes(task: MetaWorldTask, slip: float, seeds: range) -> int:
    """Episodes of the degraded expert that succeed."""
    inner = Blind(task.name)
    env = GymnasiumEnv(lambda: inner, GymnasiumMapping(**mapping_of(task, draw=False)))
    won = 0
    for seed in seeds:
        expert = Expert(task.name, inner, slip)
        run_episode(env, expert, task.instruction, seed=seed, rng=np.random.default_rng((seed, 1)))
        won += env.succeeded()[0]
    env.close()
    return won


def row_of(task: MetaWorldTask) -> dict[str, Any]:
    """Choose a task's slip on its own starts, and report on others."""
    chosen_by = CHOOSING_SEEDS[:CHOSEN_BY]
    tried = {}
    for slip in (0.0, *SLIPS):
        tried[slip] = successes(task, slip, chosen_by) / CHOSEN_BY
        if slip and tried[slip] <= WANTED[1]:
            break
    won = successes(task, slip, EVALUATION_SEEDS[:REPORTED])
    interval = wilson_interval(won, REPORTED)
    return {
        "task": task.name, "kind": task.kind, "tried": tried, "slip": slip, "successes": won, "of": REPORTED,
        "interval": [round(interval.low, 2), round(interval.high, 2)],
        "wanted": WANTED[0] <= won / REPORTED <= WANTED[1],
    }  # fmt: skip


def experts(out: Path) -> None:
    """Write experts.json."""
    path = out / "experts.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for task in TASKS:
        if task.name not in {row["task"] for row in rows}:
            began = time.process_time()
            rows.append({**row_of(task), "cpu_s": round(time.process_time() - began, 1)})
            path.write_text(json.dumps(rows, indent=1))
        print(json.dumps(next(row for row in rows if row["task"] == task.name)), flush=True)


def collect(out: Path, count: int) -> None:
    """Record episodes of every task with the slip that experts() chose."""
    slips = {row["task"]: row["slip"] for row in json.loads((out / "experts.json").read_text())}
    for task in TASKS:
        folder = out / "episodes" / task.name
        missing = range(len(list(folder.glob("*.mcap"))), count)
        inner = MetaWorld(task.name, render_mode="rgb_array")
        env = GymnasiumEnv(lambda inner=inner: inner, GymnasiumMapping(**mapping_of(task, draw=True)))
        recorder = EpisodeRecorder(folder, robot="sawyer")
        for seed in (TRAINING_SEEDS[number] for number in missing):
            expert = Expert(task.name, inner, slips[task.name])
            recorder.begin(seed=seed, metadata={"task": task.name, "seed": seed})
            rng = np.random.default_rng((seed, 1))
            run_episode(env, expert, task.instruction, seed=seed, rng=rng, observers=[recorder])
            recorder.finish(Outcome.SUCCESS if env.succeeded()[0] else Outcome.FAILURE, "operator:env")
        env.close()
        print(f"{task.name}: {count} episodes in {folder}", flush=True)


def mappings(out: Path) -> None:
    """Write a mapping file a task."""
    for task in TASKS:
        path = out / f"{task.name}.json"
        path.write_text(json.dumps(mapping_of(task, draw=True), indent=1))
        print(f"gymnast env serve --gymnasium benchmarks.metaworld.env:gymnast/MetaWorld-v0 --mapping {path}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("mappings", "experts", "collect"))
    parser.add_argument("out", type=Path, help="folder of this run")
    parser.add_argument("--count", type=int, default=EPISODES, help="episodes a task, of collect (default 40)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.stage == "collect":
        collect(args.out, args.count)
    else:
        {"mappings": mappings, "experts": experts}[args.stage](args.out)


if __name__ == "__main__":
    main()

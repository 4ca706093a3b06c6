"""What runs in Meta-World's own environment, which has none of ours but the package without extras, and no torch.

A stage each: mappings for `gymnast env serve`, how far each expert is degraded, and experts' episodes as MCAP files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metaworld.env import BASE_M, MetaWorld, camera_matrix
from benchmarks.metaworld.experts import Expert
from benchmarks.metaworld.tasks import GYMNASIUM, MAX_STEPS, REPEAT, MetaWorldTask, episodes_of, starts_of
from gymnast_core.episodes import EpisodeRecorder
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.foreign.env import GymnasiumEnv
from gymnast_core.foreign.mapping import GymnasiumMapping
from gymnast_core.rollout import run_episode
from gymnast_core.seeds import CHOOSING_SEEDS, EVALUATION_SEEDS
from gymnast_core.types import Outcome

SLIPS = (0.1, 0.2, 0.3, 0.45)
"""Tried from the first on."""
WANTED = (0.2, 0.5)
"""Success of a base policy; the first slip with which an expert is inside is taken."""
CHOSEN_BY, REPORTED = 16, 50
VARIED = (0.0, 0.3, 0.6)
"""Slips that world model and judge learn from, in turn: what goes well, what nearly does, what does not."""


def mapping_of(task: MetaWorldTask, *, draw_every: int = 1, draw: bool = True) -> dict[str, Any]:
    """The mapping file of a task; without pictures, what stands in the observation is shown as one grey pixel field.

    Args:
        task: whose.
        draw_every: our steps between pictures.
        draw: at all.
    """
    ours = [{"of": "dy", "scale": -100.0}, {"of": "dx", "scale": 100.0}, {"of": "dz", "scale": 100.0}]
    return {
        "instruction": task.instruction, "max_steps": MAX_STEPS, "repeat": REPEAT, "robot": "sawyer",
        "success": "info.success", "ends_with_success": True, "draw_every": draw_every if draw else MAX_STEPS,
        "action": [*ours, {"of": "gripper", "scale": -2.0, "offset": 1.0}],
        "proprioception": [{"at": "[1]", "offset": -BASE_M[1]}, {"at": "[0]", "scale": -1.0}, "[2]", 0, 0, 0, "[3]"],
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


def experts(out: Path, tasks: Sequence[MetaWorldTask]) -> None:
    """Write experts.json."""
    path = out / "experts.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for task in tasks:
        if task.name not in {row["task"] for row in rows}:
            began = time.process_time()
            rows.append({**row_of(task), "cpu_s": round(time.process_time() - began, 1)})
            path.write_text(json.dumps(rows, indent=1))
        print(json.dumps(next(row for row in rows if row["task"] == task.name)), flush=True)


def collect(out: Path, tasks: Sequence[MetaWorldTask], what: str, seed: int, count: int) -> None:
    """Record an expert's episodes, with the slip that experts() chose, or with several where they are "varied"."""
    chosen = {row["task"]: row["slip"] for row in json.loads((out / "experts.json").read_text())}
    for task in tasks:
        folder = episodes_of(out, what, seed) / task.name
        missing = range(len(list(folder.glob("*.mcap"))), count)
        if not missing:
            continue
        inner = MetaWorld(task.name, render_mode="rgb_array")
        env = GymnasiumEnv(lambda inner=inner: inner, GymnasiumMapping(**mapping_of(task)))
        recorder = EpisodeRecorder(folder, robot="sawyer")
        for number in missing:
            slip = VARIED[number % len(VARIED)] if what == "varied" else chosen[task.name]
            _record(env, Expert(task.name, inner, slip), recorder, task, starts_of(what, seed)[number])
        env.close()
        print(f"{task.name}: {count} episodes in {folder}", flush=True)


def _record(env: GymnasiumEnv, expert: Expert, recorder: EpisodeRecorder, task: MetaWorldTask, start: int) -> None:
    recorder.begin(seed=start, metadata={"task": task.name, "seed": start})
    rng = np.random.default_rng((start, 1))
    run_episode(env, expert, task.instruction, seed=start, rng=rng, observers=[recorder])
    recorder.finish(Outcome.SUCCESS if env.succeeded()[0] else Outcome.FAILURE, "operator:env")


def mappings(out: Path, tasks: Sequence[MetaWorldTask]) -> None:
    """Write two mapping files a task, to record with and to look only where a policy does, and the camera's matrix."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "camera.json").write_text(json.dumps(camera_matrix()))
    for task in tasks:
        for name, every in ((task.name, 1), (f"{task.name}-seldom", 5)):
            (out / f"{name}.json").write_text(json.dumps(mapping_of(task, draw_every=every), indent=1))
        print(f"gymnast env serve --gymnasium {GYMNASIUM} --mapping {out / task.name}.json")

"""What several optimiser epochs per batch buy: the epochs part of benchmarks.grpo.

Every arm trains the shipped base policy in the shipped world model on the same number of imagined rollouts, from the
same seeds; true success is counted in the simulator on start states of EVALUATION_SEEDS that nothing was trained on or
chosen with, half-way and at the end. With 8 groups of 8 a batch is one or two mini-batches: one epoch is one or two
optimiser steps, and in the first the ratio is 1 and the clip inert. More epochs are more steps as well, so one arm
takes larger ones instead.

Every finished training and evaluation is kept under `runs`, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.policy import Figure
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies import load_policy
from gymnast_core.records.manifest import read_manifest
from gymnast_core.seeds import EVALUATION_SEEDS
from gymnast_ros.sim.collect import evaluate
from gymnast_ros.sim.env import SimEnv
from tests.cloud.local_sampler import local_sampler, run_grpo

RUNS = Path("runs/benchmark_grpo")


@dataclass(frozen=True)
class Arm:
    """One way to spend the same rollouts.

    Attributes:
        epochs: passes over each batch.
        learning_rate: of AdamW.
    """

    epochs: int
    learning_rate: float

    @staticmethod
    def parse(text: str) -> Arm:
        """Read "4:2e-4".

        Raises:
            ConfigError: it is something else.
        """
        epochs, _, rate = text.partition(":")
        try:
            return Arm(int(epochs), float(rate))
        except ValueError as error:
            raise ConfigError(f"arm {text!r} is not EPOCHS:LEARNING_RATE, e.g. 4:2e-4") from error

    def __str__(self) -> str:
        """As a table shows it."""
        return f"{self.epochs} epoch(s), learning rate {self.learning_rate:g}"


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    Attributes:
        success: iteration -> per-trial success in the simulator.
        clipped: share of tokens where the clip decided, mean over iterations.
    """

    success: dict[int, list[bool]]
    clipped: float


def epochs(checkpoints: Path, starts: tuple[StartState, ...], options: argparse.Namespace) -> list[Figure]:
    """Train every arm on every seed, evaluate, and compare with the first arm, seed by seed."""
    base = _base(checkpoints / "policy", options.eval_starts)
    figures = [_rate("base policy: true success", [base])]
    first: list[Outcome] = []
    for arm in [Arm.parse(text) for text in options.arms]:
        runs = [_outcome(checkpoints, starts, arm, seed, options) for seed in options.seeds]
        first = first or runs
        figures += _of_arm(arm, runs, first, options)
    return figures


def _of_arm(arm: Arm, runs: list[Outcome], first: list[Outcome], options: argparse.Namespace) -> list[Figure]:
    figures = []
    for iteration in sorted(runs[0].success):
        rates = [run.success[iteration] for run in runs]
        each = ", ".join(f"{100 * np.mean(rate):.0f}" for rate in rates)
        rollouts = iteration * options.groups * GrpoConfig().group_size
        figures.append(_rate(f"{arm}: true success, {rollouts} rollouts", rates, f"by seed: {each}"))
    last = max(runs[0].success)
    if runs is not first:
        apart = [100 * (np.mean(b.success[last]) - np.mean(a.success[last])) for a, b in zip(first, runs, strict=True)]
        figures.append(Figure(f"{arm}: against the first arm", float(np.mean(apart)), "points", _interval(apart)))
    clipped = 100 * float(np.mean([run.clipped for run in runs]))
    return [*figures, Figure(f"{arm}: tokens where the clip decided", clipped, "%")]


def _outcome(checkpoints: Path, starts: tuple[StartState, ...], arm: Arm, seed: int, options: Any) -> Outcome:
    """Train and evaluate, or read what an earlier run of the same settings left."""
    config = GrpoConfig(
        groups=options.groups, iterations=options.iterations, epochs=arm.epochs, learning_rate=arm.learning_rate,
        seed=seed,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "config": config.model_dump(),
        "starts": options.eval_starts,
        "from": [read_manifest(checkpoints / part).id for part in ("policy", "world_model", "judge")],
    }
    name = f"{arm.epochs}x{arm.learning_rate:g}-{options.groups}x{options.iterations}-seed{seed}"
    folder = RUNS / settings["from"][0] / name
    kept = folder / "outcome.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    if found.get("settings") != settings:
        print(f"training {folder.name}", file=sys.stderr, flush=True)
        found = {"settings": settings, **_trained(checkpoints, starts, config, folder, options.eval_starts)}
        kept.write_text(json.dumps(found))
    return Outcome({int(name): trials for name, trials in found["success"].items()}, found["clipped"])


def _trained(
    checkpoints: Path, starts: tuple[StartState, ...], config: GrpoConfig, folder: Path, trials: int
) -> dict[str, Any]:
    world = load_world(checkpoints / "world_model")
    judge = LearnedJudge.load(checkpoints / "judge")
    sampler = local_sampler(world, judge, starts, config)
    training = run_grpo(
        checkpoints / "policy", sampler, config, folder / "candidates", candidate_every=max(1, config.iterations // 2),
        state=folder / "grpo.state", progress=_tell,
    )  # fmt: skip
    success = {str(one.iteration): _successes(one.folder, trials) for one in training.candidates}
    clipped = [row["clipped"] for row in training.history if "clipped" in row]
    return {"success": success, "clipped": float(np.mean(clipped)), "history": list(training.history)}


def _base(policy: Path, trials: int) -> list[bool]:
    kept = RUNS / f"base-{read_manifest(policy).id}-{trials}.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(_successes(policy, trials)))
    found: list[bool] = json.loads(kept.read_text())
    return found


def _tell(event: ProgressEvent) -> None:
    numbers = {name: round(value, 3) for name, value in event.metrics.items()}
    print(f"{event.stage} {event.step}/{event.total} {numbers}", file=sys.stderr, flush=True)


def _successes(folder: Path, starts: int) -> list[bool]:
    env = SimEnv()
    try:
        trials = evaluate(env, load_policy(folder), EVALUATION_SEEDS[:starts])
    finally:
        env.close()
    return [trial.succeeded for trial in trials]


def _rate(what: str, runs: list[list[bool]], note: str = "") -> Figure:
    """Mean over seeds; with several seeds the interval is the seeds', with one it is the trials'."""
    rates = [100 * float(np.mean(run)) for run in runs]
    if len(runs) == 1:
        ends = wilson_interval(int(np.sum(runs[0])), len(runs[0]))
        spread = f"95 % [{100 * ends.low:.1f}, {100 * ends.high:.1f}] over {len(runs[0])} trials"
    else:
        spread = _interval(rates)
    return Figure(what, float(np.mean(rates)), "%", "; ".join(part for part in (spread, note) if part))


def _interval(values: list[float]) -> str:
    """95 % interval of a mean over seeds, by Student's t."""
    if len(values) < 2:
        return "one seed"
    half = _t95(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    mean = float(np.mean(values))
    return f"95 % [{mean - half:.1f}, {mean + half:.1f}] over {len(values)} seeds"


def _t95(freedom: int) -> float:
    """Two-sided 95 % point of Student's t, tabulated."""
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
    return table.get(freedom, 1.96 + 2.4 / freedom)

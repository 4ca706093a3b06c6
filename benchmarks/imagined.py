"""Does a policy's success in the dream say what it is in the simulator? Real against imagined, policy by policy.

    python -m benchmarks.imagined --policy base=checkpoints/policy --policy seed10=runs/.../iteration-08 --json out.json

Every policy runs greedily from the same fresh start states (nothing was trained on or chosen with them): in the
simulator, and in one world model from the first frame and pose of each, where a judge decides. World model and judge
are the same for all, by default the shipped ones; a policy may have practised in a refined copy of them, none did in
them. A judged abstention counts for neither. Policies of one training go by NAME/VARIANT: trainings, not policies, are
the independent units of the interval (a bootstrap over them) and of the range with one left out. A policy that is
there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.world_model.audit.outcomes import outcomes_of
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.evaluation.statistics import pearson
from gymnast_core.images import area_downsample
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import read_manifest
from gymnast_core.seeds import EVALUATION_SEEDS
from gymnast_ros.sim.collect import evaluate
from gymnast_ros.sim.env import MAX_STEPS, SimEnv
from gymnast_ros.sim.tasks import TASKS

FIRST_START = EVALUATION_SEEDS.start + 960_000
RESAMPLES = 4000
Cells = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Policy -> task -> {"real", "imagined", "decided"}."""


def main() -> int:
    """Measure what is missing, and print the table and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", metavar="NAME=FOLDER", required=True, help="one of several")
    parser.add_argument("--models", type=Path, default=Path("checkpoints"), help="world_model and judge")
    parser.add_argument("--starts", type=int, default=100, help="of each task")
    parser.add_argument("--json", type=Path, required=True, help="figures; policies that are there are kept")
    args = parser.parse_args()
    use_threads()
    world, judge = load_world(args.models / "world_model"), LearnedJudge.load(args.models / "judge")
    kept = json.loads(args.json.read_text()) if args.json.exists() else {}
    if kept.get("judge") != judge.version:
        kept = {"world_model": world.version, "judge": judge.version, "starts": args.starts, "policies": {}, "ids": {}}
    env, starts = SimEnv(), None
    for named in args.policy:
        name, _, folder = named.partition("=")
        version = read_manifest(Path(folder)).id
        if kept["ids"].get(name) != version:
            starts = starts or first_looks(env, args.starts)
            kept["policies"][name] = measured(env, world, judge, Path(folder), starts, args.starts)
            kept["ids"][name] = version
            args.json.write_text(json.dumps({**kept, **correlations(kept["policies"])}, indent=1) + "\n")
            print(f"{name}: {kept['policies'][name]}", file=sys.stderr, flush=True)
    print(table(kept["policies"], correlations(kept["policies"])))
    return 0


def first_looks(env: SimEnv, count: int) -> list[StartState]:
    """Return what a robot sees and where it stands before each episode, task by task."""
    looks = []
    for task in TASKS.values():
        for seed in range(FIRST_START, FIRST_START + count):
            seen = env.reset(task.instruction, seed=seed)
            frame = area_downsample(seen.images[env.spec.cameras[0]][0], 64)
            looks.append(StartState(frame, frame, seen.proprio_BP[0], task.instruction, 0, str(seed), MAX_STEPS))
    return looks


def measured(
    env: SimEnv, world: World, judge: LearnedJudge, folder: Path, starts: Sequence[StartState], count: int
) -> dict[str, dict[str, float]]:
    """Return a policy's success rates by task in both; the imagined one is of the decided dreams."""
    trials = evaluate(env, load_policy(folder), range(FIRST_START, FIRST_START + count))
    dreams = imagine_from(world, starts, load_policy(folder), seed=0)
    success, decided, _ = outcomes_of(judge.judge(dreams))
    found = {}
    for task in TASKS.values():
        rows = np.array([start.instruction == task.instruction for start in starts]) & decided
        real = float(np.mean([trial.succeeded for trial in trials if trial.task == task.name]))
        imagined = float(success[rows].mean()) if rows.any() else float("nan")
        found[task.name] = {"real": real, "imagined": imagined, "decided": float(rows.sum())}
    return found


def correlations(policies: Cells) -> dict[str, Any]:
    """Pearson's r over policies and tasks, and over policies alone; empty below three trainings."""
    trainings = sorted({name.split("/")[0] for name in policies})
    if len(trainings) < 3:
        return {}
    rng = np.random.default_rng(0)
    drawn = [list(rng.choice(trainings, len(trainings))) for _ in range(RESAMPLES)]
    found: dict[str, Any] = {"trainings": len(trainings)}
    for key, by_task in (("cells", True), ("means", False)):
        points = {training: _points(policies, training, by_task) for training in trainings}
        spread = [_r([points[training] for training in some]) for some in drawn]
        left_out = [_r([points[other] for other in trainings if other != training]) for training in trainings]
        found[key] = {
            "r": _r(list(points.values())),
            "low": float(np.nanquantile(spread, 0.025)), "high": float(np.nanquantile(spread, 0.975)),
            "least_without_one": min(left_out), "most_without_one": max(left_out),
        }  # fmt: skip
    return found


def _points(policies: Cells, training: str, by_task: bool) -> list[tuple[float, float]]:
    """(real, imagined) of a training's policies: one a task, or their mean."""
    points = []
    for name, tasks in policies.items():
        if name.split("/")[0] == training:
            pairs = [(cell["real"], cell["imagined"]) for cell in tasks.values()]
            points += (
                pairs if by_task else [(float(np.mean([r for r, _ in pairs])), float(np.mean([i for _, i in pairs])))]
            )
    return points


def _r(groups: Sequence[Sequence[tuple[float, float]]]) -> float:
    pairs = [pair for group in groups for pair in group]
    return pearson([real for real, _ in pairs], [imagined for _, imagined in pairs])


def table(policies: Cells, found: Mapping[str, Any]) -> str:
    """Return a markdown table, a row a policy, and the correlations below it."""
    lines = ["| policy | " + " | ".join(f"{task}: real, imagined" for task in TASKS) + " | all |", "|---" * 6 + "|"]
    for name, tasks in policies.items():
        cells = [f"{tasks[task]['real']:.2f}, {tasks[task]['imagined']:.2f}" for task in TASKS]
        means = [float(np.mean([cell[key] for cell in tasks.values()])) for key in ("real", "imagined")]
        lines.append(f"| {' | '.join([name, *cells, f'{means[0]:.3f}, {means[1]:.3f}'])} |")
    for key, words in (("cells", "policies and tasks"), ("means", "policies")):
        if key in found:
            one = found[key]
            lines.append(
                f"\nr over {words}: {one['r']:.3f} [{one['low']:.2f}, {one['high']:.2f}], bootstrap over "
                f"{found['trainings']} trainings; {one['least_without_one']:.2f} to {one['most_without_one']:.2f} "
                "with one left out"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

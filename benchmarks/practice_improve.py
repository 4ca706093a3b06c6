"""What a night of practice is worth: the trainer's improve job on it, against as many episodes from scripted resets.

The job is that of `gymnast loop` (with `[practise]` in its settings) and `gymnast jobs submit improve`: world model and
judge are refined on the episodes, audited, and the policy practises in that dream. Both sides have the same number of
episodes, settings and seeds. Success is greedy, from laid-out start states with which nothing was trained or chosen;
the last candidate counts. A finished part is kept, and what was interrupted goes on, by the same command.

python -m benchmarks.practice_improve --policy FOLDER --work FOLDER --json FILE [--recordings FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.practice import Cells, practised_with, success
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import ProgressEvent
from gymnast_cli.demo.config import DemoConfig
from gymnast_core.episodes import read_summary, write_episode
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import RESET_OF

FIRST_SCRIPTED = 3_000_000
ARMS = ("practised", "scripted")
ENDED = threading.Event()
"""Set by SIGTERM: the job keeps what it has done, and the same command goes on with it."""


def _say(event: ProgressEvent) -> None:
    print(f"{event.stage} {event.step}/{event.total}", file=sys.stderr, flush=True)


def recorded(folders: Sequence[Path]) -> list[Recorded]:
    """Whole labelled episodes of these folders, oldest first."""
    found = []
    for path in sorted(path for folder in folders for path in folder.glob("*.mcap")):
        end = read_summary(path).end
        found.append(Recorded(path, end.outcome.value, path.stem, labelled_by=end.labelled_by))
    return found


def record_scripted(policy: Path, skills: Sequence[str], each: int, args: argparse.Namespace) -> dict[str, object]:
    """Record as many episodes of every skill, each from a start state that is laid out for it."""
    world, driver, out = SimEnv(), load_policy(policy), args.work / "scripted"
    rng = np.random.default_rng(args.sample) if args.sample >= 0 else None
    out.mkdir(parents=True, exist_ok=True)
    first, successes = FIRST_SCRIPTED + 10_000 * args.seed, 0
    for skill in skills:
        for episode in collect(world, driver, skill, range(first, first + each), rng=rng):
            successes += episode.outcome.value == "success"
            if not (out / f"{episode.episode_id}.mcap").exists():
                write_episode(out, episode, robot="sim-0")
    world.close()
    return {"episodes": each * len(skills), "successes": successes}


def improved(
    policy: Path,
    episodes: Sequence[Recorded],
    folder: Path,
    kinds: Mapping[str, Path],
    seed: int,
    change: Mapping[str, object],
) -> dict[str, object]:
    """Run the improve job; returns what it found, and the folder of its last candidate."""
    from cloud_trainer.jobs.improve import improve
    from cloud_trainer.jobs.job import Job
    from gymnast_core.jobs import ImproveSettings, ImproveSpec
    from gymnast_core.records.manifest import read_manifest

    folder.mkdir(parents=True, exist_ok=True)
    spec = ImproveSpec(policy=read_manifest(policy).id, seed=seed, config=ImproveSettings().changed(**change))
    job = Job(spec, {**kinds, "policy": policy}, list(episodes), folder, _say, ENDED.is_set)
    result = improve(job).to_json()
    kept = ("audit", "judge_trust", "sight", "imagined_reward", "world_model_kept")
    return {"last": result["candidates"][-1]["folder"], **{name: result[name] for name in kept}}


def run(args: argparse.Namespace, cells: Cells) -> None:
    """Before, then both arms."""
    skills = [name for task in args.tasks for name in (task, RESET_OF[task])]
    kinds = {kind: args.models / kind for kind in ("world_model", "judge")}
    cells.get("before", lambda: success(load_policy(args.policy), skills, args.starts))
    folders = {"practised": [args.recordings], "scripted": [args.work / "scripted"]}
    if args.recordings is None:
        for task in args.tasks:
            cells.get(f"practice/{task}", lambda task=task: practised_with(
                load_policy(args.policy), args.work, task, args.episodes, 0, args.seed, args.sample))  # type: ignore[misc]  # fmt: skip
        folders["practised"] = [args.work / f"practised-{task}" / "spool" / "pending" for task in args.tasks]
    each = args.episodes * len(args.tasks) // len(skills)
    if "scripted" in args.arms:
        cells.get("scripted", lambda: record_scripted(args.policy, skills, each, args))
    for arm in args.arms:
        name = f"{args.name}/{arm}"
        job = cells.get(f"{name}/job", lambda arm=arm, name=name: improved(
            args.policy, recorded(folders[arm]), args.work / name, kinds, args.seed, args.config))  # type: ignore[misc]  # fmt: skip
        cells.get(f"{name}/success",
                  lambda job=job: success(load_policy(Path(str(job["last"]))), skills, args.starts))  # type: ignore[misc]  # fmt: skip


def main() -> None:
    """Parse and run."""
    use_threads()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="knows both skills of each pair")
    parser.add_argument("--work", type=Path, required=True, help="recordings and checkpoints")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--recordings", type=Path, help="of a practice that was; none practises here")
    parser.add_argument("--models", type=Path, default=DemoConfig().checkpoints, help="world_model and judge")
    parser.add_argument("--tasks", nargs="+", default=["put", "drawer"], choices=sorted(RESET_OF))
    parser.add_argument("--episodes", type=int, default=300, help="of each pair")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--config", type=json.loads, default={}, help="JSON settings, see gymnast jobs schema improve")
    parser.add_argument("--name", default="default", help="of these settings")
    parser.add_argument("--sample", type=int, default=-1, help="seed of exploration; -1: greedy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=100, help="start states a skill of each evaluation")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda number, frame: ENDED.set())
    run(args, Cells(args.json))


if __name__ == "__main__":
    main()

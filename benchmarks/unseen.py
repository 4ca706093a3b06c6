"""Does a policy succeed in scenes and words it was never trained on?

    python -m benchmarks.unseen --policy base=checkpoints/policy --policy practised=runs/.../policy-ID --json out.json
    python -m benchmarks.unseen --policy practised=runs/.../policy-ID --augment '{"steps": 250}'

Greedy, in the simulator, no test-time training, the same fresh start states (nothing was trained on or chosen with
them) in every scene and for all words and policies. The scenes are the novel ones of gymnast_ros.sim.scene; the words
are HELD_OUT, five ways a task to ask for it, none of which the templates of cloud_trainer.practice.instructions make.
--augment first lets each policy learn other looks and words as an improve job does, from 80 recorded episodes of the
base a task and the shipped world model's dreams, with these settings of it. A cell (policy, scene or words) that is
there is not measured again. Intervals: Wilson's of a cell; of the mean over scenes and of other words against the
trained ones, normal ones over start states, which are the independent units.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.practice.augment import AugmentTrainer, asked_in, asked_in_dreams
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.episodes.archive import load_episodes, save_episodes
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.jobs.augment import AugmentChoices
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.policy import Policy
from gymnast_core.records.manifest import read_manifest
from gymnast_core.rollout import run_episode
from gymnast_core.seeds import EVALUATION_SEEDS, TRAINING_SEEDS
from gymnast_core.types import ActionChunk, Episode, Observation
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import MAX_STEPS, SimEnv
from gymnast_ros.sim.scene import STANDARD, scene_named
from gymnast_ros.sim.tasks import TASKS

SCENES = ("dark_table", "evening", "clutter", "moved_camera", "all_new")
"""What the mean is taken over."""
HELD_OUT: Mapping[str, tuple[str, ...]] = {
    "lift": (
        "pick the red cube up off the table",
        "take the red cube and raise it",
        "grasp the red cube and lift it into the air",
        "hoist the red cube",
        "get the red cube off the table",
    ),
    "push": (
        "move the blue block leftwards",
        "nudge the blue block over to the left side",
        "shift the blue block left",
        "give the blue block a push to the left",
        "slide the blue block leftward along the table",
    ),
    "put": (
        "drop the red cube onto the plate",
        "get the red cube onto the plate",
        "the red cube belongs on the plate",
        "pick up the red cube and leave it on the plate",
        "transfer the red cube to the plate",
    ),
    "drawer": (
        "slide the drawer closed",
        "push the drawer in",
        "make sure the drawer is closed",
        "get the drawer closed",
        "shove the drawer all the way in",
    ),
}
"""Other words for each task, written down before anything was measured with them."""
RECORDED = 80
"""Episodes a task that --augment learns from."""
FIRST_START = EVALUATION_SEEDS.start + 970_000


class Reworded:
    """A policy that is asked in other words than the environment."""

    def __init__(self, policy: Policy, text: str) -> None:
        self._policy, self._text = policy, text
        self.version, self.chunk_length = policy.version, policy.chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose as the policy does for the other words."""
        return self._policy.act(observation, [self._text] * len(instruction), rng=rng)


def main() -> int:
    """Measure what is missing; print the tables and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", metavar="NAME=FOLDER", help="default: base=checkpoints/policy")
    parser.add_argument("--scenes", default=",".join(("standard", *SCENES)), help="comma separated")
    parser.add_argument("--starts", type=int, default=50, help="of each task in each scene")
    parser.add_argument("--word-starts", type=int, default=20, help="of each task in each of its five wordings")
    parser.add_argument("--augment", type=json.loads, help="JSON settings, see gymnast jobs schema improve")
    parser.add_argument("--out", type=Path, default=Path("runs/unseen"), help="finished cells are kept here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    use_threads()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for named in args.policy or ["base=checkpoints/policy"]:
        name, _, folder = named.partition("=")
        made = Path(folder) if args.augment is None else augmented(Path(folder), args)
        rows.append(measured(name, made, args))
        print(f"{scene_table(rows)}\n\n{word_table(rows)}\n", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"starts": args.starts, "rows": rows}, indent=1) + "\n")
    return 0


def augmented(folder: Path, args: argparse.Namespace) -> Path:
    """Return the checkpoint folder of a copy that learned other looks and words; what is there is not made again."""
    config, key = AugmentChoices(**args.augment), json.dumps(args.augment, sort_keys=True)
    out: Path = args.out / f"{read_manifest(folder).id}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if out.exists():
        return out
    clips = clips_of(recorded(args.out / "recorded.npz"), 64)
    policy, teacher = load_trainable(folder), load_trainable(folder)
    rng, starts = np.random.default_rng(0), starts_of(clips)
    begun = [starts[int(row)] for row in rng.permutation(len(starts))[: config.imagined]]
    parts = [asked_in(clips, policy)]
    if begun:
        parts.append(asked_in_dreams(load_world(Path("checkpoints/world_model")), begun, teacher, seed=0))
    images, texts = np.concatenate([frames for frames, _ in parts]), [text for _, said in parts for text in said]
    AugmentTrainer(policy, teacher, images, texts, config, seed=0).run(state=out.with_suffix(".state"), progress=show)
    policy.save(out, parents=(teacher.version,), lineage={"stage": "augment", "augment": config.model_dump()})
    return out


def recorded(path: Path) -> list[Episode]:
    """Return sampled episodes of the base, drawn where a policy looks; recorded once."""
    if not path.exists():
        base, env, first = load_policy(Path("checkpoints/policy")), SimEnv(), TRAINING_SEEDS.start + 910_000
        looked = range(0, MAX_STEPS + 1, base.chunk_length)
        episodes = [
            episode
            for task in TASKS
            for episode in collect(env, base, task, range(first, first + RECORDED), frame_steps=looked,
                                   rng=np.random.default_rng(7))
        ]  # fmt: skip
        env.close()
        save_episodes(path, episodes)
    return load_episodes(path)


def show(event: ProgressEvent) -> None:
    """Print how far training is."""
    print(f"{event.stage} {event.step}/{event.total} {dict(event.metrics)}", file=sys.stderr, flush=True)


def measured(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return {name, policy, scenes: {scene: figures}, words: figures} of a policy."""
    policy: Any = load_policy(folder)
    cells = {}
    for scene in args.scenes.split(","):
        env = SimEnv(scene=STANDARD if scene == STANDARD.name else scene_named(scene))
        cells[scene] = kept(args.out, policy, scene, args.starts, lambda env=env: succeeded(env, policy, args.starts))
        env.close()
    row: dict[str, Any] = {"name": name, "policy": policy.version, "scenes": {s: rates(c) for s, c in cells.items()}}
    unseen = [cells[scene] for scene in SCENES if scene in cells]
    if len(unseen) == len(SCENES):
        row["unseen"] = over_starts([np.mean(won) for won in zip(*map(flat, unseen), strict=True)])
    if args.word_starts:
        row["words"] = words_of(policy, args)
    return row


def words_of(policy: Policy, args: argparse.Namespace) -> dict[str, Any]:
    """Return success in the trained and in the held-out words, and by how much each start does worse in the latter."""
    count, env = args.word_starts, SimEnv()
    trained = kept(args.out, policy, "words-trained", count, lambda: succeeded(env, policy, count))
    other = [
        kept(args.out, policy, f"words-{n}", count, lambda n=n: succeeded(env, policy, count, n)) for n in range(5)
    ]
    env.close()
    apart = np.mean([flat(cell) for cell in other], axis=0) - np.array(flat(trained), float)
    each = {HELD_OUT[task][n]: float(np.mean(other[n][task])) for task in TASKS for n in range(5)}
    held_out = {task: [won for cell in other for won in cell[task]] for task in TASKS}
    return {"trained": rates(trained), "held_out": rates(held_out), "difference": over_starts(apart), "each": each}


def kept(out: Path, policy: Policy, name: str, starts: int, measure: Any) -> dict[str, list[bool]]:
    """Return a cell's outcomes by task, measured once."""
    path = out / f"{policy.version}-{name}-{starts}.json"
    if not path.exists():
        path.write_text(json.dumps(measure()))
    found: dict[str, list[bool]] = json.loads(path.read_text())
    return found


def succeeded(env: SimEnv, policy: Policy, starts: int, wording: int | None = None) -> dict[str, list[bool]]:
    """Return which of the first start states of each task succeed, asked in one of its held-out wordings if named."""
    found: dict[str, list[bool]] = {}
    for name, task in TASKS.items():
        driver = policy if wording is None else Reworded(policy, HELD_OUT[name][wording])
        found[name] = []
        for seed in range(FIRST_START, FIRST_START + starts):
            run_episode(env, driver, task.instruction, seed=seed)
            found[name].append(env.succeeded())
    return found


def flat(cell: Mapping[str, Sequence[bool]]) -> list[bool]:
    """Return a cell's outcomes, one a start state, always in the same order."""
    return [won for task in TASKS for won in cell[task]]


def rates(cell: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """Return {n, mean, low, high, tasks}."""
    won = flat(cell)
    found = wilson_interval(sum(won), len(won)).to_json()
    return {"n": len(won), **found, "tasks": {task: float(np.mean(cell[task])) for task in TASKS}}


def over_starts(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the mean of one value a start state and its 95 % interval."""
    mean, half = float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def scene_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a markdown table: a row a policy, a column a scene."""
    scenes = list(rows[0]["scenes"])
    lines = [f"| policy | {' | '.join(scenes)} | mean of the unseen |", "|---" * (len(scenes) + 2) + "|"]
    for row in rows:
        cells = [shown(row["scenes"][scene]) for scene in scenes]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {shown(row.get('unseen'))} |")
    return "\n".join(lines)


def word_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a markdown table: success in trained and in held-out words."""
    lines = ["| policy | trained words | held-out words | difference | by task, held-out |", "|---" * 5 + "|"]
    for row in rows:
        if words := row.get("words"):
            tasks = ", ".join(f"{task} {value:.2f}" for task, value in words["held_out"]["tasks"].items())
            cells = [shown(words[name]) for name in ("trained", "held_out", "difference")]
            lines.append(f"| {row['name']} | {' | '.join(cells)} | {tasks} |")
    return "\n".join(lines)


def shown(figures: Mapping[str, float] | None) -> str:
    """Return ".31 [.25, .38]"."""
    if figures is None:
        return ""
    return f"{figures['mean']:.3f} [{figures['low']:.2f}, {figures['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(main())

"""Does a dream see the policy that came out of it, before and after it is refined on that policy's own episodes?

`python -m benchmarks.sight` takes what `benchmarks.ceiling` left of a seed (episodes of the base, the world model and
judge refined on them, the policy practised in that dream), records 600 episodes of the practised policy, and lets the
trainer's improve job refine both on all of them. Sight is P(judge says success | it succeeded) - P(the same | it
failed) on dreams of held-out episodes, an eighth of each policy's; of the practised policy in the first dream also on
all 600, none of which it was refined on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.demo_seeds import Seed
from gymnast_cli.demo.config import DemoConfig
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode

PRACTISED = Path("dream-decay-over-8-updates") / "iteration-08"
FIRST, SECOND = "refined", "sight"
"""Folders of the two rounds' world models and judges."""


def main() -> int:
    """Measure what is missing, and print one row a policy and dream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="10,11,12", help="comma separated")
    parser.add_argument("--out", type=Path, default=Path("runs/ceiling"), help="working folder of benchmarks.ceiling")
    parser.add_argument("--checkpoints", type=Path, default=DemoConfig().checkpoints)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows = [row for word in args.seeds.split(",") for row in of_seed(int(word), args)]
    print("| seed | policy | dream | sight [95 %] | false success | missed success | successes, failures |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['seed']} | {row['policy']} | {row['dream']} | {row['sight']:.2f} [{row['low']:.2f}, "
            f"{row['high']:.2f}] | {row['false_success']:.2f} | {row['missed_success']:.2f} | {row['succeeded']}, "
            f"{row['failed']} |"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


def of_seed(number: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a seed's rows; what was measured is kept in its sight.json."""
    use_threads()
    kept = args.out / f"seed-{number}" / "sight.json"
    if not kept.exists():
        seed = Seed(DemoConfig(seed=number, checkpoints=args.checkpoints), args.out / f"seed-{number}")
        kept.write_text(json.dumps(measured(seed)))
    rows: list[dict[str, Any]] = json.loads(kept.read_text())
    return rows


def measured(seed: Seed) -> list[dict[str, Any]]:
    """Record the practised policy, refine on it, and look at both policies in both dreams."""
    from gymnast_core.episodes import read_episode

    practised = seed.folder / PRACTISED
    first = {kind: seed.folder / FIRST / kind for kind in ("world_model", "judge")}
    if len(seed.recorded()) == len(seed.recorded(rounds=1)):
        seed.collect(practised, 2)
    amount = {"grpo_iterations": 1, "sight_floor": 0.0}
    job = seed.improve(practised, 2, seed.recorded(), SECOND, {**seed.kinds, **first}, amount)
    seed.say(f"round 2: {job.get('refused') or job.get('world_model_kept') or 'refined'}")
    episodes = [read_episode(entry.path, image_size=(64, 64)) for entry in seed.recorded()]
    return _rows(seed, practised, episodes)


def _rows(seed: Seed, practised: Path, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    from cloud_trainer.jobs.splits import split_of
    from cloud_trainer.world_model.audit.outcomes import policy_of

    names = {read_manifest(seed.base).id: "base", read_manifest(practised).id: "practised"}
    held_out = [episode for episode in episodes if split_of(episode.episode_id) == "audit"]
    own = [episode for episode in episodes if names[policy_of(episode)] == "practised"]
    rows = []
    for dream, folder in (("first", FIRST), ("refined on both", SECOND)):
        look = _looking(seed.folder / folder)
        for policy, name in names.items():
            mine = [episode for episode in held_out if policy_of(episode) == policy]
            rows.append({"seed": seed.seed, "policy": name, "dream": dream, **look(mine)})
        if dream == "first":
            rows.append({"seed": seed.seed, "policy": "practised, all 600", "dream": dream, **look(own)})
    return rows


def _looking(folder: Path) -> Callable[[Sequence[Episode]], dict[str, Any]]:
    """What looks at one policy's episodes in this dream."""
    from cloud_trainer.judge.learned import LearnedJudge
    from cloud_trainer.world_model.audit.run import dreamt_outcomes
    from cloud_trainer.world_model.worlds import load_world

    dreamer, judge = load_world(folder / "world_model").dreamer(), LearnedJudge.load(folder / "judge")

    def look(episodes: Sequence[Episode]) -> dict[str, Any]:
        found = dreamt_outcomes(dreamer, judge, episodes)
        (sight,) = found.sight.values()
        return {**sight, "false_success": found.false_success, "missed_success": found.missed_success}

    return look


if __name__ == "__main__":
    sys.exit(main())

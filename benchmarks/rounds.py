"""Does another round of world model and policy gain, and is it better begun again from the base?

`python -m benchmarks.rounds` begins with the shipped base, world model and judge. Every round records 600 episodes of
the policy in force, lets the trainer's improve job refine world model and judge on everything recorded so far, and
practises in that dream, 8 updates each: "going on" from the policy in force, and, from the second round on where
--arms names it, "restarted" from the base. The one named by --arm is then in force.

Every policy is evaluated greedily from the same 100 start states a task, with which nothing was trained or chosen; the
last update counts, none is picked. Where a job averages several practices, each of them is evaluated too. --config
changes the improve job; a name of its own (--name) keeps its results apart. What was interrupted goes on; a finished
part is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ceiling import Tried
from benchmarks.demo_seeds import Seed
from benchmarks.flow_seeds import interval
from gymnast_cli.demo.config import TASKS, DemoConfig
from gymnast_cli.demo.seeds import evaluation_seeds
from gymnast_core.evaluation.results import difference
from gymnast_core.policies.processor import use_threads

ARMS = ("going on", "restarted")
"""The first that is practised in a round refines world model and judge; the other takes what it left."""
FROZEN = {"refine_iterations": 0, "judge_iterations": 0}
KINDS = ("world_model", "judge")


def main() -> int:
    """Run what is missing of every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="10,11,12", help="comma separated")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arms", default=ARMS[0], help=f"of {', '.join(ARMS)}; comma separated")
    parser.add_argument("--arm", choices=ARMS, default=ARMS[0], help="whose policy of a round is in force in the next")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON settings, see gymnast jobs schema improve")
    parser.add_argument("--name", default="default", help="of these settings")
    parser.add_argument("--starts", type=int, default=100, help="per task")
    parser.add_argument("--out", type=Path, default=Path("runs/rounds"), help="working folder")
    parser.add_argument("--checkpoints", type=Path, default=DemoConfig().checkpoints)
    parser.add_argument("--only-table", action="store_true", help="print what is there")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    if args.arm not in args.arms.split(","):
        parser.error(f"--arm {args.arm!r} is not practised; name it in --arms")
    works = [Rounds(int(word), args) for word in args.seeds.split(",")]
    if not args.only_table:
        _run_all(works, args)
    rows = [work.result for work in works]
    print(table(rows, args.name))
    if args.json:
        args.json.write_text(json.dumps(rows))
    return 0


def _run_all(works: Sequence[Rounds], args: argparse.Namespace) -> None:

    use_threads()
    for number in range(1, args.rounds + 1):
        for arm in args.arms.split(",") if number > 1 else ARMS[:1]:
            for work in works:
                work.practise(number, arm)


class Rounds:
    """One seed's rounds.

    Attributes:
        result: {"seed", "trials": policy name -> [[task, start, won]], "audits": policy name -> figures of the dream
            it practised in}; rounds.json.
    """

    def __init__(self, seed: int, args: argparse.Namespace) -> None:
        self.folder: Path = args.out / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._args, self._path = args, self.folder / "rounds.json"
        self._seed = Seed(DemoConfig(seed=seed, checkpoints=args.checkpoints), self.folder)
        known = self._path.exists()
        self.result: dict[str, Any] = (
            json.loads(self._path.read_text()) if known else {"seed": seed, "trials": {}, "audits": {}}
        )

    def practise(self, number: int, arm: str) -> None:
        """Collect and refine, where this arm is the first, then practise and evaluate."""
        seed, name = self._seed, self._args.name
        self._evaluate("base", seed.base)
        before = self._in_force(number - 1)
        if len(seed.recorded(number)) < number * len(TASKS) * seed.config.episodes:
            seed.collect(before, number)  # those that are there are kept
        policy = seed.base if arm == "restarted" else before
        if arm == ARMS[0]:
            job = self._improve(number, arm, policy, self._dream(number - 1), self._args.config)
        else:
            job = self._improve(number, arm, policy, self._dream(number), {**self._args.config, **FROZEN})
        said = f"{name}: round {number}, {arm}"
        self.result["audits"][said] = job["audit"]
        self._evaluate(said, self._last(number, arm))
        for single in sorted(self._job(number, arm).glob("candidates-*")):
            self._evaluate(f"{said}, practice {single.name[-1]} alone", sorted(single.glob("iteration-*"))[-1])

    def _improve(self, number: int, arm: str, policy: Path, dream: Path, change: Mapping[str, Any]) -> dict[str, Any]:
        """The trainer's own job; nothing stands in its way here, as what it would refuse is to be measured."""
        open_gates = {"check": False, "sight_floor": 0.0}
        kinds = {**self._seed.kinds, **{kind: dream / kind for kind in KINDS}}
        name = self._job(number, arm).name
        return self._seed.improve(policy, number, self._seed.recorded(number), name, kinds, {**open_gates, **change})

    def _job(self, number: int, arm: str) -> Path:
        return self.folder / f"round-{number}-{self._args.name}-{arm.replace(' ', '-')}"

    def _dream(self, number: int) -> Path:
        """Where world model and judge of a round lie; before the first, the shipped ones."""
        return self._job(number, ARMS[0]) if number else self._args.checkpoints

    def _last(self, number: int, arm: str) -> Path:
        return sorted((self._job(number, arm) / "candidates").glob("iteration-*"))[-1]

    def _in_force(self, number: int) -> Path:
        if not number:
            return self._seed.base
        return self._last(number, ARMS[0] if number == 1 else self._args.arm)

    def _evaluate(self, name: str, policy: Path) -> None:
        if name not in self.result["trials"]:
            seed = self._seed
            won = seed.evaluate(policy, seeds=evaluation_seeds(seed.seed, self._args.starts))
            self.result["trials"][name] = [[task, start, bool(success)] for (task, start), success in won.items()]
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(self.result))
            partial.rename(self._path)
            seed.say(f"{name}: {np.mean(list(won.values())):.3f}")


def table(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return a markdown table: a row a policy, its gain over round 1 by seed."""
    first = f"{name}: round 1, {ARMS[0]}"
    heads = ("policy", "by seed", "mean [95 %, t over seeds]", "minus round 1, by seed [95 %, paired]", *TASKS)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    tried = [Tried.of(row["trials"]) for row in rows]
    for policy in dict.fromkeys(key for one in tried for key in one.trials):
        if ":" in policy and not policy.startswith(f"{name}:"):
            continue
        there = [one for one in tried if policy in one.trials]
        rates = [one.rate(policy) for one in there]
        gains = [difference(one.trials[first], one.trials[policy]) for one in there if policy != first]
        apart = " ".join(f"{gain['mean']:+.3f} [{gain['low']:+.2f}, {gain['high']:+.2f}]" for gain in gains)
        tasks = [f"{np.mean([one.rate(policy, task) for one in there]):.2f}" for task in TASKS]
        by_seed = " ".join(f"{rate:.3f}" for rate in rates)
        lines.append(f"| {' | '.join([policy, by_seed, interval(rates), apart, *tasks])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

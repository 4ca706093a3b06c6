"""What practice could win at most, and how steadily: GRPO with the true reward in the simulator, beside the dream.

`python -m benchmarks.ceiling` trains from the shipped base, each seed from start states of its own, in two grounds:
the simulator, rewarded by its state, and the seed's refined world model with its judge, as the demo's job makes them.
In each, the same settings of learning are compared: RATES by training, PUBLISHED by what of a run is published.
An average is taken from the iterates of a run: practice itself does not depend on it.

Each is evaluated greedily after 8, 16 and 24 updates: from start states that settings are chosen by ("choose"), and,
with --report-starts, from others that only ever report ("report"). A finished part is kept; what was interrupted goes
on, to the bit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo_seeds import Seed
from benchmarks.flow_seeds import Clock, interval
from gymnast_cli.demo.config import TASKS, DemoConfig
from gymnast_cli.demo.seeds import choosing_seeds, evaluation_seeds
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.processor import use_threads

GROUNDS = ("simulator", "dream")
RATES: dict[str, dict[str, Any]] = {
    "constant": {"final_rate": 1.0},
    "decay": {"final_rate": 0.1},
    "decay over 8 updates": {"final_rate": 0.1, "iterations": 8},
    "decay over 8 updates, KL .05": {"final_rate": 0.1, "iterations": 8, "kl_weight": 0.05},
    "decay over 8 updates, 24 informative groups": {
        "final_rate": 0.1,
        "iterations": 8,
        "target_groups": 24,
        "max_rounds": 3,
    },
}
"""Settings that change how the policy is trained."""
PUBLISHED = {"last": 0.0, "average": 0.8}
"""What of a run is published: its last iterate, or a moving average in which each weighs this times the next."""
STARTS = ("choose", "report")
UNUSED_ROUND = 0
"""Of the demo's choosing states: its rounds are counted from 1."""


@dataclass(frozen=True)
class Variant:
    """One policy: where it was trained, how, what of the run it is, and after how many updates."""

    ground: str
    rate: str
    published: str
    updates: int

    @property
    def key(self) -> str:
        """Its name in result.json."""
        return "/".join((self.ground, self.rate, self.published, str(self.updates)))


def main() -> int:
    """Train and evaluate what is missing, and write table and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="10,11,12", help="comma separated, of 0..99")
    parser.add_argument("--grounds", default="simulator,dream", help="comma separated")
    parser.add_argument("--rates", default="constant;decay", help=f"of {'; '.join(RATES)}, separated by semicolons")
    parser.add_argument("--updates", type=int, default=24)
    parser.add_argument("--every", type=int, default=8, help="updates between evaluations")
    parser.add_argument("--starts", type=int, default=50, help="per task")
    parser.add_argument("--report-starts", type=int, default=0, help="per task, of the last update; 0 reports none")
    parser.add_argument("--out", type=Path, default=Path("runs/ceiling"), help="working folder")
    parser.add_argument("--checkpoints", type=Path, default=DemoConfig().checkpoints)
    parser.add_argument("--only-table", action="store_true", help="write what is there")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--table", type=Path, help="also write the markdown table here")
    args = parser.parse_args()
    works = [CeilingSeed(int(word), args) for word in args.seeds.split(",")]
    if not args.only_table:
        _train_all(works, args)
    rows = [work.result for work in works]
    table = "\n".join(markdown(rows, starts) for starts in STARTS)
    print(table)
    if args.json:
        seeds = [brief(row) for row in rows]
        args.json.write_text(json.dumps({"settings": RATES, "published": PUBLISHED, "seeds": seeds}))
    if args.table:
        args.table.write_text(table)
    return 0


def _train_all(works: Sequence[CeilingSeed], args: argparse.Namespace) -> None:

    use_threads()
    for ground in args.grounds.split(","):
        for work in works:
            for rate in args.rates.split(";"):
                work.train(ground, rate)
                work.evaluate(ground, rate)


class CeilingSeed:
    """One seed: episodes, world model, judge, RL and start states of its own.

    Attributes:
        result: what was measured so far, by variant and starts; result.json is written after every evaluation.
    """

    def __init__(self, seed: int, args: argparse.Namespace) -> None:
        self.folder: Path = args.out / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._args, self._path = args, self.folder / "result.json"
        self._seed = Seed(DemoConfig(seed=seed, checkpoints=args.checkpoints), self.folder)
        known = self._path.exists()
        self.result: dict[str, Any] = json.loads(self._path.read_text()) if known else {"seed": seed, "trials": {}}

    def train(self, ground: str, rate: str) -> None:
        """Train a run to its end, every iterate kept."""
        out = self.run_folder(ground, rate)
        clock = Clock(out.with_suffix(".clock.json"))
        config = self._config(rate)
        if not self.iterate(out, config.iterations).exists():
            practise: Callable[..., None] = self._seed.simulated_grpo if ground == "simulator" else self._dream
            practise(out, config, candidate_every=1, progress=clock)
        told = clock.told()
        costs = self.result.setdefault("runs", {})
        costs[f"{ground}/{rate}"] = {"update_cpu_s": told["update_cpu_s"], "reward": told["imagined_reward"]}
        self._keep()

    def _config(self, rate: str) -> GrpoConfig:
        plain = GrpoConfig(iterations=self._args.updates, mask_after_success=True, seed=100 * self._seed.seed + 1)
        return plain.changed(**RATES[rate])

    def _dream(self, out: Path, config: GrpoConfig, *, candidate_every: int, progress: Callable[[Any], None]) -> None:
        from tests.cloud.local_sampler import local_sampler, run_grpo

        world, judge, starts = self._refined
        run_grpo(
            self._seed.base, local_sampler(world, judge, starts, config), config, out,
            candidate_every=candidate_every, state=out.with_suffix(".state"), progress=progress,
        )  # fmt: skip

    @cached_property
    def _refined(self) -> tuple[Any, Any, Any]:
        """World model, judge and starts as the demo's job makes them of the base's own episodes."""
        from cloud_trainer.judge.learned import LearnedJudge
        from cloud_trainer.world_model.compact.data import clips_of, starts_of
        from cloud_trainer.world_model.worlds import load_world
        from gymnast_core.episodes import read_episode

        seed, folder = self._seed, self.folder / "refined"
        if not (folder / "done").exists():
            seed.collect(seed.base, 1)
            seed.improve(seed.base, 1, seed.recorded(), "refined", seed.kinds, {"grpo_iterations": 1})
            (folder / "done").touch()
        starts = starts_of(clips_of([read_episode(entry.path) for entry in seed.recorded()], 64))
        return load_world(folder / "world_model"), LearnedJudge.load(folder / "judge"), starts

    def run_folder(self, ground: str, rate: str) -> Path:
        """Where a run's iterates lie."""
        return self.folder / "".join(letter if letter.isalnum() else "-" for letter in f"{ground}-{rate}")

    @staticmethod
    def iterate(run: Path, update: int) -> Path:
        """Where the policy after an update lies."""
        return run / f"iteration-{update:02d}"

    def evaluate(self, ground: str, rate: str) -> None:
        """Evaluate what is published of a run, greedily."""
        seed, args = self._seed.seed, self._args
        choose = choosing_seeds(seed, UNUSED_ROUND, args.starts)
        report = evaluation_seeds(seed, args.report_starts)
        self._measure("base", "choose", choose, lambda: self._seed.base)
        self._measure("base", "report", report, lambda: self._seed.base)
        for published in PUBLISHED:
            for updates in range(args.every, self._config(rate).iterations + 1, args.every):
                variant = Variant(ground, rate, published, updates)
                self._measure(variant.key, "choose", choose, partial(self._policy, variant))
            self._measure(variant.key, "report", report, partial(self._policy, variant))

    def _measure(self, name: str, starts: str, seeds: Sequence[int], policy: Callable[[], Path]) -> None:
        trials = self.result["trials"].setdefault(starts, {})
        if not seeds or name in trials:
            return
        won = self._seed.evaluate(policy(), seeds=seeds)
        trials[name] = [[task, start, bool(success)] for (task, start), success in won.items()]
        self._keep()
        self._seed.say(f"{starts}: {name}: {np.mean(list(won.values())):.3f}")

    def _policy(self, variant: Variant) -> Path:
        """The checkpoint of a variant; an average is made of the iterates before."""
        run = self.run_folder(variant.ground, variant.rate)
        if PUBLISHED[variant.published] == 0:
            return self.iterate(run, variant.updates)
        out = run / f"{variant.published}-{variant.updates:02d}"
        if not out.exists():
            iterates = [self.iterate(run, update) for update in range(1, variant.updates + 1)]
            average_of(iterates, PUBLISHED[variant.published], out)
        return out

    def _keep(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.result))
        partial.rename(self._path)


def average_of(iterates: Sequence[Path], decay: float, out: Path) -> None:
    """Write the moving average of a run's iterates (Polyak & Juditsky 1992), bias-corrected as in Adam."""
    from cloud_trainer.jobs.averaged import mean_of

    mean_of(iterates, lambda number: (1 - decay) / (1 - decay**number)).save(out)


def brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """A seed's figures without each of its trials: successes by task, and the paired difference from the base."""
    figures: dict[str, Any] = {}
    for starts, kept in row["trials"].items():
        trials = Tried.of(kept).trials
        figures[starts] = {
            name: {"after": counts(won), "difference": difference(trials["base"], won)} for name, won in trials.items()
        }
    return {"seed": row["seed"], "runs": row.get("runs", {}), "figures": figures}


def markdown(rows: Sequence[Mapping[str, Any]], starts: str) -> str:
    """One line a variant: by seed, mean with a t-interval over seeds, paired with the base and by task."""
    heads = ("policy", "by seed", "mean [95 %, t over seeds]", "minus base, lowest 95 % bound",
             "minus constant/last, by seed", *TASKS)  # fmt: skip
    there = [Tried.of(row["trials"].get(starts, {})) for row in rows]
    names = list(dict.fromkeys(name for one in there for name in one.trials))
    if not names:
        return ""
    lines = [f"Start states: {starts}\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in sorted(names, key=_order):
        cells = _cells(name, [one for one in there if name in one.trials])
        by_seed = " ".join(f"{one.rate(name):.3f}" if name in one.trials else "–" for one in there)
        lines.append(f"| {' | '.join([name, by_seed, *cells])} |")
    return "\n".join(lines) + "\n"


def _order(name: str) -> tuple[Any, ...]:
    """The base, then grounds, settings and updates."""
    parts = name.split("/")
    return (0,) if len(parts) == 1 else (1, GROUNDS.index(parts[0]), parts[1], parts[2] != "last", int(parts[3]))


@dataclass(frozen=True)
class Tried:
    """What one seed's policies did from the same starts."""

    trials: Mapping[str, Trials]

    @staticmethod
    def of(kept: Mapping[str, Sequence[Any]]) -> Tried:
        """Read what result.json keeps."""
        return Tried({name: {(task, start): won for task, start, won in rows} for name, rows in kept.items()})

    def rate(self, name: str, task: str | None = None) -> float:
        """Share of successes, of one task or of all."""
        count = counts(self.trials[name])
        chosen = count if task is None else count["tasks"][task]
        return chosen["successes"] / chosen["n"]


def _cells(name: str, seeds: Sequence[Tried]) -> list[str]:
    """A variant's figures over the seeds that have it."""
    parts = name.split("/")
    plain = f"{parts[0]}/constant/last/{parts[-1]}"
    gains = [difference(one.trials["base"], one.trials[name]) for one in seeds]
    return [
        interval([one.rate(name) for one in seeds]),
        f"{min(gain['low'] for gain in gains):+.3f}" if name != "base" else "",
        " ".join(f"{one.rate(name) - one.rate(plain):+.3f}" for one in seeds if plain != name and plain in one.trials),
        *(f"{np.mean([one.rate(name, task) for one in seeds]):.2f}" for task in TASKS),
    ]


if __name__ == "__main__":
    sys.exit(main())

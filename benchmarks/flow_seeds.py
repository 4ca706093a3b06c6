"""Does a flow policy learn in the dream, by which way of exploring, and how far from what is possible?

`python -m benchmarks.flow_seeds` repeats the job of `gymnast demo --policy flow` for several seeds in process, as
`benchmarks.demo_seeds` does for tokens: new on-policy episodes, refinement, judge, RL and start states each time. World
model and judge are refined once a seed, by the trainer's improve job on sampled episodes of the flow base; in them
every way of WAYS gets the same start states, updates and rollouts. Beside them: the same RL in the simulator with the
true reward (the bound), and the token policy, in a dream refined on its own episodes, at equal rollouts and at equal
time (as many updates as fit into the CPU seconds of the default way's, one thread).

One training at a time; episodes are collected and policies evaluated beside it, in other processes. A finished part is
kept: more seeds can be added to what is there, and an interrupted run goes on.

Fixed before the run: 8 updates of which the last is evaluated (nothing is chosen), success masking (for the bound too),
every seed range. The default way was chosen on seeds 0 and 1, which no claim rests on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.demo_seeds import Seed
from gymnast_cli.demo.config import DemoConfig
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.jobs import ImproveSettings
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.processor import use_threads

WAYS = {
    "endpoint, white": Exploration(way="endpoint", rho=0.0),
    "endpoint, AR(1)": Exploration(way="endpoint", rho=0.7),
    "Flow-SDE": Exploration(way="sde"),
    "FPO ratio": Exploration(way="fpo"),
}
DEFAULT, BOUND = "endpoint, AR(1)", "endpoint, white"
"""What the demo practises with; and how the bound explores."""
TRUE = "true reward, in the simulator (bound)"
TOKENS, TOKENS_BASE, TOKENS_TIME = "tokens, equal rollouts", "tokens, base", "tokens, equal time"
BASE = "flow, base"
ORDER = (BASE, *WAYS, TRUE, TOKENS_BASE, TOKENS, TOKENS_TIME)
TRAINED = (DEFAULT, TRUE, *(name for name in WAYS if name != DEFAULT), TOKENS, TOKENS_TIME)
"""In the order they are trained in: the claim first."""
UPDATES = ImproveSettings().grpo_iterations
MOST_UPDATES = 64


def main() -> int:
    """Run the seeds, one after the other, and write table and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="2,3,4,5,6", help="comma separated; 0 and 1 were for choosing the default")
    parser.add_argument("--only", help="names of parts, separated by semicolons (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/flow_seeds"), help="working folder")
    parser.add_argument("--checkpoints", type=Path, default=DemoConfig().checkpoints)
    parser.add_argument("--workers", type=int, default=1, help="processes that collect and evaluate")
    parser.add_argument("--report", action="store_true", help="only write what is there")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--table", type=Path, help="also write the markdown table here")
    args = parser.parse_args()
    only = args.only.split(";") if args.only else list(ORDER)
    seeds = [int(word) for word in args.seeds.split(",")]
    if not args.report:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, mp_context=context, initializer=os.setsid) as pool:
            works = [FlowSeed(seed, args.out / f"seed-{seed}", args.checkpoints, pool) for seed in seeds]
            run(works, only)
    paths = [args.out / f"seed-{seed}" / "result.json" for seed in seeds]
    rows = [json.loads(path.read_text()) for path in paths if path.exists()]
    table = markdown(rows)
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"default": DEFAULT, "seeds": [_brief(row) for row in rows]}, indent=1))
    if args.table:
        args.table.write_text(table)
    return 0


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """A seed's figures without each of its trials."""
    parts = {
        name: {key: part[key] for key in part if key not in ("trials", "policy")} for name, part in row["parts"].items()
    }
    return {"seed": row["seed"], "parts": parts}


def run(works: Sequence[FlowSeed], only: Sequence[str]) -> None:
    """Train part by part; while a seed trains, the next one's episodes are collected."""
    use_threads()
    kinds = list(dict.fromkeys(kind_of(name) for name in TRAINED if name in only and name != TRUE))
    for index, work in enumerate(works):
        for ahead in works[index : index + 2]:
            for kind in kinds:
                ahead.collect(kind)
        for name in (BASE, TOKENS_BASE):
            if name in only:
                work.evaluate(name, work.seeds[kind_of(name)].base, {})
        for name in TRAINED:
            if name in only and name not in work.result["parts"]:
                work.train(name)
    for work in works:
        work.finish()


def kind_of(part: str) -> str:
    """Of which kind a part's policy is."""
    return "tokens" if part.startswith("tokens") else "flow"


class FlowSeed:
    """One seed of flow and token policy.

    Attributes:
        seeds: by kind of policy.
        result: what was measured so far; result.json is written whenever a part is finished.
    """

    def __init__(self, seed: int, folder: Path, checkpoints: Path, pool: ProcessPoolExecutor) -> None:
        self._pool, self._path = pool, folder / "result.json"
        self._collected: dict[str, Future[None]] = {}
        self._evaluated: dict[str, Future[dict[str, Any]]] = {}
        self._starts: dict[str, Any] = {}
        self.seeds = {}
        for kind in ("flow", "tokens"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            self.seeds[kind] = Seed(DemoConfig(seed=seed, policy=kind, checkpoints=checkpoints), folder / kind)
        known = self._path.exists()
        self.result: dict[str, Any] = json.loads(self._path.read_text()) if known else {"seed": seed, "parts": {}}

    def collect(self, kind: str) -> None:
        """Collect on-policy episodes of the base beside what goes on, once."""
        seed = self.seeds[kind]
        if kind not in self._collected:
            self._collected[kind] = self._pool.submit(collect, seed.config, seed.folder)

    def train(self, name: str) -> None:
        """Train a part, and have it evaluated."""
        kind, out = kind_of(name), self.seeds[kind_of(name)].folder / folder_of(name)
        config = GrpoConfig(iterations=UPDATES, mask_after_success=True, seed=100 * self.seeds[kind].seed + 1)
        if kind == "flow":
            config = config.changed(exploration=WAYS[BOUND if name == TRUE else name])
        if name == TOKENS_TIME:
            config = config.changed(iterations=self._updates_at_equal_time())
        clock = Clock(out.with_suffix(".clock.json"))
        if name == TRUE:
            seed = self.seeds[kind]
            seed.simulated_grpo(out, config, candidate_every=config.iterations, progress=clock)
        else:
            self._dream(kind, config, out, clock)
        self.evaluate(name, sorted(out.glob("iteration-*"))[-1], clock.told())

    def _dream(self, kind: str, config: GrpoConfig, out: Path, clock: Clock) -> None:
        from cloud_trainer.judge.learned import LearnedJudge
        from cloud_trainer.world_model.worlds import load_world
        from tests.cloud.local_sampler import local_sampler, run_grpo

        world, judge = (self._refined(kind) / part for part in ("world_model", "judge"))
        sampler = local_sampler(load_world(world), LearnedJudge.load(judge), self._starts_of(kind), config)
        run_grpo(
            self.seeds[kind].base, sampler, config, out, candidate_every=config.iterations,
            state=out.with_suffix(".state"), progress=clock,
        )  # fmt: skip

    def _refined(self, kind: str) -> Path:
        """World model and judge of this seed, as the demo's job refines and audits them."""
        self._collected[kind].result()
        seed, folder = self.seeds[kind], self.seeds[kind].folder / "refined"
        if not (folder / "done").exists():
            job = seed.improve(seed.base, 1, seed.recorded(), "refined", seed.kinds, {"grpo_iterations": 1})
            told = {"audit": job["audit"], "refused": job.get("refused", "")}
            (folder / "done").write_text(json.dumps(told))
        return folder

    def _starts_of(self, kind: str) -> Any:
        from cloud_trainer.world_model.compact.data import clips_of, starts_of
        from gymnast_core.episodes import read_episode

        if kind not in self._starts:
            recorded = self.seeds[kind].recorded()
            self._starts[kind] = starts_of(clips_of([read_episode(entry.path) for entry in recorded], 64))
        return self._starts[kind]

    def _updates_at_equal_time(self) -> int:
        """As many updates of tokens as fit into the time of the default way's."""
        flow, tokens = (self.seeds[kind_of(name)].folder / folder_of(name) for name in (DEFAULT, TOKENS))
        each = [Clock(path.with_suffix(".clock.json")).told()["update_cpu_s"] for path in (flow, tokens)]
        return max(1, min(MOST_UPDATES, round(UPDATES * each[0] / each[1])))

    def evaluate(self, name: str, policy: Path, told: Mapping[str, Any]) -> None:
        """Evaluate from the seed's own start states, greedily, beside what goes on."""
        if name in self.result["parts"] or name in self._evaluated:
            return
        seed = self.seeds[kind_of(name)]
        future = self._pool.submit(evaluate, seed.config, seed.folder, policy, dict(told))
        self._evaluated[name] = future
        future.add_done_callback(lambda done: self._keep(name, done.result()))

    def _keep(self, name: str, part: Mapping[str, Any]) -> None:
        self.result["parts"][name] = dict(part)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.result, indent=1))
        partial.rename(self._path)
        print(f"seed {self.result['seed']}: {name}: {rate(part):.3f}", flush=True)

    def finish(self) -> None:
        """Wait for every evaluation.

        Raises:
            GymnastError: one failed.
        """
        for future in self._evaluated.values():
            future.result()


def collect(config: DemoConfig, folder: Path) -> None:
    """Record a seed's on-policy episodes, unless they are there."""
    _one_thread()
    if not (folder / "collected").exists():
        Seed(config, folder).collect(config.kinds["policy"], 1)
        (folder / "collected").touch()


def evaluate(config: DemoConfig, folder: Path, policy: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a policy does from the seed's evaluation states, and what was told of its training."""
    _one_thread()
    seed = Seed(config, folder)
    trials = seed.evaluate(policy)
    won = [[task, start, bool(success)] for (task, start), success in trials.items()]
    return {"after": counts(trials), "policy": seed.name_of(policy), "trials": won, **told}


def _one_thread() -> None:

    use_threads()


class Clock:
    """Imagined reward and CPU seconds of this process after every update, kept over interruptions.

    Args:
        path: where they are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, 0.0
        self._rows: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []

    def __call__(self, event: Any) -> None:
        """Take note of an update."""
        now, last = time.process_time(), self._last
        self._last = now
        row = {"reward": event.metrics["imagined_reward"]} | ({"cpu_s": now - last} if last else {})
        self._rows = [*self._rows[: event.step - 1], row]
        self._path.write_text(json.dumps(self._rows))

    def told(self) -> dict[str, Any]:
        """Reward by update, and mean seconds of an update; the first of a run also read the files and counts not."""
        seconds = [row["cpu_s"] for row in self._rows if "cpu_s" in row]
        return {
            "imagined_reward": [row["reward"] for row in self._rows], "updates": len(self._rows),
            "update_cpu_s": float(np.mean(seconds)) if seconds else float("nan"),
        }  # fmt: skip


def folder_of(name: str) -> str:
    """A part's folder."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def rate(part: Mapping[str, Any]) -> float:
    """Share of successes."""
    return float(part["after"]["successes"] / part["after"]["n"])


def trials_of(part: Mapping[str, Any]) -> Trials:
    """What measured() wrote, as trials."""
    return {(task, start): won for task, start, won in part["trials"]}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a part: by seed, mean with a t-interval over seeds, and paired with base and bound."""
    heads = (
        "part", "by seed", "mean [95 %, t over seeds]", "after / base", "minus base, lowest 95 % bound",
        "share of the bound", "minus the bound, paired [95 %] by seed", "CPU s an update",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in ORDER:
        there = [row["parts"] for row in rows if name in row["parts"]]
        if there:
            by_seed = (f"{rate(row['parts'][name]):.3f}" if name in row["parts"] else "–" for row in rows)
            lines.append(f"| {' | '.join([name, ' '.join(by_seed), *_cells(name, there)])} |")
    return "\n".join(lines) + "\n"


def _cells(name: str, seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """A part's figures over the seeds that have it."""
    base = TOKENS_BASE if kind_of(name) == "tokens" else BASE
    from_base = [(parts[base], parts[name]) for parts in seeds if base in parts and name != base]
    bounded = [(parts[TRUE], parts[name]) for parts in seeds if TRUE in parts and name in WAYS]
    gains, apart = (
        [difference(trials_of(first), trials_of(second)) for first, second in pairs] for pairs in (from_base, bounded)
    )
    cost = [parts[name]["update_cpu_s"] for parts in seeds if "update_cpu_s" in parts[name]]
    return [
        interval([rate(parts[name]) for parts in seeds]),
        interval([rate(after) / rate(before) for before, after in from_base], 2),
        f"{min(one['low'] for one in gains):+.3f}" if gains else "",
        interval([rate(after) / rate(bound) for bound, after in bounded], 2),
        " ".join(f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" for one in apart),
        f"{np.mean(cost):.1f}" if cost else "",
    ]


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and its t-interval over seeds; one seed has none."""
    if not values:
        return ""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:.{digits}f} [{mean - half:.{digits}f}, {mean + half:.{digits}f}]"


if __name__ == "__main__":
    sys.exit(main())

"""Does a flow policy learn in the dream, by which way of exploring, and how far from what is possible?

`python -m benchmarks.flow_seeds` repeats the job of `gymnast demo --policy flow` for several seeds in process, as
`benchmarks.demo_seeds` does for tokens: new on-policy episodes, refinement, judge, RL and start states each time. World
model and judge are refined once a seed, on sampled episodes of the flow base; in them every way of WAYS gets the same
start states, updates and rollouts. Beside them: the same RL in the simulator with the true reward (the bound), and the
token policy, by its own demo path, at equal rollouts and at equal time (as many updates as fit into the CPU seconds of
the default way's, one thread).

A finished part is kept: more seeds can be added to what is there, and an interrupted run goes on.

Fixed before the run: iteration count, success masking (for the bound too), the choice rule (gymnast_cli.demo.choice:
the most successes on 100 choosing states decide among base and candidates), every seed range. The default way was
chosen on seed 0, which no claim rests on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.demo_seeds import Seed
from gymnast_cli.demo.config import DemoConfig
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.jobs.exploration import Exploration

WAYS = {
    "endpoint, white": Exploration(way="endpoint", rho=0.0),
    "endpoint, AR(1)": Exploration(way="endpoint", rho=0.7),
    "Flow-SDE": Exploration(way="sde"),
    "FPO ratio": Exploration(way="fpo"),
}
DEFAULT = "endpoint, white"
TRUE = "true reward, in the simulator (bound)"
TOKENS, TOKENS_BASE, TOKENS_TIME = "tokens, equal rollouts", "tokens, base", "tokens, equal time"
BASE = "flow, base"
ORDER = (BASE, *WAYS, TRUE, TOKENS_BASE, TOKENS, TOKENS_TIME)
MOST_UPDATES = 64


def main() -> int:
    """Run the seeds, one after the other, and write table and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3,4,5", help="comma separated; 0 was for choosing the default")
    parser.add_argument("--only", help="names of parts, separated by semicolons (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/flow_seeds"), help="working folder")
    parser.add_argument("--checkpoints", type=Path, default=DemoConfig().checkpoints)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--table", type=Path, help="also write the markdown table here")
    args = parser.parse_args()
    only = args.only.split(";") if args.only else list(ORDER)
    seeds = [int(word) for word in args.seeds.split(",")]
    for seed in seeds:
        run_seed(seed, args.out / f"seed-{seed}", args.checkpoints, only)
    rows = [json.loads((args.out / f"seed-{seed}" / "result.json").read_text()) for seed in seeds]
    table = markdown(rows)
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"default": DEFAULT, "seeds": rows}, indent=1))
    if args.table:
        args.table.write_text(table)
    return 0


def run_seed(seed: int, folder: Path, checkpoints: Path, only: Sequence[str]) -> None:
    """Run what is missing of one seed, and write its result.json after every part."""
    import torch

    torch.set_num_threads(1)
    path = folder / "result.json"
    result = json.loads(path.read_text()) if path.exists() else {"seed": seed, "parts": {}}
    work = FlowSeed(seed, folder, checkpoints, result["parts"])
    for name, measure in work.parts().items():
        if name in only and name not in result["parts"]:
            started = time.process_time()
            result["parts"][name] = measure() | {"all_cpu_s": time.process_time() - started}
            path.write_text(json.dumps(result, indent=1))
            print(f"seed {seed}: {name}: {rate(result['parts'][name]):.3f}", flush=True)


class FlowSeed:
    """One seed of flow and token policy.

    Args:
        parts: what was measured already.
    """

    def __init__(self, seed: int, folder: Path, checkpoints: Path, parts: Mapping[str, Any]) -> None:
        self.done = parts
        self.kinds = {}
        for kind in ("flow", "tokens"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            config = DemoConfig(seed=seed, policy=kind, checkpoints=checkpoints)
            self.kinds[kind] = Seed(config, folder / kind)
        self.flow, self.tokens = self.kinds["flow"], self.kinds["tokens"]

    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Every part, in an order in which each finds what it needs."""
        ways = {name: (lambda name=name: self.way(name)) for name in WAYS}
        return {
            BASE: lambda: self.measured(self.flow, self.flow.base),
            **ways,
            TRUE: self.true_reward,
            TOKENS_BASE: lambda: self.measured(self.tokens, self.tokens.base),
            TOKENS: lambda: self.practised(self.tokens, TOKENS, {}),
            TOKENS_TIME: self.tokens_at_equal_time,
        }

    def way(self, name: str) -> dict[str, Any]:
        """Practise in the dream by one way of exploring."""
        return self.practised(self.flow, name, {"grpo": {"exploration": WAYS[name]}})

    def practised(self, seed: Seed, name: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """Practise in the refined dream, refining it first where that was not done."""
        refined = seed.folder / "refined"
        if not (refined / "done").exists():
            episodes = seed.recorded() if (refined / "collected").exists() else seed.collect(seed.base, 1)
            refined.mkdir(exist_ok=True)
            (refined / "collected").touch()
            seed.improve(seed.base, 1, episodes, "refined", seed.kinds, {"grpo_iterations": 1})
            (refined / "done").touch()
        kinds = {kind: refined / kind if (refined / kind).exists() else seed.kinds[kind] for kind in seed.kinds}
        frozen = {"refine_iterations": 0, "judge_iterations": 0, **change}
        clock = Clock()
        job = seed.improve(seed.base, 1, seed.recorded(), folder_of(name), kinds, frozen, clock)
        told = {"imagined_reward": job["imagined_reward"], "update_cpu_s": clock.seconds_per_update}
        chosen = seed.choose(seed.base, [Path(one["folder"]) for one in job["candidates"]], 1)
        return self.measured(seed, chosen) | told | {"refused": job.get("refused", "")}

    def true_reward(self) -> dict[str, Any]:
        """The same in the simulator, with its state as reward."""
        out, settings = self.flow.folder / "true", self.flow.config.improve
        change = {
            "iterations": settings.grpo_iterations, "exploration": WAYS[DEFAULT], "mask_after_success": True,
        }  # fmt: skip
        self.flow.simulated_grpo(out, change, candidate_every=settings.candidate_every)
        return self.measured(self.flow, self.flow.choose(self.flow.base, sorted(out.glob("iteration-*")), 1))

    def tokens_at_equal_time(self) -> dict[str, Any]:
        """Tokens again, with as many updates as fit into the time of the flow's."""
        default, tokens = self.done[DEFAULT]["update_cpu_s"], self.done[TOKENS]["update_cpu_s"]
        updates = max(1, min(MOST_UPDATES, round(self.flow.config.improve.grpo_iterations * default / tokens)))
        if updates == self.flow.config.improve.grpo_iterations:
            return {**self.done[TOKENS], "updates": updates}
        return self.practised(self.tokens, TOKENS_TIME, {"grpo_iterations": updates}) | {"updates": updates}

    def measured(self, seed: Seed, policy: Path) -> dict[str, Any]:
        """Evaluate from the seed's own start states, greedily."""
        trials = seed.evaluate(policy)
        won = [[task, start, bool(won)] for (task, start), won in trials.items()]
        return {"after": counts(trials), "policy": seed.name_of(policy), "trials": won}


class Clock:
    """CPU seconds of this process between the updates of a job."""

    def __init__(self) -> None:
        self._at: list[float] = []

    def __call__(self, event: Any) -> None:
        """Take note of a job's progress."""
        if event.stage == "grpo":
            self._at.append(time.process_time())

    @property
    def seconds_per_update(self) -> float:
        """Mean over all updates but the first, whose beginning is not reported."""
        return (self._at[-1] - self._at[0]) / (len(self._at) - 1) if len(self._at) > 1 else float("nan")


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
    """One line a part: by seed, mean with a t-interval over seeds, ratio to its base, and against the bound."""
    lines = [
        "| part | by seed | mean [95 %, t over seeds] | after / base | share of the bound | minus the bound, paired "
        "[95 %] by seed | CPU s an update |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ORDER:
        parts = [row["parts"].get(name) for row in rows]
        there = [(row["parts"], part) for row, part in zip(rows, parts, strict=True) if part is not None]
        if not there:
            continue
        rates = [rate(part) for _, part in there]
        base = TOKENS_BASE if name.startswith("tokens") else BASE
        ratios = [rate(part) / rate(parts[base]) for parts, part in there if base in parts]
        bounded = [(parts[TRUE], part) for parts, part in there if TRUE in parts]
        shares = [rate(part) / rate(bound) for bound, part in bounded]
        apart = [difference(trials_of(bound), trials_of(part)) for bound, part in bounded] if name in WAYS else []
        cost = [part["update_cpu_s"] for _, part in there if "update_cpu_s" in part]
        cells = [
            name, " ".join("–" if part is None else f"{rate(part):.3f}" for part in parts), interval(rates),
            interval(ratios, 2), interval(shares, 2),
            " ".join(f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" for one in apart),
            f"{np.mean(cost):.1f}" if cost else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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

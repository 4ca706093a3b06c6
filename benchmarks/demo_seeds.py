"""Does practising in the dream help, over seeds of everything after the shipped checkpoints?

`python -m benchmarks.demo_seeds` repeats the demo's job for several seeds in process (the same Env contract; a test
shows that an episode over the graph and one in process end identically), with new on-policy episodes, refinement,
judge, RL and start states each time. Beside it, from the same start and with the same number of policy updates or
rollouts: more SFT, Iter-SFT, and GRPO in the simulator with the true reward as the upper bound. `--ablations` adds
GRPO in the world model with and without success masking, keyframe starts and refinement.

A finished part is kept: more rounds, baselines or ablations can be added to what is there.

Fixed before the run: iteration count, the choice rule (gymnast_cli.demo.choice), every seed range.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cloud_trainer.progress import silent
from gymnast_cli.demo.choice import best_of
from gymnast_cli.demo.config import TASKS, DemoConfig
from gymnast_cli.demo.seeds import choosing_seeds, collecting_seeds, evaluation_seeds
from gymnast_core.errors import NotTrustedError
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.processor import use_threads

SFT_ITERATIONS = 300
"""Steps of the two imitation baselines: about the wall time of the GRPO updates, refinement left out."""

NOT_REFINED = "no masking, no keyframes, world model and judge as shipped"
ABLATIONS: dict[str, dict[str, Any]] = {
    "no masking, no keyframes": {"mask_after_success": False, "keyframe_share": 0.0},
    "masking, no keyframes": {"mask_after_success": True, "keyframe_share": 0.0},
    "no masking, half from keyframes": {"mask_after_success": False, "keyframe_share": 0.5},
    "masking, half from keyframes": {"mask_after_success": True, "keyframe_share": 0.5},
    NOT_REFINED: {"mask_after_success": False, "keyframe_share": 0.0},
}
"""Round 1 again with these settings."""


def main() -> int:
    """Run the seeds, two at a time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma separated")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo_seeds"), help="working folder; finished seeds are kept"
    )
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--parallel", type=int, default=2, help="seeds at a time, one thread each")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--ablations", action="store_true", help="also GRPO with other settings")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        return run_seed(args.one, args)
    seeds = [int(word) for word in args.seeds.split(",")]
    _run_all(seeds, args)
    rows = [json.loads((args.out / f"seed-{seed}" / "result.json").read_text()) for seed in seeds]
    summary = summarise(rows)
    Console().print(table_of(summary))
    if args.json:
        args.json.write_text(json.dumps({"summary": summary, "seeds": rows}, indent=1))
    return 0


def _run_all(seeds: Sequence[int], args: argparse.Namespace) -> None:
    waiting = [seed for seed in seeds if not _finished(args.out / f"seed-{seed}", args)]
    running: list[subprocess.Popen[bytes]] = []
    options = ["--out", str(args.out), "--checkpoints", str(args.checkpoints), "--rounds", str(args.rounds)]
    options += ["--no-baselines"] * args.no_baselines + ["--ablations"] * args.ablations
    while waiting or running:
        while waiting and len(running) < args.parallel:
            command = [sys.executable, "-m", "benchmarks.demo_seeds", "--one", str(waiting.pop(0)), *options]
            running.append(subprocess.Popen(command))
        time.sleep(1)
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            if process.returncode:
                sys.exit(f"a seed failed with code {process.returncode}; see above")


def _finished(folder: Path, args: argparse.Namespace) -> bool:
    path = folder / "result.json"
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    wanted = ["baselines"] * (not args.no_baselines) + ["ablations"] * args.ablations
    return len(result["rounds"]) >= args.rounds and all(name in result for name in wanted)


def run_seed(seed: int, args: argparse.Namespace) -> int:
    """Run what is missing of one seed and write its result.json."""
    use_threads()
    folder = args.out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    work, path = Seed(DemoConfig(seed=seed, checkpoints=args.checkpoints), folder), folder / "result.json"
    result = json.loads(path.read_text()) if path.exists() else work.begin()
    parts: dict[str, Any] = {}
    if not args.no_baselines:
        parts["baselines"] = work.baselines
    if args.ablations:
        parts["ablations"] = work.ablations
    while len(result["rounds"]) < args.rounds:
        result["rounds"].append(work.round(result))
        path.write_text(json.dumps(result, indent=1))
    for name, measure in parts.items():
        if name not in result:
            result[name] = measure()
            path.write_text(json.dumps(result, indent=1))
    return 0


class Seed:
    """One seed of everything after the shipped checkpoints."""

    def __init__(self, config: DemoConfig, folder: Path) -> None:
        from gymnast_ros.sim.env import SimEnv

        self.seed, self.folder, self.config = config.seed, folder, config
        self.kinds = config.kinds
        self.base = self.kinds["policy"]
        self.env = SimEnv()

    def begin(self) -> dict[str, Any]:
        """Evaluate the base policy; returns the seed's figures so far."""
        before, sampled = self.evaluate(self.base), self.evaluate(self.base, sampled=True)
        return {"seed": self.seed, "before": counts(before), "rounds": [], "before_temperature_1": counts(sampled)}

    def round(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Go round the loop once more from where `result` ended."""
        started, number = time.monotonic(), len(result["rounds"]) + 1
        current = self.resume(result["rounds"])
        job = self.practise(current, number)
        current = self.choose(current, [Path(c["folder"]) for c in job["candidates"]], number)
        after = self.evaluate(current)
        outcome, gain = counts(after), difference(self.evaluate(self.base), after)
        entry = {"round": number, "after": outcome, "difference": gain}
        entry |= {
            "audit": job["audit"],
            "refused": job.get("refused", ""),
            "imagined_reward": job["imagined_reward"],
            "chosen": self.name_of(current),
        }
        self.say(f"round {number}: {_rate(outcome):.3f} from {_rate(result['before']):.3f}")
        return entry | {"seconds": time.monotonic() - started}

    def resume(self, rounds: Sequence[Mapping[str, Any]]) -> Path:
        """Take world model and judge from the last of these rounds; returns the policy that it chose."""
        if not rounds:
            return self.base
        last = self.folder / f"job-{len(rounds)}"
        self.kinds |= {kind: last / kind for kind in ("world_model", "judge") if (last / kind).exists()}
        chosen = rounds[-1]["chosen"]
        return self.base if chosen == "base" else self.folder / chosen

    def name_of(self, policy: Path) -> str:
        """Where a policy lies in the seed's folder; the shipped one is "base"."""
        return "base" if policy == self.base else str(policy.relative_to(self.folder))

    def say(self, text: str) -> None:
        """Print one line with the seed in front."""
        print(f"seed {self.seed}: {text}", flush=True)

    def evaluate(self, policy: Path, *, sampled: bool = False, seeds: Sequence[int] | None = None) -> Trials:
        """Run the policy from this seed's evaluation states."""
        from gymnast_core.policies import load_policy
        from gymnast_ros.sim.collect import evaluate

        rng = np.random.default_rng(self.seed) if sampled else None
        starts = seeds or evaluation_seeds(self.seed, self.config.evaluation_seeds)
        trials = evaluate(self.env, load_policy(policy), starts, tasks=TASKS, rng=rng)
        return {(trial.task, trial.seed): trial.succeeded for trial in trials}

    def collect(self, policy: Path, number: int) -> list[Any]:
        """Record on-policy episodes as the robot does: full-size frames, sampled actions, labelled, as files."""
        from gymnast_core.episodes import write_episode
        from gymnast_core.policies import load_policy
        from gymnast_ros.sim.collect import collect

        out = self.folder / "episodes"
        out.mkdir(exist_ok=True)
        loaded = load_policy(policy)
        rng = np.random.default_rng([self.seed, number])
        seeds = collecting_seeds(self.seed, number, self.config.episodes)
        for task in TASKS:
            for episode in collect(self.env, loaded, task, seeds, rng=rng, frame_steps=None, frame_size=64):
                if not (out / f"{episode.episode_id}.mcap").exists():
                    write_episode(out, episode, robot="sim-0")
        self.say(f"collected {len(seeds) * len(TASKS)} episodes")
        return self.recorded()

    def recorded(self, rounds: int | None = None) -> list[Any]:
        """Episodes of the first `rounds` rounds, or of all, the oldest round first."""
        from cloud_trainer.jobs.runner import Recorded
        from gymnast_core.episodes import read_summary

        def round_of(path: Path) -> int:
            start = int(path.stem.rsplit("-", 1)[1])
            return next(
                number
                for number in itertools.count(1)
                if start in collecting_seeds(self.seed, number, self.config.episodes)
            )

        paths = sorted((self.folder / "episodes").glob("*.mcap"), key=lambda path: (round_of(path), path.name))
        kept = [path for path in paths if rounds is None or round_of(path) <= rounds]
        return [Recorded(path, read_summary(path).end.outcome.value) for path in kept]

    def practise(self, policy: Path, number: int) -> dict[str, Any]:
        """Run the trainer's improve job on everything recorded so far."""
        return self.improve(policy, number, self.collect(policy, number), f"job-{number}", self.kinds, {})

    def improve(
        self,
        policy: Path,
        number: int,
        episodes: list[Any],
        name: str,
        kinds: Mapping[str, Path],
        change: Mapping[str, Any],
        progress: Callable[[Any], None] = lambda event: None,
    ) -> dict[str, Any]:
        """Run the trainer's improve job in folder `name`, with the demo's settings and this change."""
        from cloud_trainer.jobs.improve import improve
        from cloud_trainer.jobs.job import Job
        from cloud_trainer.progress import never
        from gymnast_core.jobs import ImproveSpec
        from gymnast_core.records.manifest import read_manifest

        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        spec = ImproveSpec(
            policy=read_manifest(policy).id, seed=self.seed * 100 + number, config=self.config.improve.changed(**change)
        )
        try:
            return improve(Job(spec, {**kinds, "policy": policy}, episodes, folder, progress, never)).to_json()
        except NotTrustedError as error:
            self.say(f"{name}: refused to practise: {error}")
            return {"candidates": [], "refused": str(error), "imagined_reward": [], "audit": {}}

    def ablations(self) -> dict[str, Any]:
        """Round 1 with other settings: same episodes, start states, seed, choice rule and evaluation."""
        episodes = self.recorded(rounds=1)
        before, found = self.evaluate(self.base), {}
        refined = {kind: self.folder / "job-1" / kind for kind in ("world_model", "judge")}
        frozen = {"refine_iterations": 0, "judge_iterations": 0}
        for name, change in ABLATIONS.items():
            kinds = self.kinds if name == NOT_REFINED else refined
            job = self.improve(self.base, 1, episodes, f"ablation {name}", kinds, {**frozen, **change})
            chosen = self.choose(self.base, [Path(c["folder"]) for c in job["candidates"]], 1)
            after = self.evaluate(chosen)
            outcome = counts(after)
            found[name] = {
                "after": outcome,
                "difference": difference(before, after),
                "chosen": self.name_of(chosen),
            }
            self.say(f"{name}: {_rate(outcome):.3f}")
        return found

    def choose(self, current: Path, candidates: Sequence[Path], number: int) -> Path:
        """Apply the demo's choice rule on the choosing states."""
        seeds = choosing_seeds(self.seed, number, self.config.choosing_seeds)
        options = {str(path): self.evaluate(path, seeds=seeds) for path in (current, *candidates)}
        return Path(best_of(options))

    def baselines(self) -> dict[str, Any]:
        """More SFT, Iter-SFT and GRPO with true reward, from the same base, on the same start states."""
        before, found = self.evaluate(self.base), {}
        for name, make in (
            ("more SFT", self.more_sft),
            ("Iter-SFT", self.iter_sft),
            ("GRPO, true reward", self.true_grpo),
        ):
            folder = self.folder / name.replace(" ", "_").replace(",", "")
            if not folder.exists():
                make(folder)
            last = folder if (folder / "manifest.json").exists() else sorted(folder.glob("iteration-*"))[-1]
            after = self.evaluate(last)
            found[name] = {"after": counts(after), "difference": difference(before, after)}
            self.say(f"{name}: {_rate(found[name]['after']):.3f}")
        return found

    def more_sft(self, out: Path) -> None:
        """Clone the same flawed demonstrations for longer."""
        from cloud_trainer.sft.trainer import train_sft

        train_sft(self.demonstrations(), self.sft_config(), out, parent=self.base)

    def iter_sft(self, out: Path) -> None:
        """Imitate imagined successes, as many rollouts as GRPO gets, mixed 1:1 with the demonstrations."""
        from cloud_trainer.jobs.imitate import imagined_successes
        from cloud_trainer.judge.learned import LearnedJudge
        from cloud_trainer.sft.trainer import train_sft
        from cloud_trainer.world_model.compact.data import clips_of, starts_of
        from cloud_trainer.world_model.worlds import load_world
        from gymnast_core.episodes import read_episode
        from gymnast_core.jobs import ImproveSettings
        from gymnast_core.policies.compact import CompactPolicy
        from tests.cloud.local_sampler import local_sampler

        clips = clips_of([read_episode(entry.path) for entry in self.recorded(rounds=1)], 64)
        refined = self.folder / "job-1"
        world, judge = load_world(refined / "world_model"), LearnedJudge.load(refined / "judge")
        sampler = local_sampler(world, judge, starts_of(clips), GrpoConfig(seed=self.seed))
        policy = CompactPolicy.load(self.base, row_by_row=False, temperature=1.0)
        rounds = ImproveSettings().grpo_iterations
        imagined = imagined_successes(sampler, policy, GrpoConfig(seed=self.seed), rounds=rounds)
        train_sft(self.demonstrations(), self.sft_config(), out, parent=self.base, imagined=imagined)

    def true_grpo(self, out: Path) -> None:
        """The same RL in the simulator, rewarded by its state: the upper bound."""
        from gymnast_core.jobs import ImproveSettings

        updates, seed = ImproveSettings().grpo_iterations, self.seed * 100 + 1
        self.simulated_grpo(out, GrpoConfig(iterations=updates, seed=seed), candidate_every=updates)

    def simulated_grpo(
        self, out: Path, config: GrpoConfig, *, candidate_every: int, progress: Callable[[Any], None] = silent
    ) -> None:
        """Practise in the simulator from the start states of round 1; an interrupted run goes on."""
        from benchmarks.simulated_reward import simulator_sampler
        from tests.cloud.local_sampler import run_grpo

        seeds, state = collecting_seeds(self.seed, 1, self.config.episodes), out.with_suffix(".state")
        sampler = simulator_sampler(seeds, config)
        run_grpo(self.base, sampler, config, out, candidate_every=candidate_every, state=state, progress=progress)

    def sft_config(self) -> Any:
        """Settings of both imitation baselines."""
        from gymnast_core.jobs.imitate import SftConfig

        return SftConfig(iterations=SFT_ITERATIONS, learning_rate=3e-4, seed=self.seed)

    def demonstrations(self) -> Any:
        """Demonstrations with the same systematic flaw, from start states of this seed."""
        from gymnast_core.episodes.archive import Share
        from gymnast_ros.sim.drivers import collect_shares

        seeds = tuple(collecting_seeds(self.seed, 9, 100))
        return collect_shares([Share("flawed", task, seeds) for task in TASKS], workers=1)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return per-seed and mean figures for every variant."""
    variants: dict[str, list[float]] = {"base, greedy": [], "base, temperature 1": []}
    gains: dict[str, list[Mapping[str, float]]] = {}
    for row in rows:
        variants["base, greedy"].append(_rate(row["before"]))
        variants["base, temperature 1"].append(_rate(row["before_temperature_1"]))
        for entry in row["rounds"]:
            name = f"GRPO in the world model, round {entry['round']}"
            variants.setdefault(name, []).append(_rate(entry["after"]))
            gains.setdefault(name, []).append(entry["difference"])
        for name, entry in {**row.get("baselines", {}), **row.get("ablations", {})}.items():
            variants.setdefault(name, []).append(_rate(entry["after"]))
            gains.setdefault(name, []).append(entry["difference"])
    base = float(np.mean(variants["base, greedy"]))
    summary: dict[str, dict[str, Any]] = {
        name: {
            "rates": rates,
            "mean": float(np.mean(rates)),
            "ratio": float(np.mean(rates)) / base,
            "differences": gains.get(name, []),
        }
        for name, rates in variants.items()
    }
    bound = summary.get("GRPO, true reward", {}).get("mean")
    dream = summary.get("GRPO in the world model, round 1", {}).get("mean")
    if bound and dream:
        summary["share of the true-reward gain reached in the world model"] = {"mean": (dream - base) / (bound - base)}
    return summary


def _rate(count: Mapping[str, int]) -> float:
    return count["successes"] / count["n"]


def table_of(summary: Mapping[str, Any]) -> Table:
    """One row per variant."""
    table = Table(title="Success on the robot, same start states, one column entry per seed")
    for column in ("variant", "by seed", "mean", "ratio", "paired difference, lowest 95 % bound over seeds"):
        table.add_column(column)
    for name, row in summary.items():
        lows = [entry["low"] for entry in row.get("differences", [])]
        rates = " ".join(f"{rate:.3f}" for rate in row.get("rates", []))
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        table.add_row(name, rates, f"{row['mean']:.3f}", ratio, f"{min(lows):+.3f}" if lows else "")
    return table


if __name__ == "__main__":
    sys.exit(main())

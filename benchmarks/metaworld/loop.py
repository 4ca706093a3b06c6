"""The whole loop in Meta-World, in our environment: base, first world model and judge, practice, and its rivals.

Every stage writes its result and is left out when that is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metaworld.report import write_report
from benchmarks.metaworld.served import Served, trials
from benchmarks.metaworld.tasks import MetaWorldTask, episodes_of, starts_of
from cloud_trainer.jobs.desk.begin import BeginAmounts, Beginning, read_camera_matrix
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import never
from cloud_trainer.sft.trainer import train_sft
from gymnast_cli.demo.choice import best_of
from gymnast_core.episodes import read_episode, read_summary
from gymnast_core.errors import NotTrustedError
from gymnast_core.foreign.collect import collect_episodes
from gymnast_core.jobs import ImproveSettings, ImproveSpec
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode, Outcome

EXPERTS = Path(__file__).with_name("experts_cpu2_202611.json")
"""Slips as they were chosen on 2026-11-30; a run folder's own experts.json stands before it."""


@dataclass(frozen=True)
class Amounts:
    """How much of everything; fixed before the first run. Short is five CPU minutes for one task.

    Attributes:
        demos: of the degraded expert, a task: what the base imitates the successes of.
        loop: on-policy episodes, a task: what the loop collects, and what imitation gets more of.
        varied: of experts of three grades, a task: what the first world model and judge learn from, beside the
            demonstrations of seed 0.
        starts: fresh ones, a task, that are only reported.
        choose: others, a task, by which one candidate of the job is taken, or the base kept; 0 takes the last.
        begin: of base, first world model and judge.
        improve: settings of the job; its gates measure and refuse nothing, so that there is a result to report beside
            what they say.
    """

    demos: int
    loop: int
    varied: int
    starts: int
    choose: int
    begin: BeginAmounts
    improve: ImproveSettings


AMOUNTS = {
    "full": Amounts(
        100, 100, 100, 50, 10, BeginAmounts(1200, 4000, judge_steps=900), ImproveSettings(check=False)
    ),
    "short": Amounts(
        60, 40, 50, 50, 0, BeginAmounts(150, 150, judge_steps=120),
        ImproveSettings(
            refine_iterations=30, judge_iterations=60, groups=12, grpo_iterations=4, candidate_every=4, check=False
        ),
    ),
    "tiny": Amounts(
        16, 16, 32, 3, 2, BeginAmounts(20, 4, judge_steps=4),
        ImproveSettings(
            refine_iterations=2, judge_iterations=4, groups=2, group_size=2, grpo_iterations=2, candidate_every=1,
            check=False,
        ),
    ),
}  # fmt: skip

PRACTICES: dict[str, dict[str, Any]] = {
    "GRPO in the dream": {},
    "GRPO in the dream, judged at its end": {"mask_after_success": False},
}
"""What each practice changes of the job's settings. The second was added after the first had been seen: an episode here
is eight looks of a judge, and the usual reward is its success at any of them."""


def run(args: argparse.Namespace, tasks: Sequence[MetaWorldTask], seeds: Sequence[int]) -> None:
    """Do what is missing, seed by seed, and write the report."""
    use_threads()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what was started is ended, too
    amounts = AMOUNTS[args.amounts]
    if args.stage == "all":
        if args.theirs is None:
            raise SystemExit("--theirs names the Python of Meta-World's environment; see --help")
        served = Served(args.theirs, args.out)
        try:
            for seed in seeds:
                MetaWorldSeed(seed, args.out, tasks, amounts, served).run(true_reward=args.true_reward)
        finally:
            served.close()
    write_report(args.out, tasks, json_file=args.json, table_file=args.table)


class MetaWorldSeed:
    """One seed of demonstrations, base, on-policy episodes, practice and start states.

    First world model and judge are shared by the seeds, as the shipped ones are.
    """

    def __init__(self, seed: int, out: Path, tasks: Sequence[MetaWorldTask], amounts: Amounts, served: Served) -> None:
        self.seed, self.out, self.tasks, self.amounts, self.served = seed, out, tasks, amounts, served
        self.folder = out / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "result.json"
        known = self._path.exists()
        self.result: dict[str, Any] = json.loads(self._path.read_text()) if known else {"seed": seed, "trials": {}}

    def run(self, *, true_reward: bool) -> None:
        """Every stage."""
        names = ",".join(task.name for task in self.tasks)
        if not (self.out / "camera.json").exists():
            self.served.stage("mappings", self.out, "--tasks", names)
        if not (self.out / "experts.json").exists():
            shutil.copy(EXPERTS, self.out / "experts.json")
        demos, varied = self.amounts.demos, self.amounts.varied
        for what, seed, count in (("demos", self.seed, demos), ("demos", 0, demos), ("varied", 0, varied)):
            self._expert(what, count, names, seed=seed)
        base = self.timed("base", self.base)
        kinds = {"policy": base, **self.timed("first world model and judge", self.first)}
        self.timed("collect", lambda: self.collect(base))
        self.measure("base", base)
        for name in PRACTICES:
            self.measure(name, self.timed(name, partial(self.practise, name, kinds)))
        self._expert("more", self.amounts.loop, names, seed=self.seed)
        self.measure("behaviour cloning on more data", self.timed("more", self.more))
        if true_reward:
            from benchmarks.metaworld.true_reward import practise_truly

            truly = self.timed("true reward", lambda: practise_truly(self, base))
            self.measure("RL with true reward", truly)

    def base(self) -> Path:
        """Behaviour cloning of the demonstrations' successes."""
        out = self.folder / "base"
        demos = [] if (out / "policy").exists() else self.episodes("demos")
        return self._beginning(demos, out, self.seed).policy()

    def first(self) -> dict[str, Path]:
        """World model and judge before any episode of a policy."""
        out = self.out / "first"
        done = (out / "world_model").exists() and (out / "judge").exists()
        stages = self._beginning([] if done else self.episodes("varied") + self.episodes("demos", seed=0), out, 0)
        return {"world_model": stages.world_model(), "judge": stages.judge()}

    def _beginning(self, episodes: Sequence[Episode], out: Path, seed: int) -> Beginning:
        camera = read_camera_matrix(self.out / "camera.json")
        return Beginning(episodes, camera, out, out / "work", seed=seed, amounts=self.amounts.begin, progress=self.show)

    def collect(self, base: Path) -> None:
        """Record the base's own episodes as a robot does: sampled actions, labelled, over the wire."""
        starts, policy = starts_of("loop", self.seed), load_policy(base)
        for task in self.tasks:
            folder = episodes_of(self.out, "loop", self.seed) / task.name
            done = len(list(folder.glob("*.mcap")))
            if done < self.amounts.loop:
                with self.served.env(task, seldom=False) as env:
                    collect_episodes(env, policy, folder, starts[done : self.amounts.loop], sample=self.seed)
                self.say(f"collected {task.name}")

    def practise(self, name: str, kinds: dict[str, Path]) -> Path:
        """Run the improve job, and take the candidate that a small evaluation says; refused, the base stays."""
        told = self.result.setdefault("practice", {})
        if name not in told:
            told[name] = self._improved(name, kinds)
            self._keep()
        if "chosen" not in told[name]:
            starts = starts_of("choose", self.seed)[: self.amounts.choose]
            options = [kinds["policy"], *(Path(folder) for folder in told[name]["candidates"])]
            for option in options if starts else ():
                self.measure(f"choose {option}", option, starts=starts)
            found = {str(o): _trials(self.result["trials"].get(f"choose {o}", ())) for o in options}
            told[name]["chosen"] = best_of(found)
            self._keep()
        return Path(told[name]["chosen"])

    def _improved(self, name: str, kinds: dict[str, Path]) -> dict[str, Any]:
        recorded = [Recorded(path, read_summary(path).end.outcome.value) for path in self._files("loop")]
        folder = self.folder / _folder(name)
        folder.mkdir(exist_ok=True)
        policy = read_manifest(kinds["policy"]).id
        spec = ImproveSpec(policy=policy, seed=self.seed, config=self.amounts.improve.changed(**PRACTICES[name]))
        try:
            found = improve(Job(spec, kinds, recorded, folder, self.show, never)).to_json()
        except NotTrustedError as error:
            self.say(f"refused to practise: {error}")
            return {"refused": str(error), "candidates": [], "chosen": str(kinds["policy"])}
        told = ("audit", "judge_trust", "sight", "horizon", "imagined_reward", "world_model_kept")
        kept = {name: found[name] for name in told}
        return {**kept, "candidates": [candidate["folder"] for candidate in found["candidates"]]}

    def more(self) -> Path:
        """Behaviour cloning of as many more demonstrations as the loop collected episodes, as often seen each."""
        out, most = self.folder / "more", self.amounts
        if not out.exists():
            won = [one for one in self.episodes("demos") + self.episodes("more") if one.outcome is Outcome.SUCCESS]
            steps = round(most.begin.policy_steps * (most.demos + most.loop) / most.demos)
            config = SftConfig(iterations=steps, seed=self.seed)
            train_sft(won, config, out, state=self.folder / "more.state", progress=self.show)
        return out

    def measure(self, name: str, policy: Path, *, starts: Sequence[int] | None = None) -> None:
        """Evaluate a policy greedily, task by task."""
        known = self.result["trials"].setdefault(name, [])
        chosen = starts_of("evaluate", self.seed)[: self.amounts.starts] if starts is None else starts
        for task in self.tasks:
            if task.name not in {row[0] for row in known}:
                known += trials(self.served, policy, [task], chosen)
                self._keep()
        self.say(f"{name}: {np.mean([row[2] for row in known]):.3f}")

    def episodes(self, what: str, *, seed: int | None = None) -> list[Episode]:
        """Recorded episodes of every task, of this seed or another, at the world model's image size."""
        return [read_episode(path, image_size=(64, 64)) for path in self._files(what, seed=seed)]

    def _files(self, what: str, *, seed: int | None = None) -> list[Path]:
        folder = episodes_of(self.out, what, self.seed if seed is None else seed)
        return [path for task in self.tasks for path in sorted((folder / task.name).glob("*.mcap"))]

    def _expert(self, what: str, count: int, names: str, *, seed: int) -> None:
        if len(self._files(what, seed=seed)) < count * len(self.tasks):
            words = ("--what", what, "--count", count, "--seeds", seed, "--tasks", names)
            self.served.stage("collect", self.out, *words)

    def timed(self, name: str, make: Callable[[], Any]) -> Any:
        """Do it; what it took is kept where it took anything, in CPU seconds of this process."""
        began = time.process_time()
        made = make()
        spent = self.result.setdefault("cpu_s", {})
        spent[name] = round(spent.get(name, 0.0) + time.process_time() - began, 1)
        self._keep()
        return made

    def show(self, event: Any) -> None:
        """Print progress now and then."""
        if event.step % 100 == 0 or event.step == event.total:
            numbers = ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            self.say(f"{event.stage} {event.step}/{event.total} {numbers}")

    def say(self, text: str) -> None:
        """Print one line with time and seed in front."""
        print(f"{time.strftime('%H:%M:%S')} seed {self.seed}: {text}", flush=True)

    def _keep(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.result))
        partial.rename(self._path)


def _folder(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _trials(rows: Sequence[Sequence[Any]]) -> dict[tuple[str, int], bool | None]:
    return {(task, start): bool(won) for task, start, won in rows}

"""The loop on one machine, stage by stage: evaluate, collect, ship, refine, audit, train, choose, swap, evaluate."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cloud_trainer.jobs.desk.pretrain import pretrain
from gymnast_cli.commands.ttt import progress
from gymnast_cli.demo.config import TASKS, DemoConfig
from gymnast_cli.demo.film import film
from gymnast_cli.demo.graph import NAME, Robot, free_domain
from gymnast_cli.demo.trainer_process import trainer_process
from gymnast_cli.report import write_report
from gymnast_cli.stages import Advance, Stages
from gymnast_client import Terms
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.jobs import ImproveSpec
from gymnast_core.records.manifest import read_manifest
from gymnast_core.settings import Settings
from gymnast_ros.sim.drivers import collect_shares


@dataclass
class DemoProgress:
    """The checkpoints in force, and what each round brought."""

    policy: str
    world_model: str
    judge: str
    rounds: list[dict[str, object]] = field(default_factory=list)


def run_demo(config: DemoConfig, console: Console) -> Path:
    """Run the whole loop and return its folder, with result.json and report.html.

    Raises:
        ConfigError: a checkpoint to start from is missing.
        GymnastError: a stage failed; what was measured before stays in result.json.
    """
    if not config.from_scratch:
        config.check_checkpoints()
    folder = config.runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    console.print(f"Run folder: {folder}")
    if config.from_scratch:
        made = pretrain(
            folder / "checkpoints", folder / "pretrain", collect_shares, seed=config.seed, base=config.policy
        )
        config = replace(config, checkpoints=made)
    kinds = config.kinds
    ids = {kind: read_manifest(path).id for kind, path in kinds.items()}
    chain = DemoProgress(ids["policy"], ids["world_model"], ids["judge"])
    with Stages(console) as stages:
        demo = Demo(config, folder, chain, kinds, stages)
        try:
            demo.run()
        finally:
            demo.write()
    console.print(demo.table())
    if words := demo.untried():
        console.print(words, style="yellow", highlight=False, markup=False)
    console.print(f"Report: {folder / 'report.html'}")
    return folder


def _plain(value: object) -> object:
    """What of a configuration is no JSON value: settings and paths."""
    return value.to_json() if isinstance(value, Settings) else str(value)


class Demo:
    """One run: holds what was measured so far, so that an interrupted one still leaves its numbers."""

    def __init__(
        self, config: DemoConfig, folder: Path, chain: DemoProgress, kinds: Mapping[str, Path], stages: Stages
    ) -> None:
        self.config, self.folder, self.chain, self.kinds, self.stages = config, folder, chain, dict(kinds), stages
        self.base = chain.policy
        self.before: Trials = {}
        self.result: dict[str, Any] = {
            "seed": config.seed,
            "config": json.loads(json.dumps(asdict(config), default=_plain)),
        }
        self.media_folders: list[Path] = []
        self.policy_folder = self.kinds["policy"]

    def run(self) -> None:
        """Run every stage."""
        pairs = {"--canary-pairs": self.config.ttt_pairs, "--guard-pairs": self.config.ttt_guard_pairs}
        options = ("--console-port", "0", *(str(word) for option in pairs.items() for word in option))
        with trainer_process(self.folder / "trainer", list(self.kinds.values()), options=options) as address:
            with self.stages.stage("start trainer and robot") as advance:
                advance(0, 2, "trainer")
                robot = Robot.start(
                    self.folder, address, self.kinds["policy"], seed=self.config.seed, domain_id=free_domain()
                )
            with robot:
                self._loop(robot)
                self.result["ledger"] = robot.ledger()

    def _loop(self, robot: Robot) -> None:
        seeds = self.config.evaluation_seeds
        with self.stages.stage("evaluate the base policy") as advance:
            self.before = robot.evaluate([self.base], "evaluation", seeds, advance)[self.base]
        self.result["before"] = counts(self.before)
        for number in range(1, self.config.rounds + 1):
            self._round(robot, number)
        self._test_time_training(robot)

    def _round(self, robot: Robot, number: int) -> None:
        label = f" ({number}/{self.config.rounds})" if self.config.rounds > 1 else ""
        with self.stages.stage(f"collect and ship episodes{label}") as advance:
            robot.collect(self.config.episodes, advance, round_number=number)
        with self.stages.stage(f"refine, audit, practise{label}") as advance:
            job = robot.job(self._spec(number), advance)
        self._take(job)
        candidates = [candidate["id"] for candidate in job["candidates"]]
        with self.stages.stage(f"publish and choose on the robot{label}") as advance:
            chosen = robot.choose(self.chain.policy, candidates, self.config, number, advance)
        with self.stages.stage(f"swap and evaluate{label}") as advance:
            robot.swap(chosen)
            after = robot.evaluate([chosen], "evaluation", self.config.evaluation_seeds, advance)[chosen]
        self.policy_folder = robot.checkpoint(chosen)
        change = difference(self.before, after)
        self.chain.policy = chosen
        self.chain.rounds.append({"round": number, "policy": chosen, "after": counts(after), "difference": change})
        self.result |= {"after": counts(after), "difference": change, "rounds": number, "history": self.chain.rounds}

    def _spec(self, number: int) -> ImproveSpec:
        chain, seed = self.chain, self.config.seed * 100 + number
        return ImproveSpec(
            policy=chain.policy, world_model=chain.world_model, judge=chain.judge, seed=seed,
            config=self.config.practising(self.config.improve), offer_to=(NAME,),
        )  # fmt: skip

    def _take(self, job: Mapping[str, Any]) -> None:
        """Keep what a training job brought: the refreshed models, the audit, the curve."""
        self.chain.world_model, self.chain.judge = job["world_model"], job["judge"]
        self.result["audit"] = job["audit"]
        self.result.setdefault("imagined_reward", []).extend(job["imagined_reward"])
        self.media_folders.append(Path(job["folder"]))

    def _test_time_training(self, robot: Robot) -> None:
        """The trainer's own adaptation, as an operator would have it; then what it did, by the simulator's label."""
        config, current = self.config, self.chain.policy
        asked = {
            "instruction": config.ttt_task, "scene": config.ttt_scene, "seed": config.seed,
            "world_model": self.chain.world_model, "judge": self.chain.judge,
            "config": config.practising(config.adapt).to_json(),
        }  # fmt: skip
        with self.stages.stage("test-time training in an unseen scene") as advance:
            adaptation = robot.adapt(asked, config, advance)
        view = adaptation.view()
        if view.stage == "preview":
            with self.stages.stage("canary on the arm") as advance:
                adaptation.on_view = lambda view: advance(*progress(view))
                view = adaptation.drive(Terms(), approve=lambda view: True)
        self.result["ttt"] = ttt = {
            "scene_name": config.ttt_scene, "task": config.ttt_task, "stage": view.stage, "reason": view.reason,
            "kept": view.stage == "kept", "policy": view.candidate, "ended_by": view.ended_by,
            "trust": view.trust.get("figures", {}),
            "forgetting": view.forgetting, "canary": view.card,
        }  # fmt: skip
        if view.card:
            with self.stages.stage("evaluate there, and everywhere else") as advance:
                ttt |= self._measured(robot, [current, view.candidate], advance)

    def _measured(self, robot: Robot, versions: Sequence[str], advance: Advance) -> dict[str, Any]:
        """Before and after on the same starts: the task in the scene, the other tasks at home."""
        config, parts = self.config, {}
        others = [task for task in TASKS if task != config.ttt_task]
        for name, tasks, scene in (("scene", [config.ttt_task], config.ttt_scene), ("other_tasks", others, "standard")):
            found = robot.evaluate(
                versions, "evaluation", config.ttt_seeds, advance, tasks=tasks, scene=scene, replayed=0
            )  # fmt: skip
            before, after = (found[version] for version in versions)
            parts[name] = {"before": counts(before), "after": counts(after), "difference": difference(before, after)}
        return parts

    def write(self) -> None:
        """Write result.json and, once there is an after, report.html."""
        chain = self.chain
        self.result["versions"] = {
            "base_policy": self.base,
            "policy": chain.policy,
            "world_model": chain.world_model,
            "judge": chain.judge,
        }
        self.result["stages"] = self.stages.as_json()
        self.result["run_id"] = self.folder.name
        (self.folder / "result.json").write_text(json.dumps(self.result, indent=1, sort_keys=True))
        if "after" in self.result:
            media = film(self.kinds["policy"], self.policy_folder, self.media_folders)
            write_report(self.result, media, self.folder / "report.html")

    def untried(self) -> str:
        """Why nothing of test-time training came onto the arm; empty where it did."""
        ttt = self.result.get("ttt")
        if not ttt or "scene" in ttt:
            return ""
        where = f"test-time training, {ttt['task']} in {ttt['scene_name']}"
        return f"{where}: {ttt['stage']}, nothing was tried on the arm: {ttt['reason']}"

    def table(self) -> Table:
        """Before and after, task by task."""
        table = Table(title=f"On the robot, same start states, greedy (seed {self.config.seed})")
        for column in ("task", "before", "after", "difference [95 %]"):
            table.add_column(column, justify="left" if column == "task" else "right")
        before, after, change = (self.result.get(key) for key in ("before", "after", "difference"))
        if before is None or after is None or change is None:
            return table
        for name in before["tasks"]:
            table.add_row(name, *_cells(before["tasks"][name], after["tasks"][name], change["tasks"][name]))
        table.add_section()
        table.add_row("all", *_cells(before, after, change), style="bold")
        ttt = self.result.get("ttt")
        for key, name in (("scene", "test-time: new scene"), ("other_tasks", "test-time: other tasks")):
            if ttt and key in ttt:
                table.add_row(name, *_cells(ttt[key]["before"], ttt[key]["after"], ttt[key]["difference"]))
        return table


def _cells(before: Mapping[str, int], after: Mapping[str, int], change: Mapping[str, float]) -> list[str]:
    def rate(count: Mapping[str, int]) -> str:
        return f"{count['successes']}/{count['n']} = {count['successes'] / count['n']:.0%}"

    return [rate(before), rate(after), f"{change['mean']:+.0%} [{change['low']:+.0%}, {change['high']:+.0%}]"]

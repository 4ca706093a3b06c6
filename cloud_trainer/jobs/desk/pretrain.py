"""Make the shipped checkpoints: `make pretrain`.

Stages, each reused when its result is there and each continued where it was interrupted:

1. demonstrations by an expert whose aim is 2.6 cm off, the same way every time: another lab's station;
2. the base policy, fine-tuned on them;
3. episodes of many drivers, some of the base policy itself, failures included;
4. the world model, on those, in three passes: all noise levels; then only the one that is asked for when a frame is
   drawn in a single step, on nearly twice the episodes; then that for longer, on the skills that undo a task as well;
5. the judge, on other episodes of the base policy and of those skills, imagined again by that world model.

Everything follows from --seed. About 120 core-minutes on 2 cores; stage 4 is most of it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloud_trainer.jobs.judging import JudgeData, refine_judge
from cloud_trainer.judge.training import JudgeTraining
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.sft.trainer import FRESH, train_sft
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.compact.network import CompactWorldModelConfig
from cloud_trainer.world_model.compact.train import WorldModelTraining, train_world_model
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.episodes.archive import Share, load_episodes, save_episodes
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import read_manifest
from gymnast_core.shipped import BASE_POLICIES
from gymnast_core.types import Episode, Outcome

Collect = Callable[[Sequence[Share], int], list[Episode]]
"""Records shares on some arm, in so many processes; gymnast_ros.sim.drivers.collect_shares does in the simulator."""

TASKS = ("lift", "push", "put", "drawer")
RESETS = ("push_back", "take", "open")
"""Skills that undo a task: practice without people alternates them with it."""

CAMERA_MATRIX = (
    *(-48.21961435276838, -82.59374429786507, -21.96040974727019, 34.182938175871996),
    *(-30.394370053473953, 29.285086474880007, -88.58715133104863, 27.85401655630847),
    *(0.5162721811027055, -0.4974301306974972, -0.6971558649927044, 0.4076289184662748),
)
"""The over-the-shoulder camera at 64 pixels: metres in the arm's base frame -> homogeneous pixel (column, row)."""


@dataclass(frozen=True)
class Amounts:
    """How much of everything.

    Attributes:
        demonstrations: per task.
        policy_steps: of fine-tuning.
        world_model_steps: of the world model's first pass.
        single_steps: of its second.
        reset_steps: of its third.
        judge_steps: of the judge.
        scale: of the other collections, 1 is the shipped size.
    """

    demonstrations: int = 350
    policy_steps: int = 1200
    world_model_steps: int = 4400
    single_steps: int = 4000
    reset_steps: int = 5000
    judge_steps: int = 2000
    scale: float = 1.0


BASES = {**BASE_POLICIES, "history": "history_policy"}
"""Folder of each kind of base policy; the one that looks back imitates an operator whose arms err, each differently."""

DRY = Amounts(
    demonstrations=4, policy_steps=4, world_model_steps=3, single_steps=3, reset_steps=3, judge_steps=3, scale=0.06
)
"""Everything once, to see that it runs."""

OFFLINE = {"expert": 75, "offset": 250, "noisy": 125, "wander": 40, "varied": 75}
ON_POLICY = {"policy": 75, "policy_greedy": 65}
MORE = {"expert": 50, "offset": 300, "noisy": 150, "policy": 100}
"""Of the world model's second pass, beside the others: near misses, most of all."""
SINGLE_RATE = 4e-4
UNDOING = {"expert": 75, "offset": 300, "noisy": 150}
"""Of its third pass, for each of RESETS, beside all others."""
HELD_OUT = {"policy": 160, "policy_greedy": 70, "offset": 75}
UNDOING_HELD_OUT = {"offset": 150, "expert": 50, "noisy": 50}
"""Episodes per task and kind of driver."""


def pretrain(
    out: Path, work: Path, collect: Collect, *, seed: int = 0, workers: int = 2, amounts: Amounts | None = None,
    base: str = "tokens",
) -> Path:  # fmt: skip
    """Run the stages whose checkpoint `out` lacks, and copy the checkpoints there; returns `out`.

    Args:
        out: gets policy/ or flow_policy/, world_model/ and judge/; or history_policy/ alone. What is there serves the
            stages after it.
        work: episodes and state files; an interrupted run goes on from them.
        collect: see Collect.
        seed: of everything.
        workers: processes that collect episodes.
        amounts: how much; default the shipped size.
        base: what the base policy is made of, one of BASES.
    """
    use_threads()
    run = Pretraining(work, collect, seed, workers, amounts or Amounts(), base=base, out=out)
    stages = [(run.base, run.policy), ("world_model", run.world_model), ("judge", run.judge)]
    for name, make in stages[:1] if base == "history" else stages:
        folder = out / name
        if folder.exists():
            print(f"{folder} exists with id {read_manifest(folder).id}; delete it to replace it")
            continue
        made = make()
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, folder)
        print(f"{folder}: {read_manifest(folder).id}")
    return out


class Pretraining:
    """The stages, with their results in one folder.

    Attributes:
        base: name of the base policy's folder.
    """

    def __init__(
        self, work: Path, collect: Collect, seed: int, workers: int, amounts: Amounts, *, base: str = "tokens",
        out: Path | None = None,
    ) -> None:  # fmt: skip
        self._collect, self._made_of, self._out = collect, base, out
        self.base = BASES[base]
        self.work, self.seed, self.workers, self.amounts = work, seed, workers, amounts
        self._began = time.monotonic()
        work.mkdir(parents=True, exist_ok=True)

    def policy(self) -> Path:
        """Stages 1 and 2."""
        folder = self._folder(self.base)
        if not folder.exists():
            config = SftConfig(iterations=self.amounts.policy_steps, seed=self.seed)
            train_sft(
                self.demonstrations(), config, folder, policy_config=FRESH[self._made_of](),
                state=self.work / f"{self.base}.state", lineage=self._lineage(), progress=self._show,
            )  # fmt: skip
        return folder

    def demonstrations(self) -> list[Episode]:
        """Stage 1: what the base policy imitates."""
        first = self._seed_base()
        seeds = tuple(range(first, first + self.amounts.demonstrations))
        if self._made_of == "history":
            return self._collected("erring", [Share("erring", task, seeds) for task in TASKS])
        return self._collected("demos", [Share("flawed", task, seeds) for task in TASKS])

    def world_model(self) -> Path:
        """Stages 3 and 4."""
        folder = self._folder("world_model", "world_model_resets")
        if not folder.exists():
            undoing = self._collected("wm_undo", self._orders(UNDOING, 60_000, RESETS))
            self._on_in_one_step(self._second_pass(), folder, self.amounts.reset_steps, undoing)
        return folder

    def _second_pass(self) -> Path:
        folder = self.work / "world_model_single"
        if not folder.exists():
            self._on_in_one_step(self._first_pass(), folder, self.amounts.single_steps)
        return folder

    def _on_in_one_step(self, parent: Path, folder: Path, steps: int, undoing: Sequence[Episode] = ()) -> None:
        """Go on from a pass on the only noise level that drawing in a single step asks for."""
        config = WorldModelTraining(steps, learning_rate=SINGLE_RATE, own_context_from=0.0, seed=self.seed)
        more = self._collected("wm_more", self._orders(MORE, 160_000))
        clips = clips_of([*self._first_episodes(), *more, *undoing], 64)
        del more
        train_world_model(
            clips, config, folder, parent=parent, sampling_steps=1, state=self.work / f"{folder.name}.state",
            lineage=self._lineage(), progress=self._show,
        )  # fmt: skip

    def _first_pass(self) -> Path:
        folder = self.work / "world_model"
        if not folder.exists():
            config = WorldModelTraining(iterations=self.amounts.world_model_steps, seed=self.seed)
            clips, state = clips_of(self._first_episodes(), 64), self.work / "world_model.state"
            sizes, lineage = CompactWorldModelConfig(CAMERA_MATRIX), self._lineage()
            train_world_model(clips, config, folder, sizes=sizes, state=state, lineage=lineage, progress=self._show)
        return folder

    def _first_episodes(self) -> list[Episode]:
        offline = self._collected("wm_off", self._orders(OFFLINE, 10_000))
        online = self._collected("wm_on", self._orders(ON_POLICY, 100_000))
        share = max(1, round(75 * self.amounts.scale))
        per_task, demos = self.amounts.demonstrations, self.demonstrations()
        return [*offline, *online, *(e for t in range(4) for e in demos[t * per_task : t * per_task + share])]

    def judge(self) -> Path:
        """Stage 5."""
        folder = self._folder("judge")
        if not folder.exists():
            world = load_world(self.world_model())
            data = self.judge_data()
            config = JudgeTraining(iterations=self.amounts.judge_steps, seed=self.seed)
            state = self.work / "judge.state"
            refine_judge(world, data, config, folder, state=state, lineage=self._lineage(), progress=self._show)
        return folder

    def _folder(self, name: str, working: str = "") -> Path:
        """Where a checkpoint is: handed out already, or in the working folder, there by another name, made or to be."""
        there = None if self._out is None else self._out / name
        return there if there is not None and there.exists() else self.work / (working or name)

    def judge_data(self) -> JudgeData:
        """Recorded ends of what the world model saw, imagined ends of what it did not."""
        recorded = [
            *self._collected("wm_off", self._orders(OFFLINE, 10_000)),
            *self._collected("wm_on", self._orders(ON_POLICY, 100_000)),
            *self._collected("wm_undo", self._orders(UNDOING, 60_000, RESETS)),
        ]
        recorded = [episode for episode in recorded if not episode.episode_id.startswith("varied")]
        held = self.held_out()
        choosing = [episode for episode in held["thresholds"] if episode.episode_id.startswith("policy")]
        if len({episode.outcome for episode in choosing}) < 2:  # a dry run's policy never succeeds
            choosing = held["thresholds"]
        return JudgeData(clips_of(recorded, 64), clips_of(held["judge"], 64), clips_of(choosing, 64))

    def held_out(self) -> Mapping[str, list[Episode]]:
        """Episodes the world model never saw: half for the judge, a quarter for thresholds, a quarter for audits."""
        held = [
            *self._collected("held", self._orders(HELD_OUT, 120_000)),
            *self._collected("held_undo", self._orders(UNDOING_HELD_OUT, 90_000, RESETS)),
        ]
        parts: dict[str, list[Episode]] = {"judge": [], "thresholds": [], "audit": []}
        for episode, draw in zip(held, np.random.default_rng(self.seed).random(len(held)), strict=True):
            parts["judge" if draw < 0.5 else "thresholds" if draw < 0.75 else "audit"].append(episode)
        return parts

    def _orders(self, kinds: Mapping[str, int], first: int, tasks: Sequence[str] = TASKS) -> list[Share]:
        orders = []
        for position, (kind, count) in enumerate(kinds.items()):
            start = self._seed_base() + first + 10_000 * position
            seeds = tuple(range(start, start + max(1, round(count * self.amounts.scale))))
            folder = self.policy() if kind.startswith("policy") else None
            orders += [Share(kind, task, seeds, folder) for task in tasks]
        return orders

    def _seed_base(self) -> int:
        """Start states of different seeds do not overlap: 200,000 apart, inside the training range."""
        return (self.seed % 5) * 200_000

    def _collected(self, name: str, orders: Sequence[Share]) -> list[Episode]:
        path = self.work / f"{name}.npz"
        if not path.exists():
            print(f"collecting {name}: {sum(len(order.seeds) for order in orders)} episodes", flush=True)
            save_episodes(path, self._collect(orders, self.workers))
        episodes = load_episodes(path)
        successes = np.mean([episode.outcome is Outcome.SUCCESS for episode in episodes])
        print(f"{name}: {len(episodes)} episodes, {successes:.3f} successful", flush=True)
        return episodes

    def _lineage(self) -> dict[str, object]:
        return {"made_by": "gymnast_cli.pretrain", "seed": self.seed}  # in the shipped checkpoints' ids

    def _show(self, event: ProgressEvent) -> None:
        if event.step % 100 == 0 or event.step == event.total:
            numbers = ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            seconds = time.monotonic() - self._began
            print(f"{seconds:7.0f} s  {event.stage} {event.step}/{event.total}  {numbers}", flush=True)

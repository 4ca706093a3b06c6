"""An adaptation engine on the real simulator with planted policies: the learning is planted, the arm and truth are not.

A checkpoint is a scripted expert's aim offset: 2.6 cm off succeeds never, 0.4 cm off always. "Training" shrinks the
offset; rewards, forgetting, previews and the canary are measured in the simulator.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save

from cloud_trainer.film import film
from cloud_trainer.flows.adaptation_engine import (
    Budget,
    CanaryVerdict,
    Emit,
    Ended,
    Practised,
    SceneRequest,
    Stop,
    Trust,
)
from cloud_trainer.flows.trials import TrialOrigin
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.evaluation.scene_book import SceneBook
from gymnast_core.evaluation.sequential import Decision, SequentialRule
from gymnast_core.evaluation.statistics import Interval, PairCounts, paired_difference
from gymnast_core.evaluation.trial import Trial
from gymnast_core.evaluation.trial_plan import TrialPlan
from gymnast_core.records.manifest import Manifest, write_checkpoint
from gymnast_core.types import ByteArray, Outcome
from gymnast_ros.sim.collect import collect, evaluate
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.scene import scene_named
from gymnast_ros.sim.tasks import TASKS, task_for

NEEDED_EPISODES = 6
BASE_OFFSET_M = 0.026
OTHERS = ("lift", "push", "put", "drawer")


def make_policy(shelf: Path, offset_m: float, parent: str = "", **lineage: Any) -> Manifest:
    """Put a planted policy on a trainer's shelf."""
    staging = shelf / f".new-{secrets.token_hex(4)}"
    manifest = write_checkpoint(
        staging,
        save({"aim_offset_m": np.array([offset_m], np.float32)}),
        kind="policy",
        architecture="planted_aim",
        config={"offset_mm": round(1000 * offset_m, 1)},
        parents=(parent,) if parent else (),
        lineage=lineage,
    )
    target = shelf / manifest.id
    if not target.exists():
        staging.rename(target)
    return manifest


@contextlib.contextmanager
def arm(scene: str) -> Iterator[SimEnv]:
    env = SimEnv(scene=scene_named(scene), image_size=128)
    try:
        yield env
    finally:
        env.close()


class SimulatedScene:
    """See the module.

    Args:
        folder: of the trainer; its checkpoints/ shelf is used.
        scene: what the robot's camera shows.
        base: id of the running policy.
    """

    def __init__(self, folder: Path, scene: str, base: str) -> None:
        self.shelf, self.scene, self.base = folder / "checkpoints", scene, base
        self.book = SceneBook(folder / "console" / "scenes.json")

    def offset_of(self, checkpoint: str) -> float:
        return float(load_file(self.shelf / checkpoint / "weights.safetensors")["aim_offset_m"][0])

    def policy(self, env: SimEnv, checkpoint: str) -> ScriptedExpert:
        return ScriptedExpert(env, aim_offset_m=(self.offset_of(checkpoint), 0.0))

    def check(self, request: SceneRequest) -> None:
        pass  # whatever is asked for, the scene is this one

    def begin(self, request: SceneRequest, folder: Path, emit: Emit, ended: Ended) -> None:
        pass  # nothing else changes what this robot runs

    def capture(self, request: SceneRequest, folder: Path) -> Mapping[str, Any]:
        instruction = request.instruction
        with arm(self.scene) as env:
            frame = next(iter(env.reset(task_for(instruction).instruction, seed=7).images.values()))[0]
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "WEBP")
        (folder / "start.webp").write_bytes(buffer.getvalue())
        np.save(folder / "start.npy", frame)
        (folder / "request.json").write_text(json.dumps({"instruction": task_for(instruction).instruction}))
        known = self.book.find(frame)
        return {"scene": self.scene, "known_adapters": [] if known is None else list(known.adapters)}

    def trust(self, folder: Path, ended: Ended) -> Trust:
        collected = len(list(folder.glob("real-*.txt")))
        known = self.book.find(np.load(folder / "start.npy")) is not None
        agreement = 0.9 if known else min(0.5 + 0.06 * collected, 0.92)
        figures = {"agreement": agreement, "needed": 0.8, "real_episodes_here": collected}
        if agreement >= 0.8:
            return Trust(True, figures=figures)
        reason = f"in this scene dreams agree with reality in {agreement:.0%} of cases, 80% are needed; "
        return Trust(False, reason + "collect a few real episodes here first", figures)

    def collect(self, robot: str, instruction: str, episodes: int, folder: Path) -> None:
        with arm(self.scene) as env:
            for episode in collect(env, self.policy(env, self.base), instruction, range(episodes), frame_steps=(0,)):
                (folder / f"real-{episode.episode_id}.txt").write_text(episode.outcome.value)

    modes = ("lora", "full")
    price_per_hour = 3.0

    def train(self, mode: str, budget: Budget, folder: Path, emit: Emit, ended: Ended) -> Practised:
        text = json.loads((folder / "request.json").read_text())["instruction"]
        offset, done = self.offset_of(self.base), 0
        with arm(self.scene) as env:
            why = ""
            while done < 6 and not (why := ended()):
                offset, done = offset * 0.85, done + 1
                policy = ScriptedExpert(env, aim_offset_m=(offset, 0.0))
                trials = evaluate(env, policy, range(100, 106), tasks=[task_for(text).name])
                reward = sum(trial.succeeded for trial in trials) / len(trials)
                emit("iteration", {"iteration": done, "imagined_reward": reward, "rollouts": len(trials)})
        if done == 0:
            return Practised(None, why)
        made = make_policy(self.shelf, offset, self.base, stage="adapt", scene=self.scene, mode=mode)
        return Practised(made.id, why)

    def check_forgetting(self, candidate: str, folder: Path) -> Mapping[str, Any]:
        with arm("standard") as env:
            before, after = (
                np.mean([t.succeeded for t in evaluate(env, self.policy(env, name), range(200, 203), tasks=OTHERS)])
                for name in (self.base, candidate)
            )
        return {"before": float(before), "after": float(after), "ok": bool(before - after <= 0.1)}

    def preview(self, candidate: str, folder: Path, ended: Ended) -> None:
        text = json.loads((folder / "request.json").read_text())["instruction"]
        with arm(self.scene) as env:
            for name, checkpoint in (("old", self.base), ("new", candidate)):
                (episode,) = collect(env, self.policy(env, checkpoint), text, [7], frame_size=128)
                frames: ByteArray = next(iter(episode.images.values()))
                (folder / f"{name}.webp").write_bytes(film(frames))

    def admit(self, candidate: str, robot: str, folder: Path, emit: Emit, ended: Ended) -> str:
        return ""

    def canary(self, candidate: str, robot: str, folder: Path, emit: Emit, stop: Stop) -> CanaryVerdict:
        text = json.loads((folder / "request.json").read_text())["instruction"]
        plan = TrialPlan(
            trial_id=f"canary-{folder.name}",
            incumbent=self.base,
            candidate=candidate,
            instruction=text,
            rule=SequentialRule(max_pairs=40),
            start_seeds=tuple(range(2_000_000, 2_000_040)),
            judge="operator:sim",
            versions={"scene": self.scene, "robot": robot},
        )
        path = folder / "canary.jsonl"
        trial = Trial.load(path) if path.exists() else Trial.declare(path, plan, secrets.token_bytes(32))
        try:
            self._run(trial, self.scene, stop, lambda pair: emit("pair", {"pair": pair}))
            return CanaryVerdict(trial.decision is Decision.PROMOTE, trial.card() if trial.decision.final else {})
        finally:
            trial.close()

    def run_trial(self, trial: Trial, asked: TrialOrigin, stop: Stop) -> None:
        """Over in a moment; while FOLDER/hold is there, it waits, so that its page can be seen."""
        while (self.shelf.parent / "hold").exists() and not stop():
            time.sleep(0.05)
        self._run(trial, asked.scene or "standard", stop, lambda pair: None)

    def _run(self, trial: Trial, scene: str, stop: Stop, told: Callable[[int], None]) -> None:
        name = task_for(trial.plan.instruction).name
        with arm(scene) as env:
            while (run := trial.next_run()) is not None and not stop():
                policy = self.policy(env, trial.checkpoint_of(run.run_id))
                (result,) = evaluate(env, policy, [run.start_seed], tasks=[name])
                outcome = Outcome.SUCCESS if result.succeeded else Outcome.FAILURE
                trial.record(run.run_id, outcome, labelled_by="operator:sim")
                if run.run_id.endswith("-2"):
                    told(run.pair)

    def keep(self, candidate: str, robot: str, folder: Path) -> None:
        recogniser = SceneRecogniser.fitted([Fingerprint.of(np.load(folder / "start.npy"))], [])
        self.book.keep(f"{self.scene} on {robot}", recogniser, candidate)

    def revert(self, candidate: str, robot: str, folder: Path) -> None:
        self.book.drop(candidate)

    def truth(self, candidate: str, scene: str, tasks: tuple[str, ...], n: int) -> Interval:
        """Before against after on fresh starts, by the simulator's state."""
        with arm(scene) as env:
            before, after = (
                [
                    t.succeeded
                    for t in evaluate(env, self.policy(env, name), range(2_500_000, 2_500_000 + n), tasks=tasks)
                ]
                for name in (self.base, candidate)
            )
        return paired_difference(PairCounts.of(before, after))


assert set(OTHERS) <= set(TASKS)

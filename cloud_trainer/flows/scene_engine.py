"""What computes behind the console's adaptations: a started robot, the trainer's jobs, the compact models.

Real episodes are recorded through the robot's own nodes and come back through the trainer's catalogue; training is an
ordinary "adapt" job of the trainer; the canary is a blinded trial on the robot.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from cloud_trainer.film import film
from cloud_trainer.flows.adaptation_engine import (
    CLOSING,
    Budget,
    Emit,
    Ended,
    Practised,
    SceneRequest,
    Stop,
    Trust,
    Verdict,
)
from cloud_trainer.flows.arm_trials import FLUSH_S, STAGE_S, TrialRobot, run_pairs
from cloud_trainer.flows.other_tasks import declared, guard_plan, other_tasks, reason_of
from cloud_trainer.jobs.adaptation import MODES
from cloud_trainer.jobs.calibrated import calibrated_bounds
from cloud_trainer.jobs.gates import TRACKER_EPISODES, require_gates
from cloud_trainer.jobs.practice import practice_judge
from cloud_trainer.jobs.scene_trust import MOST, SceneEpisodes, check_scene, divide, scene_gates
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import EpisodeRow, JobStore
from cloud_trainer.store.tenants import DEFAULT_TENANT
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import GymnastError, NotTrustedError
from gymnast_core.evaluation.purpose import is_measurement
from gymnast_core.evaluation.scene import Fingerprint, SceneBook
from gymnast_core.evaluation.sequential import HarmRule, SequentialRule
from gymnast_core.evaluation.trial import Trial, TrialPlan, has_won
from gymnast_core.policies import load_policy
from gymnast_core.seeds import take
from gymnast_core.types import Outcome

POLL_S = 0.2
MOST_DIFFERENT = 900
"""Start states that the episodes of a seed are begun from; after so many they come again."""
ROBOT_S = 1800.0
LABELS = (Outcome.SUCCESS.value, Outcome.FAILURE.value)


class Robot(TrialRobot, Protocol):
    """What is asked of a started robot; gymnast_ros.nodes.client.GraphClient is one."""

    @property
    def policy_version(self) -> str:
        """Checkpoint in force."""
        ...

    def evaluate(
        self,
        *,
        tasks: Sequence[str],
        seed_start: int,
        seed_count: int,
        scene: str,
        temperature_seed: int,
        record: bool,
        purpose: str,
        timeout_s: float,
    ) -> dict[str, Any]:
        """Run episodes of the policy in force; returns {episodes: [{episode_id, ...}]}."""
        ...

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float) -> None:
        """Return when the robot holds these checkpoints."""
        ...

    def swap(self, checkpoint_id: str, *, scene: Mapping[str, Any] | None = None) -> str:
        """Put a staged checkpoint in force; in one scene alone where its fingerprint is given."""
        ...

    def rollback(self) -> str:
        """Return to the checkpoint before."""
        ...


@dataclass
class SceneEngine:
    """An AdaptationEngine; see cloud_trainer.flows.adaptation_engine.

    Attributes:
        connect: returns the started robot of a name; asked whenever one is needed.
        jobs: of the trainer; `gymnast serve` works on them.
        catalogue: of the trainer's episodes.
        shelf: of the trainer's checkpoints.
        book: the scenes this robot knows.
        tenant: whose robots, jobs, episodes and checkpoints these are.
        scene: the robot's name for where it stands, unless the operator names another.
        config: of the training job; its bounds, scene_episodes and check are those of the trust check too.
        rule: of the canary; declared before it.
        guard_pairs: of each other task, after a win; 0 looks at none.
        modes: what of the policy is trained.
        price_per_hour: of this trainer, for budgets in money.
        offer: offers a checkpoint of the shelf to one robot; asked before its canary, which a person approved.
    """

    connect: Callable[[str], Robot]
    jobs: JobStore
    catalogue: EpisodeCatalogue
    shelf: Shelf
    book: SceneBook
    scene: str
    tenant: str = DEFAULT_TENANT
    config: Mapping[str, Any] = field(default_factory=dict)
    rule: SequentialRule = field(default_factory=SequentialRule)
    guard_pairs: int = HarmRule.pairs
    modes: tuple[str, ...] = MODES
    price_per_hour: float = 0.0
    offer: Callable[[str, str], None] = lambda checkpoint, robot: None

    def check(self, request: SceneRequest) -> None:
        """Return if its checkpoints are here and its settings exist."""
        PipelineConfig.of({**self.config, **request.config})
        for name in filter(None, (request.world_model, request.judge)):
            self.shelf.path(name)
        other_tasks(self.catalogue, request.robot, request.instruction, request.other_tasks)

    def capture(self, request: SceneRequest, folder: Path) -> Mapping[str, Any]:
        """Record one episode here; its first frame is the scene."""
        robot, instruction = request.robot, request.instruction
        asked = {
            "robot": robot, "scene": request.scene or self.scene, "policy": self.connect(robot).policy_version,
            "world_model": request.world_model or self.shelf.newest("world_model").name,
            "judge": request.judge or self.shelf.newest("judge").name,
            "seed": request.seed, "config": {**self.config, **request.config},
            "other_tasks": list(request.other_tasks),
        }  # fmt: skip
        self._record(robot, instruction, {**asked, "instruction": instruction}, episodes=1)
        recorded = self.catalogue.list(robot=robot, limit=100_000)
        if not recorded:
            raise GymnastError(f"{robot} recorded an episode, but none of its is valid here; see the page's episodes")
        newest = recorded[-1]
        told = {"instruction": newest.instruction, "start": newest.episode_id}  # the robot knows tasks by short names
        (folder / "request.json").write_text(json.dumps({**asked, **told}))
        frame_HWC = next(iter(self.catalogue.read(newest).images.values()))[0]
        buffer = io.BytesIO()
        Image.fromarray(frame_HWC).save(buffer, "WEBP", quality=90)
        (folder / "start.webp").write_bytes(buffer.getvalue())
        np.save(folder / "start.npy", frame_HWC)
        known = self.book.find(frame_HWC)
        adapters = () if known is None else known.adapters
        return {"scene": asked["scene"], "known_adapters": [name for name in adapters if name != asked["policy"]]}

    def collect(self, robot: str, instruction: str, episodes: int, folder: Path) -> None:
        """Record real episodes of the running policy and wait until the trainer has them."""
        self._record(robot, instruction, self._request(folder), episodes=episodes)

    def _record(self, robot: str, instruction: str, request: Mapping[str, Any], *, episodes: int) -> None:
        client, done = self.connect(robot), len(self._recorded(request))
        starts = take("adaptation", int(request["seed"]), episodes, after=done % MOST_DIFFERENT)
        client.evaluate(
            tasks=[instruction], seed_start=starts.start, seed_count=episodes, scene=request["scene"],
            temperature_seed=request["seed"], record=True, purpose="ttt", timeout_s=ROBOT_S,
        )  # fmt: skip
        client.flush(FLUSH_S)
        self.catalogue.settle()

    def trust(self, folder: Path) -> Trust:
        """Dream the recorded episodes of this scene and measure: what training will ask again, of the same episodes."""
        request = self._request(folder)
        config, recorded = PipelineConfig.of(request["config"]), self._recorded(request)
        needed = config.scene_episodes
        figures: dict[str, Any] = {"real_episodes_here": len(recorded), "needed": needed}
        if len(recorded) < needed:
            missing = needed - len(recorded)
            reason = f"{len(recorded)} labelled episodes of this task here are too few to tell; collect {missing} more"
            return Trust(False, reason, figures)
        home, chosen = self._chosen({**request, "checked": None})  # of an earlier check, with fewer episodes
        self._note(folder, checked=chosen.checked)
        judge = practice_judge(config, self.shelf.path(request["judge"]), folder)
        gates = scene_gates(config, calibrated_bounds(self.shelf.path(request["world_model"]), "adapt"))
        _, passed = check_scene(home, judge, chosen, gates, folder / "trust", seed=request["seed"])
        told = passed.report.summary().items()
        figures |= {name: value for name, value in told if isinstance(value, (int, float)) and math.isfinite(value)}
        figures |= {
            "real_episodes_here": len(chosen.mine),
            "judge": judge.version,
            "episodes_checked": len(chosen.checked),
        }
        figures |= {"overridden": dict(passed.overridden)} if passed.overridden else {}
        try:
            require_gates(passed, gates)
        except NotTrustedError as refusal:
            return Trust(not config.check, f"{refusal}", figures)
        return Trust(True, figures=figures)

    def train(self, mode: str, budget: Budget, folder: Path, emit: Emit, ended: Ended) -> Practised:
        """Submit an adapt job with this budget and follow it."""
        request = self._request(folder)
        seconds = budget.seconds
        if budget.price_per_hour:
            seconds = min(seconds, 3600 * budget.money / budget.price_per_hour)
        config = PipelineConfig.of(request["config"])
        per_iteration = config.groups * config.group_size
        spec = {
            **{name: request[name] for name in ("robot", "policy", "world_model", "judge", "instruction")},
            "seed": request["seed"], "budget_s": seconds, "rollouts": budget.rollouts, "mode": mode,
            "scene": request["scene"], "config": request["config"], "checked": request["checked"],
        }  # fmt: skip
        row = self.jobs.submit(self.tenant, "adapt", spec, folder.name, "console")
        emit("job", {"job": row.job_id})
        result = self._follow(row.job_id, per_iteration, replace(budget, seconds=seconds), emit, ended)
        (folder / "result.json").write_text(json.dumps(result))
        candidates = result.get("candidates", [])
        if not candidates and result.get("refused"):
            raise NotTrustedError(str(result["refused"]))
        ended_by = str(result.get("ended_by", ""))
        if ended_by == "the time budget" and seconds < budget.seconds:
            ended_by = "the money budget"
        return Practised(str(candidates[-1]["id"]) if candidates else None, ended_by)

    def _follow(self, job_id: str, per_iteration: int, budget: Budget, emit: Emit, ended: Ended) -> Mapping[str, Any]:
        """Pass iterations on until the job ends; a stop that is not the job's own budget cancels it."""
        after, began, rollouts = 0, time.monotonic(), 0
        while True:
            for event in self.jobs.events(self.tenant, job_id, after):
                after = event.sequence
                reward = (event.data.get("metrics") or {}).get("imagined_reward")
                if event.kind == "progress" and event.data.get("stage") == "grpo" and reward is not None:
                    line = {"iteration": event.data["step"], "imagined_reward": reward, "rollouts": per_iteration}
                    emit("iteration", line)
                    rollouts += per_iteration
            row = self.jobs.get(self.tenant, job_id)
            if row.state == "failed":
                raise GymnastError(row.error)
            if row.ended:
                return row.result
            if (why := ended()) == CLOSING:
                return {}  # the job goes on, and whoever resumes finds it by its key
            if why and time.monotonic() - began < budget.seconds and rollouts < budget.rollouts:
                self.jobs.request_cancel(self.tenant, job_id)
            time.sleep(POLL_S)

    def check_forgetting(self, candidate: str, folder: Path) -> Mapping[str, Any]:
        """What the job found on the other tasks."""
        found = json.loads((folder / "result.json").read_text()).get("forgetting") or {}
        shown = ("before", "after", "n", "most", "bound", "sight", "ok")
        return {"ok": True, **{name: found[name] for name in shown if name in found}}

    def preview(self, candidate: str, folder: Path) -> None:
        """Imagine old and new from the captured start."""
        request = self._request(folder)
        home, chosen = self._chosen(request)
        world = home.in_scene(clips_of(chosen.here, home.image_size), seed=request["seed"])
        size = (world.image_size, world.image_size)
        start = self.catalogue.find(request["start"])
        if start is None:
            raise GymnastError(f"the captured start {request['start']} was withdrawn meanwhile; begin a new adaptation")
        captured = self.catalogue.read(start, image_size=size)
        starts = starts_of(clips_of([captured], world.image_size))
        for name, checkpoint in (("old", request["policy"]), ("new", candidate)):
            rollouts = imagine_from(world, starts, load_policy(self.shelf.path(checkpoint)), seed=0)
            (folder / f"{name}.webp").write_bytes(film(rollouts.frames_BFHWC[0]))

    def canary(self, candidate: str, robot: str, folder: Path, emit: Emit, stop: Stop) -> Verdict:
        """Run the blinded trial until its rule decides; after a win, look for harm on the other tasks."""
        request, client = self._request(folder), self.connect(robot)
        self.offer(candidate, robot)
        client.wait_staged([candidate], STAGE_S)
        trial, guard = self._declared(candidate, robot, request, folder)
        emit("declared", {"max_pairs": trial.plan.rule.max_pairs, **(trial.plan.versions or {})})

        def run(part: Trial, name: str) -> Mapping[str, Any]:
            run_pairs(
                part, client, self.catalogue, scene=request["scene"], purpose="canary", stop=stop,
                told=lambda pair: emit("pair", {"pair": pair, "part": name}),
            )  # fmt: skip
            return part.card() if part.decision.final else {}

        with contextlib.closing(trial), contextlib.closing(guard) if guard else contextlib.nullcontext():
            card = dict(run(trial, "scene"))
            if guard and has_won(card):
                found = run(guard, "other tasks")
                if not found:
                    return Verdict(False, {})
                card["guard"] = found
        if card and not has_won(card):
            self.book.drop(candidate)
        return Verdict(bool(card) and has_won(card), card, reason_of(card))

    def run_trial(self, trial: Trial, robot: str, scene: str, stop: Stop) -> None:
        """Run a trial that was asked for on the page; see cloud_trainer.flows.trials."""
        client = self.connect(robot)
        client.wait_staged([trial.plan.candidate], STAGE_S)
        run_pairs(trial, client, self.catalogue, scene=scene or self.scene, purpose="trial", stop=stop)

    def _declared(
        self, candidate: str, robot: str, request: Mapping[str, Any], folder: Path
    ) -> tuple[Trial, Trial | None]:
        """Declare both parts of a canary before its first run, or continue them."""
        canary, guard = folder / "canary.jsonl", folder / "guard.jsonl"
        if not canary.exists():
            others = other_tasks(self.catalogue, robot, request["instruction"], request["other_tasks"])
            starts = take("canary", int(request["seed"]), self.rule.max_pairs)
            versions = {name: request[name] for name in ("world_model", "judge", "scene")}
            plan = TrialPlan(
                trial_id=f"canary-{folder.name}", incumbent=request["policy"], candidate=candidate,
                instruction=request["instruction"], rule=self.rule,
                start_seeds=tuple(starts),
                versions={**versions, "other_tasks": declared(others, self.guard_pairs)},
            )  # fmt: skip
            if others and self.guard_pairs and not guard.exists():
                Trial.declare(guard, guard_plan(plan, others, self.guard_pairs), secrets.token_bytes(32)).close()
            Trial.declare(canary, plan, secrets.token_bytes(32)).close()  # the last: where it is, both are
        return Trial.load(canary), Trial.load(guard) if guard.exists() else None

    def keep(self, candidate: str, robot: str, folder: Path) -> None:
        """Put it in force in this scene, which the robot recognises by image, and remember it for that."""
        fingerprint = Fingerprint.of(np.load(folder / "start.npy"))
        self.connect(robot).swap(candidate, scene=fingerprint.to_json())
        self.book.keep(f"{self._request(folder)['scene']} on {robot}", np.load(folder / "start.npy"), candidate)

    def revert(self, candidate: str, robot: str, folder: Path) -> None:
        """The canary never put it in force; if a crash came between, go back."""
        client = self.connect(robot)
        if client.policy_version == candidate:
            client.rollback()

    def _request(self, folder: Path) -> dict[str, Any]:
        """What capture() wrote down; older adaptations have the trainer's scene and settings."""
        usual = {"scene": self.scene, "seed": 0, "config": dict(self.config), "other_tasks": [], "checked": None}
        return {**usual, **json.loads((folder / "request.json").read_text())}

    def _note(self, folder: Path, **values: Any) -> None:
        """Add to what capture() wrote down."""
        staging = folder / "request.partial"
        staging.write_text(json.dumps({**self._request(folder), **values}))
        staging.replace(folder / "request.json")

    def _learnable(self) -> list[EpisodeRow]:
        """Every episode that may be learned from, oldest first."""
        return [row for row in self.catalogue.all() if not is_measurement(row.metadata)]

    def _recorded(self, request: Mapping[str, Any]) -> list[EpisodeRow]:
        """Labelled episodes of this task in this scene, of this robot."""
        return [row for row in self._here(request) if row.instruction == request["instruction"]]

    def _here(self, request: Mapping[str, Any]) -> list[EpisodeRow]:
        wanted = (request["robot"], request["scene"])
        rows = [row for row in self._learnable() if (row.robot, row.metadata.get("scene")) == wanted]
        return [row for row in rows if row.outcome in LABELS]

    def _chosen(self, request: Mapping[str, Any]) -> tuple[World, SceneEpisodes]:
        """The world model at home, and the recordings that say how it is here: after the check, those it saw."""
        config = PipelineConfig.of(request["config"])
        home = load_world(self.shelf.path(request["world_model"]), config.dream)
        rows = {row.episode_id: row for row in self._here(request)[-MOST:]}
        newest = [row for row in self._learnable()[-config.most_episodes :] if row.outcome in LABELS]
        elsewhere = sorted((row for row in newest if row.episode_id not in rows), key=lambda row: row.episode_id)
        rows |= {row.episode_id: row for row in elsewhere[:TRACKER_EPISODES]}
        if (checked := request.get("checked")) is not None:
            rows = {name: row for name in checked if (row := self.catalogue.find(name)) is not None}
        size = (home.image_size, home.image_size)
        ordered = sorted(rows.values(), key=lambda row: row.sequence)
        episodes = [self.catalogue.read(row, image_size=size) for row in ordered]
        names = {name: str(request[name]) for name in ("robot", "scene", "instruction")}
        return home, divide(episodes, **names)

"""What computes behind the console's adaptations: a started robot and the trainer's jobs.

Real episodes are recorded through the robot's own nodes and come back through the trainer's catalogue; the trust check,
training and the preview are jobs of the trainer; the canary is a blinded trial on the robot.
One class, and so a long file: the steps of one adaptation, which share the folder it is kept in.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

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
from cloud_trainer.flows.arm_trials import FLUSH_S, STAGE_S, run_pairs
from cloud_trainer.flows.arms import Connect, Errand, FlowRobot
from cloud_trainer.flows.gating import Gating
from cloud_trainer.flows.job_following import Iterations, follow, run_job
from cloud_trainer.flows.other_tasks import other_tasks, reason_of
from cloud_trainer.flows.queue_begin import Begin
from cloud_trainer.flows.scene_canary import SceneCanary
from cloud_trainer.flows.scene_counts import of_job, too_few
from cloud_trainer.flows.scene_images import learned
from cloud_trainer.flows.scene_records import SceneRecords, digest_of
from cloud_trainer.flows.trials import TrialOrigin
from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.jobs.submission import check_dream, check_reach
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import JobRow
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.adaptations import CapturedScene, ForgettingFigures
from gymnast_core.errors import GymnastError, NotTrustedError
from gymnast_core.evaluation.scene_book import SceneBook
from gymnast_core.evaluation.sequential import HarmRule, SequentialRule
from gymnast_core.evaluation.trial import Trial, has_won
from gymnast_core.jobs import AdaptSettings
from gymnast_core.json_values import JsonObject
from gymnast_core.records.manifest import read_manifest
from gymnast_core.seeds import take

MOST_DIFFERENT = 900
"""Start states that the episodes of a seed are begun from; after so many they come again."""
ROBOT_S = 1800.0
FILMS = ("old", "new")


@dataclass
class SceneEngine:
    """An AdaptationEngine; see cloud_trainer.flows.adaptation_engine.

    Attributes:
        connect: see Connect; asked whenever a robot is needed.
        jobs: of the trainer; `gymnast serve` works on them.
        catalogue: of the trainer's episodes.
        shelf: of the trainer's checkpoints.
        book: the scenes this robot knows.
        scene: the robot's name for where it stands, unless the operator names another.
        tenant: owner of the robots, jobs, episodes and checkpoints.
        work: folder in which this trainer's jobs have theirs.
        begins: how an adaptation waits for a loop that changes what its robot runs.
        config: of the training job; its bounds, scene_episodes and check are those of the trust check too.
        rule: of the canary; declared before it.
        guard_pairs: of each other task, after a win; 0 looks at none.
        modes: what of the policy is trained: what its checkpoint is, or an adapter that travels without its parent.
        price_per_hour: of this trainer, for budgets in money.
        allowed: what requests may reach outside the trainer, see gymnast_core.job.REACHES; config may anything.
        gating: how a candidate comes to its robot, gated first where that asks for it; None offers nothing.
    """

    connect: Connect
    jobs: SqlJobStore
    catalogue: EpisodeCatalogue
    shelf: Shelf
    book: SceneBook
    scene: str
    tenant: str
    work: Path
    begins: Begin
    config: JsonObject = field(default_factory=dict)
    rule: SequentialRule = field(default_factory=SequentialRule)
    guard_pairs: int = HarmRule.pairs
    modes: tuple[str, ...] = ("full", "lora")
    price_per_hour: float = 0.0
    allowed: Collection[str] = ()
    gating: Gating | None = None

    def check(self, request: SceneRequest) -> None:
        """Return if its checkpoints are here and its settings exist."""
        config = AdaptSettings.model_validate({**self.config, **request.config})
        check_reach(request.config, self.allowed)
        for name in filter(None, (request.world_model, request.judge)):
            self.shelf.path(name)
        check_dream(config.dream, self.shelf, request.world_model)
        other_tasks(self.catalogue, request.robot, request.instruction, request.other_tasks)
        records = SceneRecords(self.catalogue, request.robot, request.scene or self.scene, request.instruction)
        if refusal := records.refusal(config):
            raise NotTrustedError(refusal)

    def begin(self, request: SceneRequest, folder: Path, emit: Emit, ended: Ended) -> None:
        """Wait in the robot's queue behind a loop."""
        self.begins([request.robot], _errand(request.by, folder), ended, lambda why: emit("waits", {"reason": why}))

    def capture(self, request: SceneRequest, folder: Path) -> CapturedScene:
        """Record one episode here; its first frame is the scene."""
        robot, instruction = request.robot, request.instruction
        robot_now = self.connect(robot, _errand(request.by, folder))
        base = robot_now.policy_version
        self.shelf.path(base)  # before the arm moves: what nobody here has is not trained either
        asked = {
            "robot": robot, "scene": request.scene or self.scene, "policy": base, "by": request.by,
            "world_model": request.world_model or self.shelf.newest("world_model").name,
            "judge": request.judge or self.shelf.newest("judge").name,
            "seed": request.seed, "config": {**self.config, **request.config},
            "other_tasks": list(request.other_tasks),
        }  # fmt: skip
        self._record(robot_now, {**asked, "instruction": instruction}, episodes=1)
        recorded = self.catalogue.list(robot=robot, limit=100_000)
        if not recorded:
            raise GymnastError(f"{robot} recorded an episode, but none of its is valid here; see the page's episodes")
        newest = recorded[-1]
        # the robot knows tasks by short names; and where it has an adapter for this scene, that has driven
        found = {"instruction": newest.instruction, "start": newest.episode_id, "policy": newest.policy_version or base}
        self.shelf.path(found["policy"])
        (folder / "request.json").write_text(json.dumps({**asked, **found}))
        frame_HWC = next(iter(self.catalogue.read(newest).images.values()))[0]
        buffer = io.BytesIO()
        Image.fromarray(frame_HWC).save(buffer, "WEBP", quality=90)
        (folder / "start.webp").write_bytes(buffer.getvalue())
        np.save(folder / "start.npy", frame_HWC)
        known = self.book.find(frame_HWC)
        adapters = () if known is None else known.adapters
        there = request.scene or self.scene
        return {"scene": there, "known_adapters": [name for name in adapters if name != found["policy"]]}

    def collect(self, robot: str, instruction: str, episodes: int, folder: Path) -> None:
        """Record real episodes of the running policy and wait until the trainer has them."""
        self._record(
            self._robot(robot, folder), {**self._request(folder), "instruction": instruction}, episodes=episodes
        )

    def _robot(self, robot: str, folder: Path) -> FlowRobot:
        return self.connect(robot, _errand(self._request(folder)["by"], folder))

    def _record(self, client: FlowRobot, request: Mapping[str, Any], *, episodes: int) -> None:
        done = len(SceneRecords.of(self.catalogue, request).labelled())
        starts = take("adaptation", int(request["seed"]), episodes, after=done % MOST_DIFFERENT)
        client.evaluate(
            tasks=[request["instruction"]], seed_start=starts.start, seed_count=episodes, scene=request["scene"],
            temperature_seed=request["seed"], record=True, purpose="ttt", timeout_s=ROBOT_S,
        )  # fmt: skip
        client.flush(FLUSH_S)
        self.catalogue.settle()

    def trust(self, folder: Path, ended: Ended) -> Trust:
        """Dream the recorded episodes of this scene and measure: what training will ask again, of the same episodes."""
        request = self._request(folder)
        config, records = AdaptSettings(**request["config"]), SceneRecords.of(self.catalogue, request)
        recorded, needed, overridden = len(records.labelled()), config.scene_episodes, "episodes" in config.overrides
        if recorded < needed and not overridden:
            return too_few(recorded, needed, read_manifest(self.shelf.path(request["judge"])))
        rows = records.to_look_at(config.most_episodes)
        spec = {**self._spec(request), "episodes": [row.episode_id for row in rows]}
        found = self._job("trust", spec, f"{folder.name}-trust-{digest_of(rows)}", folder, ended).result
        if not found:
            return Trust(False, "the trust check was cancelled")
        self._note(folder, checked=found["checked"])
        return of_job(found, needed, overridden=overridden)

    def train(self, mode: str, budget: Budget, folder: Path, emit: Emit, ended: Ended) -> Practised:
        """Submit an adapt job with this budget and follow it."""
        request = self._request(folder)
        seconds = budget.seconds
        if budget.price_per_hour:
            seconds = min(seconds, 3600 * budget.money / budget.price_per_hour)
        spec = {
            **self._spec(request), "budget_s": seconds, "rollouts": budget.rollouts, "mode": mode,
            "checked": request["checked"],
        }  # fmt: skip
        row = self.jobs.submit(self.tenant, "adapt", spec, folder.name, _errand(request["by"], folder).by)
        emit("job", {"job": row.job_id})
        config = AdaptSettings(**request["config"])
        watch = Iterations(emit, config.groups * config.group_size, replace(budget, seconds=seconds), ended)
        result = follow(self.jobs, self.tenant, row.job_id, ended=watch.ended, on_event=watch.take).result
        (folder / "result.json").write_text(json.dumps(result))
        candidates = cast(Sequence[Mapping[str, str]], result.get("candidates", []))
        if not candidates and result.get("refused"):
            raise NotTrustedError(str(result["refused"]))
        ended_by = str(result.get("ended_by", ""))
        if ended_by == "the time budget" and seconds < budget.seconds:
            ended_by = "the money budget"
        return Practised(str(candidates[-1]["id"]) if candidates else None, ended_by)

    def _job(self, kind: str, spec: Mapping[str, Any], key: str, folder: Path, ended: Ended) -> JobRow:
        by = _errand(self._request(folder)["by"], folder).by
        return run_job(self.jobs, self.tenant, kind, spec, key=key, by=by, ended=ended)

    @staticmethod
    def _spec(request: Mapping[str, Any]) -> dict[str, Any]:
        """What all jobs of an adaptation get alike."""
        names = ("robot", "policy", "world_model", "judge", "instruction", "seed", "scene", "config")
        return {name: request[name] for name in names}

    def check_forgetting(self, candidate: str, folder: Path) -> ForgettingFigures:
        """What the job found on the other tasks."""
        found = json.loads((folder / "result.json").read_text()).get("forgetting") or {}
        shown = ("before", "after", "n", "most", "bound", "sight", "ok")
        return cast(ForgettingFigures, {"ok": True, **{name: found[name] for name in shown if name in found}})

    def preview(self, candidate: str, folder: Path, ended: Ended) -> None:
        """Imagine old and new from the captured start."""
        request = self._request(folder)
        if self.catalogue.find(request["start"]) is None:
            raise GymnastError(f"the captured start {request['start']} was withdrawn meanwhile; begin a new adaptation")
        checked = request["checked"]
        if checked is None:  # an adapter that is tried again before there was a check
            newest = AdaptSettings(**request["config"]).most_episodes
            checked = [row.episode_id for row in SceneRecords.of(self.catalogue, request).to_look_at(newest)]
        spec = {
            **self._spec(request), "candidate": candidate, "start": request["start"], "checked": checked,
            "episodes": sorted({*checked, request["start"]}),
        }  # fmt: skip
        job = self._job("preview", spec, f"{folder.name}-preview-{candidate}", folder, ended)
        for name in FILMS if job.result else ():
            self._take_film(job.job_id, f"{name}.webp", folder)

    def _take_film(self, job_id: str, name: str, folder: Path) -> None:
        """Copy what this trainer's own worker left: the result may be another machine's, and name any folder."""
        try:
            shutil.copyfile(self.work / job_id / name, folder / name)
        except OSError as error:
            raise GymnastError(
                f"job {job_id} left no {name} at this trainer ({error.strerror}); another machine reported its end"
            ) from error

    def admit(self, candidate: str, robot: str, folder: Path, emit: Emit, ended: Ended) -> str:
        """Gate the candidate where the robot asks for that, and offer it."""
        if self.gating is None:
            return ""

        def advance(done: int, total: int, note: str) -> None:
            emit("gate", {"done": done, "total": total, "note": note})

        by, key = _errand(self._request(folder)["by"], folder).by, f"{folder.name}-gate-{candidate}"
        return self.gating.admit(candidate, [robot], key=key, by=by, ended=ended, advance=advance)

    def canary(self, candidate: str, robot: str, folder: Path, emit: Emit, stop: Stop) -> CanaryVerdict:
        """Run the blinded trial until its rule decides; after a win, look for harm on the other tasks."""
        request, client = self._request(folder), self._robot(robot, folder)
        client.wait_staged([candidate], STAGE_S)
        canary = SceneCanary(self.catalogue, client, self.rule, self.guard_pairs, emit, stop)
        card = canary.run(candidate, robot, request, folder)
        if card and not has_won(card):
            self.book.drop(candidate)
        return CanaryVerdict(bool(card) and has_won(card), card, reason_of(card))

    def run_trial(self, trial: Trial, asked: TrialOrigin, stop: Stop) -> None:
        """Run a trial that was asked for on the page; see cloud_trainer.flows.trials."""
        name = asked.trial_id
        client = self.connect(asked.robot, Errand(asked.by, "trial", name, f"gymnast operate stop-trial {name}"))
        client.wait_staged([trial.plan.candidate], STAGE_S)
        run_pairs(trial, client, self.catalogue, scene=asked.scene or self.scene, purpose="trial", stop=stop)

    def keep(self, candidate: str, robot: str, folder: Path) -> None:
        """Attach it in this scene, which the robot recognises by image, and remember it for that."""
        scene = str(self._request(folder)["scene"])
        recogniser = learned(self.catalogue, robot, scene, np.load(folder / "start.npy"))
        self._robot(robot, folder).attach(candidate, scene=scene, recogniser=recogniser.to_json())
        self.book.keep(f"{scene} on {robot}", recogniser, candidate)

    def revert(self, candidate: str, robot: str, folder: Path) -> None:
        """The canary never attached it; if a crash came between, go back."""
        client = self._robot(robot, folder)
        if candidate in [one["checkpoint_id"] for one in client.adapters]:
            client.detach(candidate)

    def _request(self, folder: Path) -> dict[str, Any]:
        """What capture() wrote down; older adaptations have the trainer's scene and settings."""
        config = dict(self.config)
        usual = {"scene": self.scene, "seed": 0, "config": config, "other_tasks": [], "checked": None, "by": ""}
        return {**usual, **json.loads((folder / "request.json").read_text())}

    def _note(self, folder: Path, **values: Any) -> None:
        """Add to what capture() wrote down."""
        staging = folder / "request.partial"
        staging.write_text(json.dumps({**self._request(folder), **values}))
        staging.replace(folder / "request.json")


def _errand(by: str, folder: Path) -> Errand:
    """In whose name an adaptation acts; its folder has its name."""
    return Errand(by, "adaptation", folder.name, f"gymnast operate step {folder.name} cancel")

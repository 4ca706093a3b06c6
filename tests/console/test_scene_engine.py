"""The real engine on the shipped checkpoints: dream, audit, GRPO job, canary, with the simulator as the robot."""

import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from cloud_trainer.app.jobs import JobProcesses
from cloud_trainer.flows.adaptation_engine import Budget, SceneRequest
from cloud_trainer.flows.adaptation_view import Stage
from cloud_trainer.flows.scene_adaptation import SceneAdaptation
from cloud_trainer.flows.scene_engine import SceneEngine
from cloud_trainer.jobs.shelf import Shelf, Shelves
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.episodes import read_summary, write_episode
from gymnast_core.episodes.spool import file_digest
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.evaluation.scene_book import SceneBook
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.orders import EpisodeAnswer
from gymnast_core.policies import load_policy
from gymnast_ros.sim.collect import collect
from tests.console.simulated import arm

SHIPPED = Path(__file__).parents[2] / "checkpoints"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHIPPED / "policy").is_dir(), reason="needs the shipped checkpoints: make pretrain"),
]


class SimRobot:
    """A robot whose nodes are this process: same contract as GraphClient, the simulator behind it."""

    def __init__(self, service: Service, shelf: Shelf, policy: str, made: Path) -> None:
        self.service, self.shelf, self.policy_version, self.made = service, shelf, policy, made

    def _run(self, instruction, seed, scene, checkpoint, record):
        with arm(scene) as env:
            (episode,) = collect(env, load_policy(self.shelf.path(checkpoint)), instruction, [seed], frame_size=128)
        episode = replace(episode, episode_id=f"{episode.episode_id}-{checkpoint[-6:]}-{time.time_ns()}")
        if record:
            path = write_episode(self.made, episode, robot="bridge-1", created_ns=time.time_ns())
            digest, size, steps = file_digest(path), path.stat().st_size, read_summary(path).steps
            self.service.blobs.put_file(path, digest)
            known = EpisodeRow(
                0, "default", episode.episode_id, "bridge-1", digest, size, time.time_ns(), "valid", "",
                episode.instruction, episode.outcome.value, "operator:sim", steps, checkpoint, {"scene": scene},
            )  # fmt: skip
            self.service.meta.add_episodes([known])
        return EpisodeAnswer(
            success=episode.outcome.value == "success", episode_id=episode.episode_id, truncated_reason="",
            labelled_by="operator:sim", task=instruction, instruction=instruction, seed=seed,
        )  # fmt: skip

    def evaluate(self, *, tasks, seed_start, seed_count, scene, temperature_seed, record, purpose, timeout_s):
        seeds = range(seed_start, seed_start + seed_count)
        return [self._run(tasks[0], seed, scene, self.policy_version, record) for seed in seeds]

    def turn(self, what):
        return nullcontext()

    def run_episode(self, *, instruction, seed, scene, checkpoint, record, purpose):
        return self._run(instruction, seed, scene, checkpoint, record)

    def flush(self, timeout_s):
        pass  # episodes are in the catalogue already

    def wait_staged(self, checkpoint_ids, timeout_s):
        assert all(self.shelf.path(name).is_dir() for name in checkpoint_ids)

    stopped = False

    adapters: ClassVar[list[dict[str, str]]] = []

    def attach(self, checkpoint_id, *, scene, recogniser):
        assert SceneRecogniser.from_json(recogniser).calibration.here > 12
        self.adapters = [{"checkpoint_id": checkpoint_id, "scene": scene}]
        return self.policy_version


def test_an_adaptation_runs_end_to_end_on_trained_models(tmp_path):
    shelves = Shelves(tmp_path)
    shelf = shelves.of("default")
    policy, world_model, judge = (shelf.add(SHIPPED / name).id for name in ("policy", "world_model", "judge"))

    (tmp_path / "made").mkdir()
    with Service(ServiceConfig(folder=tmp_path, insecure=True), JobProcesses(tmp_path, shelves)) as service:
        robot = SimRobot(service, shelf, policy, tmp_path / "made")
        engine = SceneEngine(
            connect=lambda name, errand: robot, jobs=service.jobs,
            catalogue=service.episodes_of("default"), shelf=shelf,
            book=SceneBook(tmp_path / "scenes.json"), scene="standard", tenant="default", work=tmp_path / "jobs",
            begins=lambda *_: None,
            config={
                "groups": 8, "group_size": 8, "grpo_iterations": 3, "check": False, "forgetting": 1.0,
                "scene_episodes": 12,
            },
            rule=SequentialRule(max_pairs=6),
        )  # fmt: skip
        flow = SceneAdaptation.start(
            tmp_path / "flows",
            engine,
            SceneRequest("bridge-1", "lift the red cube", "evening", world_model, judge, seed=3),
            by="ana",
            tenant="default",
        )
        assert flow.wait(300)
        assert flow.view.stage is Stage.REFUSED, flow.view.reason
        assert {row.metadata["scene"] for row in service.episodes.list()} == {"evening"}
        assert "collect 13 more" in flow.view.reason
        flow.collect(flow.view.revision, episodes=13, by="ana")
        assert flow.wait(300)
        assert flow.view.stage is Stage.READY, flow.view.reason
        assert 0 <= flow.view.trust["figures"]["agreement"] <= 1
        flow.train(flow.view.revision, budget=Budget(seconds=800, rollouts=150), mode="full", by="ana")
        assert flow.wait(900)
        assert flow.view.stage is Stage.PREVIEW, flow.view.reason
        assert len(flow.view.iterations) == 3  # 150 rollouts are used up during the third 64
        assert {path.name for path in flow.folder.glob("*.webp")} == {"start.webp", "old.webp", "new.webp"}
        flow.approve(flow.view.revision, by="ana")
        assert flow.wait(300)
        assert flow.view.stage in (Stage.KEPT, Stage.REVERTED), flow.view.reason
        kept = flow.view.stage is Stage.KEPT
        assert robot.policy_version == policy
        assert robot.adapters == [{"checkpoint_id": flow.view.candidate, "scene": "evening"}] * kept
        assert flow.view.card["n"] <= 6
        named = {job.submitted_by for job in service.jobs.list("default")}
        assert named == {f"ana via {flow.view.adaptation_id}"}
        flow.close()
    shutil.rmtree(tmp_path / "jobs")

"""A console on real stores in this process, with an engine the test steers; and one in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cloud_trainer.console import Console, User
from cloud_trainer.console.app import create_app
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
from cloud_trainer.flows.arms import Errand
from cloud_trainer.flows.queue_begin import Begin
from cloud_trainer.flows.trials import TrialOrigin
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.robots import RobotBoard
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.trial import Trial
from gymnast_core.types import Outcome
from tests.console.planted_loop import PlantedEngine
from tests.console.simulated import make_policy

ROBOT = User("bridge-1", "robot")
JSON = {"Accept": "application/json"}


class SteeredEngine:
    """Answers at once, or waits where the test says so; keeps what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked = SceneRequest("nobody", "nothing")
        self.trusted = True
        self.known: list[str] = []
        self.iterations = 3
        self.hold = {name: threading.Event() for name in ("train", "canary", "trial")}
        self.inside = {name: threading.Event() for name in self.hold}
        self.wins = True
        self.begins: Begin = lambda *_: None
        for event in self.hold.values():
            event.set()

    def _wait(self, name: str) -> None:
        self.inside[name].set()
        assert self.hold[name].wait(20)

    def check(self, request: SceneRequest) -> None:
        if request.world_model == "world_model-nowhere":
            raise ConfigError("the trainer has no checkpoint 'world_model-nowhere'")

    def begin(self, request: SceneRequest, folder: Path, emit: Emit, ended: Ended) -> None:
        errand = Errand(request.by, "adaptation", folder.name, "")
        self.begins([request.robot], errand, ended, lambda why: emit("waits", {"reason": why}))

    def capture(self, request: SceneRequest, folder: Path) -> Mapping[str, Any]:
        self.calls.append("capture")
        self.asked = request
        return {"scene": request.scene or "bench", "known_adapters": self.known}

    def trust(self, folder: Path, ended: Ended) -> Trust:
        self.calls.append("trust")
        return Trust(self.trusted, "" if self.trusted else "dreams disagree with this scene; collect here first")

    def collect(self, robot: str, instruction: str, episodes: int, folder: Path) -> None:
        self.calls.append(f"collect {episodes}")
        self.trusted = True

    modes = ("lora", "full")
    price_per_hour = 3.6

    def train(self, mode: str, budget: Budget, folder: Path, emit: Emit, ended: Ended) -> Practised:
        self.calls.append("train")
        done, why = 0, ""
        while done < self.iterations and not (why := ended()):
            done += 1
            emit("iteration", {"iteration": done, "imagined_reward": 0.1 * done, "rollouts": 100})
            self._wait("train")
        return Practised("policy-candidate" if done else None, why)

    def check_forgetting(self, candidate: str, folder: Path) -> Mapping[str, Any]:
        self.calls.append("check")
        return {"before": 0.8, "after": 0.78, "ok": True}

    def preview(self, candidate: str, folder: Path, ended: Ended) -> None:
        self.calls.append("preview")

    def admit(self, candidate: str, robot: str, folder: Path, emit: Emit, ended: Ended) -> str:
        return ""

    def canary(self, candidate: str, robot: str, folder: Path, emit: Emit, stop: Stop) -> CanaryVerdict:
        self.calls.append("canary")
        self._wait("canary")
        return CanaryVerdict(self.wins, {"decision": "promote" if self.wins else "futile", "trial_id": folder.name})

    def run_trial(self, trial: Trial, asked: TrialOrigin, stop: Stop) -> None:
        self.calls.append(f"trial in {asked.scene or 'the usual scene'}")
        while (run := trial.next_run()) is not None and not stop():
            self._wait("trial")
            if self.calls[-1] == "trip":
                self.calls.append("tripped")
                trial.void(run.run_id, "the scene differs from its start")
                continue
            won = (trial.checkpoint_of(run.run_id) == trial.plan.candidate) is self.wins
            outcome = Outcome.SUCCESS if won else Outcome.FAILURE
            trial.record(run.run_id, outcome, labelled_by="operator:ana", episode_id=f"ep-{run.run_id}")

    def keep(self, candidate: str, robot: str, folder: Path) -> None:
        self.calls.append("keep")

    def revert(self, candidate: str, robot: str, folder: Path) -> None:
        self.calls.append("revert")


class Bench:
    """A console with its clients by role."""

    def __init__(self, folder: Path) -> None:
        self.engine, self.looping = SteeredEngine(), PlantedEngine(["policy-a", "policy-b", "policy-c"])
        self.service = Service(ServiceConfig(folder=folder, insecure=True))
        self.ask = self.service.handlers
        self.engine.begins = partial(self.service.queues.beginnings.begin, "default")
        self.ask.flows.take_up(lambda tenant: self.engine, lambda *_: self._loop_engine())
        self.console = Console(self.service)
        self.gate = self.console.gate
        self.app = create_app(self.console.sources, self.gate, poll_s=0.05)
        self.folder = folder
        self.service.robots = self.ask.robots.board = RobotBoard(0.0)
        self.report({"state": "ready"})

    def _loop_engine(self) -> PlantedEngine:
        self.looping.begins = self.engine.begins
        return self.looping

    def report(self, status: Mapping[str, Any]) -> None:
        self.service.robots.post(ROBOT, status, b"")

    def client(self, name: str, role: str) -> TestClient:
        token = self.gate.issue(User(name, role))
        return TestClient(self.app, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False)

    def add_episode(
        self, episode_id: str, outcome: str = "failure", policy: str = "", *, purpose: str = "collect", at_ns: int = 1
    ) -> None:
        given: dict[str, Any] = {
            "state": "valid",
            "instruction": "lift",
            "outcome": outcome,
            "labelled_by": "operator:sim",
            "steps": 15,
        }
        given |= {"policy_version": policy, "metadata": {"purpose": purpose}}
        row = EpisodeRow(0, "default", episode_id, "bridge-1", "0" * 64, 10, at_ns, **given)
        assert self.service.meta.add_episodes([row]) == ["added"]

    def add_policy(self, offset_m: float, **lineage: Any) -> str:
        shelf = self.folder / "checkpoints"
        shelf.mkdir(exist_ok=True)
        return make_policy(shelf, offset_m, **lineage).id

    def adapt(self, client: TestClient, until: str) -> str:
        """Start an adaptation as this client and bring it to a stage."""
        started = client.post("/adapt", data={"robot": "bridge-1", "instruction": "lift"}, headers=JSON)
        assert started.status_code == 200, started.text
        adaptation_id = str(started.json()["go"]).rsplit("/", 1)[-1]
        self.until(adaptation_id, "ready" if self.engine.trusted else "refused")
        if until in ("training", "preview"):
            assert self.step(client, adaptation_id, "train").status_code == 200
            self.until(adaptation_id, until)
        return adaptation_id

    def view(self, adaptation_id: str) -> Any:
        return self.ask.flows.adaptations.get("default", adaptation_id).view

    def until(self, adaptation_id: str, stage: str) -> None:
        wait_for(lambda: self.view(adaptation_id).stage.value == stage, f"stage {stage}")

    def step(
        self, client: TestClient, adaptation_id: str, step: str, revision: int | None = None, **values: str
    ) -> Any:
        known = self.view(adaptation_id).revision if revision is None else revision
        data = {"revision": str(known), **values}
        return client.post(f"/adapt/{adaptation_id}/{step}", data=data, headers=JSON)


def wait_for(condition: Any, what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "trainer")
    yield bench
    for event in bench.engine.hold.values():
        event.set()
    bench.console.stop()
    bench.service.stop()


class Trainer:
    """tests.console.serving in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, str] = {}

    def start(self, port: int = 0) -> str:
        (self.folder / "address.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.console.serving", str(self.folder), str(port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
        with (self.folder / "serving.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        path = self.folder / "address.json"

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "serving.log").read_text()[-2000:]
            return path.exists()

        wait_for(ready, "the trainer", 90)
        self.facts = json.loads(path.read_text())
        return self.facts["address"]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = Trainer(tmp_path_factory.mktemp("trainer"))
    trainer.start()
    yield trainer
    trainer.kill()


@pytest.fixture
def fresh_trainer(tmp_path: Path) -> Iterator[Trainer]:
    """For a test that changes what it looks at first: another try begins where the first one did."""
    trainer = Trainer(tmp_path)
    trainer.start()
    yield trainer
    trainer.kill()

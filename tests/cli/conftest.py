"""A trainer and a robot for the commands: the real service over mutual TLS, the real node graph, a quick runner."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_trainer.app.engines import loop_engine_for
from cloud_trainer.app.jobs import JobProcesses
from cloud_trainer.console import Console
from cloud_trainer.flows.loop_parts import LoopEngine
from cloud_trainer.flows.scene_engine import SceneEngine
from cloud_trainer.flows.trials import Trials
from cloud_trainer.jobs.shelf import Shelf, Shelves
from cloud_trainer.service import JobContext, OrderedRobot, Service, ServiceConfig, enroll
from cloud_trainer.store.tenants import PerTenant
from gymnast_cli.main import main
from gymnast_core.errors import NotTrustedError
from gymnast_core.evaluation.scene_book import SceneBook
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.jobs import kinds_of
from gymnast_core.records.manifest import read_manifest
from gymnast_ros.bringup import Graph, GraphConfig
from tests.cloud.learning_fakes import tiny_policy
from tests.ros.conftest import GraphClient, wait_until  # noqa: F401  # rclpy, quietly

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "policy"
DREAM = {kind: read_manifest(SHIPPED.parent / kind).id for kind in ("world_model", "judge")}
DOMAIN = 103 + os.getpid() % 70


@dataclass
class Stack:
    """A started trainer and robot.

    Attributes:
        service: the trainer.
        domain: of the robot.
        base: id of the policy the robot starts with, which knows nothing.
        folder: of everything.
    """

    service: Service
    domain: int
    base: str
    folder: Path

    def identity(self, role: str) -> Path:
        return self.folder / f"identity-{role}"

    def robot(self) -> list[str]:
        return ["--domain", str(self.domain)]

    def trainer(self, role: str = "operator") -> list[str]:
        return ["--trainer", self.service.address, "--identity", str(self.identity(role))]


REFUSED, FAILS = 13, 14
"""Numbers of most_episodes that end a job so."""


def practise(context: JobContext) -> Mapping[str, Any]:
    """A training job that is over at once: its candidate is the shipped policy.

    `config`, or a budget of one rollout, says how it ends.
    """
    config = dict(context.job.spec.get("config", {}))
    for step in range(3):
        context.emit(
            "progress", {"stage": "grpo", "step": step + 1, "total": 3, "metrics": {"imagined_reward": 0.1 * step}}
        )
    if config.get("most_episodes") == REFUSED or context.job.spec.get("rollouts") == 1:
        refusal = NotTrustedError("world model fails its audit: agreement 0.40 < 0.7")
        context.emit("refused", {"reason": f"{refusal}"})  # as a worker process reports it
        raise refusal
    if config.get("most_episodes") == FAILS:
        raise OSError("no space left in [/tmp]")
    folder = context.folder / "candidate"
    shutil.copytree(SHIPPED, folder)
    context.publish(folder)
    return {
        "candidates": [{"id": read_manifest(folder).id, "iteration": 1, "folder": str(folder), "imagined_reward": 0.4}],
        "world_model": "world_model-1", "judge": "judge-1", "register": [], "audit": {"agreement": 0.9},
        "imagined_reward": [], "episodes": len(context.episodes.list()), "folder": str(context.folder),
    }  # fmt: skip


@contextmanager
def started(folder: Path) -> Iterator[Stack]:
    """A trainer with its page, and identities for people; no robot yet."""
    base = tiny_policy(0).save(folder / "base").id
    shelf = Shelf(folder / "trainer" / "checkpoints")
    for known in (folder / "base", SHIPPED, *(SHIPPED.parent / kind for kind in ("world_model", "judge"))):
        shelf.add(known)
    processes = JobProcesses(folder / "trainer", Shelves(folder / "trainer"))

    def runner(context: JobContext) -> Mapping[str, Any]:
        return processes(context) if context.job.kind in kinds_of("quick") else practise(context)

    service = Service(ServiceConfig(folder=folder / "trainer"), runner=runner)

    def looping(tenant: str, trials: Trials) -> LoopEngine:
        return loop_engine_for(service, shelf, tenant, trials)

    service.handlers.flows.take_up(PerTenant(lambda tenant: adapts(service, shelf)).of, looping)
    with service, Console(service):
        running = Stack(service, DOMAIN, base, folder)
        for role in ("operator", "trainer", "admin"):
            enroll(service.authority, role, role, out=running.identity(role))
        yield running


@contextmanager
def robot_of(stack: Stack, name: str, domain: int, *, folder: str, identity: str) -> Iterator[None]:
    """A started robot that takes the trainer's orders and runs a policy which knows nothing."""
    config = GraphConfig(
        folder=stack.folder / folder, domain_id=domain, trainer=stack.service.address, robot_name=name,
        identity=enroll(stack.service.authority, name, "robot", out=stack.identity(identity)),
        policy=str(stack.folder / "base"), orders=True,
    )  # fmt: skip
    with Graph(config):
        wait_until(lambda: stack.service.robots.find("default", name) is not None, 60.0, f"{name}'s first report")
        yield


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Trainer and robot, started once per module."""
    folder = tmp_path_factory.mktemp("stack")
    with started(folder) as stack, robot_of(stack, "sim-0", DOMAIN, folder="robot", identity="robot"):
        yield stack


def adapts(service: Service, shelf: Shelf) -> SceneEngine:
    """The trainer's own engine, with a trust check of three episodes and a canary that is quick to decide."""
    return SceneEngine(
        connect=lambda name, errand: OrderedRobot(service.orders, service.robots, "default", name, errand.order),
        jobs=service.jobs,
        catalogue=service.episodes_of("default"), shelf=shelf, book=SceneBook(service.config.folder / "scenes.json"),
        scene="standard", tenant="default", work=service.config.folder / "jobs",
        begins=lambda *_: None,
        config={"check": False, "scene_episodes": 3},
        rule=SequentialRule(alpha_promote=0.5, min_pairs=1, max_pairs=6), guard_pairs=1,
    )  # fmt: skip


Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def gymnast(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with --json in this process; returns its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main(["--json", *map(str, arguments)])
        lines = capsys.readouterr().out.strip().splitlines()
        assert len(lines) == 1, "one JSON line, nothing else"
        return code, json.loads(lines[0])

    return run

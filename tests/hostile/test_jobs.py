"""Whoever may submit a job, a robot too, gets no code run, no folder read and no secret sent by the trainer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloud_trainer.app import App, AppConfig, at_hand
from cloud_trainer.app.engines import engine_for, loop_engine_for
from cloud_trainer.flows.adaptation_engine import SceneRequest
from cloud_trainer.flows.trials import Trials
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.jobs.submission import check_reach, check_submission
from cloud_trainer.service import ServiceConfig
from gymnast_core.errors import ConfigError
from gymnast_core.job import REACHES
from gymnast_core.records.manifest import read_manifest
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.wire.errors import NotPermittedError
from gymnast_core.wire.gymnast.v1 import jobs_pb2, jobs_pb2_grpc
from tests.bridge.conftest import make_checkpoint
from tests.hostile.lab import Lab, error_of
from tests.hostile.registry import Tally, attack
from tests.ros.conftest import wait_until

PATIENCE_S = 120.0

ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "key_variable": "AWS_SECRET_ACCESS_KEY"}
CONFIGS: dict[str, dict[str, Any]] = {
    "code": {"novel": {"scenes": 1, "edits": ["change_light", "os:abort"]}},
    "code, alone": {"novel": {"scenes": 1, "edits": ["os:abort"]}},
    "a secret of the environment": {"judge": {"kind": "endpoint", **ENDPOINT}},
    "the same for words": {"novel": {"endpoint": ENDPOINT}},
    "a folder of the trainer": {"judge": {"kind": "vlm", "folder": "/srv/trainer/tenants/acme"}},
    "a checkpoint of another tenant": {"judge": {"kind": "checkpoint", "folder": "/srv/trainer/tenants/acme/x"}},
    "a cluster of the caller's": {"ray": {"address": "127.0.0.1:6379"}},
}


def submit(lab: Lab, name: str, role: str, config: object) -> str:
    """Ask for a job on the wire; returns the name of the error it is refused with."""
    with lab.channel(lab.identity(name, role)) as channel:
        kind = "adapt" if role == "robot" else "improve"
        spec = {"policy": lab.policy_id, "config": config}
        if kind == "adapt":
            spec |= {"robot": name, "scene": "bench", "instruction": "lift"}
        request = jobs_pb2.SubmitRequest(kind=kind, spec_json=json.dumps(spec), idempotency_key=f"{name} {config}"[:99])
        return error_of(lambda: jobs_pb2_grpc.JobServiceStub(channel).Submit(request, timeout=20))


def guarded(lab: Lab, *allowed: str) -> Lab:
    """Give the trainer the check that `gymnast serve` gives it."""
    shelves = Shelves(lab.service.config.folder)
    make_checkpoint(lab.folder / "policy", kind="policy")
    lab.policy_id = shelves.of("default").add(lab.folder / "policy").id
    lab.service.check_job = partial(check_submission, shelves, lab.service.episodes_of, allowed=allowed)
    return lab


@attack("jobs that reach out of the trainer")
def reaching_jobs(folder: Path, size: int) -> Tally:
    with Lab(folder) as lab:
        guarded(lab)
        whose = [(role, config) for role in ("robot", "operator", "admin") for config in CONFIGS.values()]
        tried = [submit(lab, f"x-{role}", role, config) for role, config in whose[: max(size, 1)]]
        return Tally(len(tried), sum(error != "NotPermittedError" for error in tried), len(lab.service.jobs.list(None)))


def test_no_role_submits_a_job_that_reaches_out_of_the_trainer(tmp_path):
    assert reaching_jobs(tmp_path, 99) == Tally(3 * len(CONFIGS), 0, 0)


@pytest.mark.parametrize("config", [None, [], "x", {"novel": ["os:abort"]}, {"novel": {"edits": "os:abort"}}], ids=str)
def test_a_configuration_that_is_no_object_is_refused_at_once(tmp_path, config):
    with Lab(tmp_path) as lab:
        assert submit(guarded(lab), "ana", "operator", config) == "ConfigError"


def test_what_the_starter_allowed_is_taken_and_plain_jobs_always_are(tmp_path):
    with Lab(tmp_path) as lab:
        assert submit(guarded(lab), "ana", "operator", {"novel": {"scenes": 1, "edits": ["change_light"]}}) == ""
        lab.service.check_job.keywords["allowed"] = REACHES
        assert [submit(lab, "ana", "operator", config) for config in CONFIGS.values()] == [""] * len(CONFIGS)


def said_by(*arguments: object) -> dict[str, Any]:
    """What a command printed with --json."""
    command = [sys.executable, "-m", "gymnast_cli.main", "--json", *map(str, arguments)]
    return dict(json.loads(subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).stdout))


@contextlib.contextmanager
def served(folder: Path, *arguments: str) -> Iterator[list[str]]:
    """Run `gymnast serve` as its user does; yields how an operator's commands reach it."""
    trainer, port, identity = folder / "trainer", folder / "port", folder / "ana"
    serve = ["serve", "--folder", str(trainer), "--port-file", str(port), "--no-console", *arguments]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "gymnast_cli.main", *serve], stdout=log, stderr=log)
    try:
        wait_until(port.is_file, PATIENCE_S, f"the trainer; see {folder / 'serve.log'}")
        said_by("enroll", "ana", "--role", "operator", "--ca", trainer / "ca", "--out", identity)
        yield ["--trainer", port.read_text().strip(), "--identity", str(identity)]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@attack("jobs that use more memory than one may")
def greedy_jobs(folder: Path, size: int) -> Tally:
    spec = json.dumps({"policy": read_manifest(shipped_checkpoints() / "policy").id})
    failed = lost = 0
    with served(folder, "--job-memory-gib", "0.0625") as trainer:
        for number in range(min(size, 5)):
            job = said_by("jobs", "submit", "improve", "--spec", spec, "--watch", *trainer)
            failed += job["state"] == "failed" and job["error"].startswith("JobMemoryError: it used more than 0.0625")
            lost += len(said_by("jobs", "list", *trainer)["jobs"]) != number + 1
    return Tally(min(size, 5), min(size, 5) - failed, lost)


def test_a_job_that_uses_too_much_memory_fails_by_name_and_the_service_goes_on(tmp_path):
    assert greedy_jobs(tmp_path, 1) == Tally(1, 0, 0)


@attack("adaptations and loops that reach out of the trainer")
def reaching_by_other_doors(folder: Path, size: int) -> Tally:
    """What an adaptation, a loop, and a job that is in the store already, by a door nobody thought of, may name."""
    accepted = attempts = 0
    policy = read_manifest(shipped_checkpoints() / "policy").id
    service = ServiceConfig(folder=folder / "trainer", insecure=True)
    with App(AppConfig(service, imports=at_hand(shipped_checkpoints()), console=False)) as app:
        shelf = app.shelves.of("default")
        scenes = engine_for(app.service, app.config.arms, shelf, "default", allowed=app.config.jobs_may)
        loops = loop_engine_for(app.service, shelf, "default", Trials(folder / "trials", None))
        for number, config in enumerate([*CONFIGS.values()][: max(size, 1)]):
            spec = {"policy": policy, "config": config}
            row = app.service.jobs.submit("default", "improve", spec, f"key-{number}", "nobody")
            request = SceneRequest(robot="r", instruction="lift", config=config)
            for door in (
                partial(scenes.check, request),
                partial(loops.check, config, ""),
                partial(ended, app, row.job_id),
            ):
                attempts += 1
                try:
                    door()
                    accepted += 1
                except (NotPermittedError, ConfigError):
                    pass
    return Tally(attempts, accepted, 0)


def ended(app: App, job_id: str) -> None:
    """Raise what a job was refused with."""
    wait_until(lambda: app.service.jobs.get("default", job_id).ended, PATIENCE_S, "the job's end")
    row = app.service.jobs.get("default", job_id)
    if row.error.startswith("NotPermittedError"):
        raise NotPermittedError(row.error)


def test_no_adaptation_and_no_loop_reaches_out_of_the_trainer(tmp_path):
    assert reaching_by_other_doors(tmp_path, 99) == Tally(3 * len(CONFIGS), 0, 0)


def test_what_the_starter_itself_names_stands():
    own = {"judge": ENDPOINT, "novel": {"scenes": 1, "edits": ["mine:Edit"]}}
    check_reach({**own, "groups": 4}, (), given=own)
    with pytest.raises(NotPermittedError, match=r"novel\.edits"):
        check_reach({"novel": {"scenes": 1, "edits": ["mine:Edit", "os:abort"]}}, (), given=own)

"""What a gate job leaves is kept and acted on by the trainer: from a submitted job to the robot's staged checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from cloud_trainer.app import jobs as app_jobs
from cloud_trainer.app.jobs import JobProcesses
from cloud_trainer.flows.gating import Gating
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_client import Trainer
from gymnast_core.errors import JobEndedError
from gymnast_core.jobs import Candidate, GateResult, ImproveResult
from gymnast_core.records.release import Release
from tests.bridge.conftest import make_checkpoint
from tests.bridge.gated_robot import PATIENCE_S, TENANT, GatedRobot, record_of, shipped
from tests.bridge.test_bridge import wait_until


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A trainer whose workers' results are planted: the gate itself is tests/cloud/test_release_gate.py's subject."""
    says = {"decision": "passed", "reason": "not worse"}

    def planted(inputs, work, *, emit, **_):
        spec = inputs.spec
        if spec.kind == "gate":
            emit("progress", {"stage": "gate", "step": 5, "total": 100, "metrics": {}})
            record = record_of(says.get("candidate", spec.policy), spec.incumbent,
                               decision=says["decision"], reason=says["reason"])  # fmt: skip
            return GateResult(record=json.loads(json.dumps(asdict(record))))
        return ImproveResult(candidates=(Candidate(id="", iteration=1, folder=str(tmp_path / "trained")),))

    monkeypatch.setattr(app_jobs, "run_in_process", planted)
    folder = tmp_path / "trainer"
    shelves = Shelves(folder)
    with Service(ServiceConfig(folder=folder), JobProcesses(folder, shelves)) as service:
        shelves.report_to(lambda tenant, manifest: service.trails.of(tenant).shelved(manifest))
        identity = enroll(service.authority, "wx-1", "robot", out=tmp_path / "ids" / "wx-1")
        admin = enroll(service.authority, "root", "admin", out=tmp_path / "ids" / "root")
        with (
            GatedRobot(service, identity, tmp_path / "robot") as robot,
            Trainer(service.address, admin) as there,
        ):
            base = shipped(robot, tmp_path)
            shelves.of(TENANT).add(tmp_path / "base-wx-1")
            yield service, shelves.of(TENANT), robot, there, base, says


def test_a_gate_that_passed_offers_and_one_that_failed_does_not(world, tmp_path):
    _service, shelf, robot, there, base, says = world
    good, bad = make_checkpoint(tmp_path / "good", 1.0), make_checkpoint(tmp_path / "bad", 2.0)
    for name in ("good", "bad"):
        shelf.add(tmp_path / name)
    [gate], signed = there.checkpoints.gate_and_offer(good.id, ["wx-1"])
    assert (gate.incumbent, signed) == (base, None)
    robot.staged(good.id)
    [record] = there.checkpoints.gates(good.id)
    assert [event.kind for event in there.jobs.watch(gate.job_id) if event.kind in ("gated", "published")] == [
        "gated", "published",
    ]  # fmt: skip
    assert Release.from_bytes(there.checkpoints.releases(limit=100)[-1].payload).gate.record == record.id
    says |= {"decision": "failed", "reason": "it races"}
    [gate], _ = there.checkpoints.gate_and_offer(bad.id, ["wx-1"])
    wait_until(lambda: there.checkpoints.gates(bad.id), PATIENCE_S)
    assert there.jobs.result(gate.job_id)["record"]["decision"] == "failed"
    assert bad.id not in robot.store.held()


def test_a_record_of_something_else_is_not_kept(world, tmp_path):
    _service, shelf, _, there, _, says = world
    new = make_checkpoint(tmp_path / "new", 1.0)
    shelf.add(tmp_path / "new")
    says["candidate"] = "policy-other"
    [gate] = there.checkpoints.gate(new.id, ["wx-1"])
    with pytest.raises(JobEndedError, match="left a record of policy-other"):
        there.jobs.result(gate.job_id)
    assert there.checkpoints.gates(new.id) == there.checkpoints.gates("policy-other") == []


def test_a_training_job_has_its_candidates_gated_before_a_robot_that_asks_gets_them(world, tmp_path):
    _service, _, robot, there, base, _ = world
    trained = make_checkpoint(tmp_path / "trained", 3.0)
    job = there.jobs.submit("improve", {"policy": base, "offer_to": ["wx-1"]})
    there.jobs.result(job)
    robot.staged(trained.id)
    assert robot.store.state.gates[trained.id].how == "passed"
    assert there.checkpoints.gates(trained.id)[0].incumbent == base


def test_a_flow_admits_what_passes_and_says_why_not(world, tmp_path):
    service, shelf, robot, _there, _base, says = world
    good, bad = make_checkpoint(tmp_path / "good", 1.0), make_checkpoint(tmp_path / "bad", 2.0)
    for name in ("good", "bad"):
        shelf.add(tmp_path / name)
    offered, seen = [], []
    gating = Gating(
        TENANT, service.jobs, lambda robots: service.gates.asking(TENANT, robots),
        lambda candidate, robots: service.gates.gaps(TENANT, candidate, robots, warned=True),
        lambda candidate, robots: offered.append((candidate, list(robots))),
    )  # fmt: skip

    def admit(candidate: str, key: str) -> str:
        return gating.admit(candidate, ["wx-1"], key=key, by="ana via loop night", ended=lambda: "",
                            advance=lambda *shown: seen.append(shown))  # fmt: skip

    assert gating.asking(["wx-1", "wx-9"]) == ["wx-1"]
    assert admit(good.id, "one") == ""
    robot.staged(good.id)
    assert seen[0][:2] == (5, 100)
    assert admit(good.id, "one") == "", "followed again after a restart"
    assert offered == [(good.id, ["wx-1"])], "its record is there already, so it is offered at once"
    says |= {"decision": "failed", "reason": "it races"}
    assert "it races" in admit(bad.id, "two")
    assert bad.id not in robot.store.held()

"""Nobody signs for somebody else, and nothing is done that is not written down; over HTTPS and gRPC."""

from __future__ import annotations

import contextlib
import functools
import re
import time

import pytest

from cloud_trainer.console.app import create_app
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.tenants import PerTenant
from gymnast_core.errors import StorageError
from gymnast_core.wire.gymnast.v1 import (
    adaptations_pb2,
    adaptations_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    robots_pb2,
    robots_pb2_grpc,
    trajectories_pb2,
    trajectories_pb2_grpc,
    trials_pb2,
    trials_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
)
from tests.bridge.conftest import make_checkpoint
from tests.console.conftest import SteeredEngine
from tests.hostile.lab import Lab, error_of

FORGED = {
    "by": "root", "role": "admin", "tenant": "acme", "at_ns": "1", "who": "root", "user": "root", "action": "look",
    "kind": "look", "self": "x", "data": "x", "name": "root", "adaptation": "adapt-0", "adaptation_id": "adapt-0",
    "episode": "ep-9", "entry": "0", "checkpoint": "policy-9", "sequence": "0", "hash": "0", "previous": "0",
    "author": "root", "form": "x", "trial_id": "trial-0", "serial": "0",
}  # fmt: skip
"""Every word the log, its entries and the functions behind it use for something."""

USEFUL = {
    "outcome": "success", "reason": "because", "robot": "wx-1", "instruction": "lift", "robots": "", "revision": "1",
    "against": "policy-0", "episodes": "2", "minutes": "1",
}  # fmt: skip


@pytest.fixture
def lab(tmp_path):
    with Lab(tmp_path) as lab:
        rows = [EpisodeRow(0, "default", f"ep-{n}", "wx-1", f"{n}" * 64, 10, 1, state="valid") for n in range(6)]
        lab.service.meta.add_episodes(rows)
        shelf = tmp_path / "trainer" / "checkpoints"
        lab.checkpoint = make_checkpoint(shelf / "new", 1.0).id
        (shelf / "new").rename(shelf / lab.checkpoint)
        yield lab


def entries(lab):
    return list(lab.service.trails.of("default").log.entries)


def posts(lab):
    """Every address of the page that acts, with its parts filled in; taken from the application itself."""
    app = create_app(lab.console.sources, lab.console.gate)
    paths = sorted({route.path for route in app.routes if "POST" in (getattr(route, "methods", None) or ())})
    parts = {"episode_id": "ep-0", "checkpoint_id": lab.checkpoint, "job_id": "job-0", "trial_id": "trial-0",
             "adaptation_id": "adapt-0"}  # fmt: skip
    for path in paths:
        if path in ("/login", "/logout"):
            continue
        choices = {"how": ("publish", "promote", "rollback"), "step": ("collect", "train", "approve", "cancel")}
        name = next((name for name in choices if f"{{{name}}}" in path), "")
        for choice in choices.get(name, ("",)):
            yield re.sub(r"\{(\w+)\}", lambda found, choice=choice: parts.get(found[1], choice), path)


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_no_field_of_a_form_says_who_did_it_or_when(lab, role):
    """Every address that acts gets every word that means something to the log, by certificate, token and session."""
    ana = lab.identity("ana", role)
    token = lab.token(ana)
    ways = [{"identity": ana}, {"token": token}, {"cookie": lab.log_in(token)}]
    began_ns = time.time_ns()
    tried = 0
    for path in posts(lab):
        for way in ways:
            answer = lab.page("POST", path, form={**FORGED, **USEFUL}, **way)
            assert answer.status < 500, (path, answer.text)
            tried += 1
    assert tried >= 30
    written = entries(lab)
    assert {"label", "retract"} <= {entry.kind for entry in written}
    for entry in written:
        assert (entry.data["by"], entry.data["role"], entry.data["tenant"]) == ("ana", role, "default"), entry
        assert began_ns <= entry.data["at_ns"] <= time.time_ns()
    row = lab.service.meta.episode("default", "ep-0")
    assert row.labelled_by == "operator:ana"


def test_an_adaptations_step_is_written_with_its_own_fields_alone(tmp_path):
    """What a form holds beside them, named like the entry's own or not, is written nowhere."""
    with Lab(tmp_path, engine_of=PerTenant(lambda tenant: SteeredEngine()).of) as lab:
        ana, robot = lab.identity("ana", "operator"), lab.identity("wx-1", "robot")
        report = robots_pb2.RobotReport(state="idle", takes_orders=True)
        assert error_of(lambda: robots_pb2_grpc.RobotServiceStub(lab.channel(robot)).Report(report, timeout=20)) == ""
        begun = lab.page("POST", "/adapt", identity=ana, form={**FORGED, "robot": "wx-1", "instruction": "lift"})
        adaptation = begun.json()["go"].rpartition("/")[2]
        answer = lab.page("POST", f"/adapt/{adaptation}/cancel", identity=ana, form=FORGED)
        assert answer.status == 200, answer.text
        last = entries(lab)[-1]
        assert (last.kind, last.data["by"], last.data["role"], last.data["tenant"], last.data["adaptation"]) == (
            "adapt: cancel", "ana", "operator", "default", adaptation,
        )  # fmt: skip
        assert last.data["form"] == {}


def wire_actions(lab, identity):
    """Every method that changes something on behalf of a person, with what must not have happened afterwards."""
    channel = lab.channel(identity)
    episodes = trajectories_pb2_grpc.TrajectoryServiceStub(channel)
    weights, jobs = weights_pb2_grpc.WeightsServiceStub(channel), jobs_pb2_grpc.JobServiceStub(channel)
    label = trajectories_pb2.LabelEpisodeRequest(episode_id="ep-1", outcome="success")
    retract = trajectories_pb2.RetractEpisodeRequest(episode_id="ep-2", reason="dark")
    submit = jobs_pb2.SubmitRequest(kind="improve", spec_json="{}", idempotency_key="k")
    back = weights_pb2.RollbackRequest(checkpoint_id=lab.checkpoint, reason="bad")
    return {
        "label": lambda: episodes.LabelEpisode(label, timeout=20),
        "retract": lambda: episodes.RetractEpisode(retract, timeout=20),
        "submit": lambda: jobs.Submit(submit, timeout=20),
        "roll back": lambda: weights.Rollback(back, timeout=20),
    }


@contextlib.contextmanager
def no_entry_fits(lab):
    """The database refuses entries of the log as a full disk does, and takes everything else."""
    database = lab.service._database
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    yield
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")


def state(lab):
    rows = [lab.service.meta.episode("default", f"ep-{n}") for n in range(6)]
    made, meta = lab.service.trails.of("default").graph.affected("ep-2"), lab.service.meta
    return rows, made, meta.checkpoints("default"), lab.service.jobs.list(None), meta.releases("default")


def test_what_cannot_be_written_down_is_not_done(lab):
    """The disk takes no entry: every action is refused and nothing has changed; then it does, and they are done."""
    root = lab.identity("root", "admin")
    lab.service.publisher.publish("default", lab.service.config.folder / "checkpoints" / lab.checkpoint)
    before = state(lab)
    acts = wire_actions(lab, root)
    forms = {"/episodes/ep-3/label": {"outcome": "failure"}, "/episodes/ep-4/retract": {"reason": "dark"},
             f"/checkpoints/{lab.checkpoint}/publish": {},
             f"/checkpoints/{lab.checkpoint}/rollback": {"reason": "bad"}}  # fmt: skip
    with no_entry_fits(lab):
        assert all(error_of(act) for act in acts.values())
        assert all(lab.page("POST", path, identity=root, form=form).status >= 400 for path, form in forms.items())
    assert state(lab) == before
    assert entries(lab) == []
    assert [error_of(act) for act in acts.values()] == [""] * 4
    assert all(lab.page("POST", path, identity=root, form=form).status == 200 for path, form in forms.items())
    assert sorted(entry.kind for entry in entries(lab)) == sorted(
        ["label", "retract", "submit", "roll back", "label", "retract", "publish", "roll back"]
    )


def test_what_fails_is_written_down_as_failed_and_leaves_nothing_else(lab, monkeypatch):
    """The release cannot be registered: neither checkpoint nor record stays, and two entries say what was tried."""
    root, before = lab.identity("root", "admin"), state(lab)

    def refuse(sign):
        raise StorageError("the shelf broke")

    monkeypatch.setattr(lab.service.meta, "add_release", refuse)
    assert lab.page("POST", f"/checkpoints/{lab.checkpoint}/publish", identity=root, form={}).status >= 400
    assert state(lab) == before
    first, second = entries(lab)
    assert (first.kind, second.kind) == ("publish", "publish: failed")
    assert second.data["entry"] == first.sequence
    assert "the shelf broke" in second.data["error"]


def test_what_is_refused_before_anything_is_done_is_no_entry(lab):
    root = lab.identity("root", "admin")
    unknown = weights_pb2.RollbackRequest(checkpoint_id="policy-0123456789abcdef", reason="bad")
    stub = weights_pb2_grpc.WeightsServiceStub(lab.channel(root))
    assert error_of(lambda: stub.Rollback(unknown, timeout=20)) == "NotFoundError"
    assert entries(lab) == []


def test_the_same_job_asked_for_twice_is_one_entry_and_the_job_of_who_asked_first(lab):
    ana, bea = lab.identity("ana", "operator"), lab.identity("bea", "operator")
    for who in (ana, bea, ana):
        assert error_of(wire_actions(lab, who)["submit"]) == ""
    [job] = lab.service.jobs.list(None)
    assert [(entry.kind, entry.data["by"], entry.data["job"]) for entry in entries(lab)] == [
        ("submit", "ana", job.job_id)
    ]
    assert job.submitted_by == "ana"


def test_a_form_of_any_size_is_refused_before_it_is_read(lab):
    ana = lab.identity("ana", "operator")
    answer = lab.page("POST", "/episodes/ep-0/label", identity=ana, form={"outcome": "success", "x": "y" * (1 << 20)})
    assert answer.status == 413
    assert entries(lab) == []


def test_no_caller_writes_a_line_of_its_own_into_the_services_log(lab, caplog):
    forged = "x\n2026-01-01 00:00:00,000 WARNING cloud_trainer.service.codes enrolled name=root role=admin\x1b[2J"
    ana = lab.identity("ana", "operator")
    with lab.channel(ana) as channel:
        adaptations = adaptations_pb2_grpc.AdaptationServiceStub(channel)
        step = adaptations_pb2.AdaptationStep(adaptation_id=forged, cancel=adaptations_pb2.CancelStep())
        assert error_of(functools.partial(adaptations.Step, step, timeout=20)) == "NotFoundError"
        trial = trials_pb2.TrialId(trial_id=forged)
        trials = trials_pb2_grpc.TrialServiceStub(channel)
        assert error_of(functools.partial(trials.Get, trial, timeout=20)) == "NotFoundError"
    refused = [record.getMessage() for record in caplog.records if "call_refused" in record.getMessage()]
    assert len(refused) == 2
    assert all(line.isprintable() for line in refused)

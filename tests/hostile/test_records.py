"""What a trainer writes down: text no store keeps, folders that were prepared, robots without end, loose rules."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial

import grpc
import pytest

from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.config import Limits
from cloud_trainer.service.doctor import examine
from cloud_trainer.service.pace import RobotPace
from cloud_trainer.service.servicers.trials import rule_of
from gymnast_core.bounds import parsed_json
from gymnast_core.errors import ConfigError, CorruptError, GymnastError
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.wire.errors import QuotaError
from gymnast_core.wire.gymnast.v1 import jobs_pb2, jobs_pb2_grpc, weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Peer
from tests.bridge.conftest import make_checkpoint
from tests.hostile.lab import PATIENCE_S, Lab, error_of


def test_a_zero_byte_is_refused_by_name_wherever_text_is_taken(tmp_path):
    manifest = make_checkpoint(tmp_path / "made", 1.0, parents=("policy-\0",)).to_bytes()
    with Lab(tmp_path) as lab, lab.channel(lab.identity("ada", "admin")) as channel:
        weights, jobs = weights_pb2_grpc.WeightsServiceStub(channel), jobs_pb2_grpc.JobServiceStub(channel)
        names = ["wx-1", "\0"]
        publish = [
            weights_pb2.PublishRequest(open=weights_pb2.PublishOpen(manifest=manifest)),
            weights_pb2.PublishRequest(open=weights_pb2.PublishOpen(manifest=b"{}", robots=names)),
        ]
        calls: list[Callable[..., object]] = [
            *(partial(weights.Publish, iter([one])) for one in publish),
            partial(weights.Rollback, weights_pb2.RollbackRequest(checkpoint_id="a\0b", reason="x")),
            partial(weights.Rollback, weights_pb2.RollbackRequest(checkpoint_id="a", robots=names, reason="x")),
            partial(weights.Why, weights_pb2.WhyRequest(record_id="\0")),
            partial(weights.Fetch, weights_pb2.FetchRequest(digest="\0")),
            partial(jobs.Submit, jobs_pb2.SubmitRequest(kind="improve", spec_json='{"policy": "a\\u0000"}')),
            partial(jobs.Submit, jobs_pb2.SubmitRequest(kind="\0", spec_json="{}")),
        ]
        for number, call in enumerate(calls):
            assert error_of(partial(call, timeout=PATIENCE_S)) == "InvalidMessageError", number
    with pytest.raises(CorruptError, match="zero byte"):
        parsed_json('{"a\\u0000": 1}', "it", 100)
    assert parsed_json('["\\\\u0000"]', "it", 100) == ["\\u0000"], "a backslash before it makes it plain text"


def test_doctor_names_what_somebody_put_into_the_folder_and_waits_for_nothing(tmp_path):
    folder = tmp_path / "trainer"
    with Service(ServiceConfig(folder=folder)):
        pass
    (folder / "ca" / "ca.pem").rename(tmp_path / "ca.pem")
    os.mkfifo(folder / "ca" / "ca.pem")
    (folder / "tenants" / "acme\nok graph: every hash fits").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "tenants" / "linked").symlink_to(tmp_path / "elsewhere")
    found = list(examine(ServiceConfig(folder=folder)))
    assert all("\n" not in row.what + row.remedy for row in found)
    assert any("no plain file" in row.what for row in found if row.check == "certificates")
    assert [row.state for row in found if row.check == "folder"] == ["fault", "warning"]
    assert any("linked is a link" in row.what for row in found)


@pytest.mark.parametrize("name", ["tenants/acme", "before-0.2", "tenants"])
def test_files_are_never_brought_in_through_a_link(tmp_path, name):
    folder = tmp_path / "trainer"
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "actions.jsonl").write_text("")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(GymnastError, match="is a link"):
        Service(ServiceConfig(folder=folder))
    assert (tmp_path / "victim" / "actions.jsonl").exists(), "nobody else's file is moved"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_no_file_of_the_trainers_is_refused_and_nothing_is_emptied(tmp_path, kind):
    folder, other = tmp_path / "trainer", tmp_path / "other"
    folder.mkdir()
    other.write_text("kept")
    (folder / "lock").symlink_to(other) if kind == "link" else os.mkfifo(folder / "lock")
    with pytest.raises(ConfigError, match="plain file"):
        Service(ServiceConfig(folder=folder))
    assert other.read_text() == "kept"


def test_a_robot_asks_for_so_many_jobs_an_hour_and_cancelling_them_gives_none_back(tmp_path):
    limits = Limits(robot_jobs_per_hour=3)
    with Lab(tmp_path, {"limits": limits}) as lab:
        lab.service.check_job = lambda *_: None
        robot = Peer("wx-1", "robot", "default")
        jobs = lab.service.handlers.jobs
        for number in range(3):
            row = jobs.submit(robot, "adapt", {"robot": "wx-1"}, f"k{number}")
            jobs.cancel(robot, row.job_id)
        assert jobs.submit(robot, "adapt", {"robot": "wx-1"}, "k0").job_id, "the same one again is no new one"
        with lab.channel(lab.identity("wx-1", "robot")) as channel:
            request = jobs_pb2.SubmitRequest(kind="adapt", spec_json='{"robot": "wx-1"}', idempotency_key="k9")
            with pytest.raises(grpc.RpcError) as caught:
                jobs_pb2_grpc.JobServiceStub(channel).Submit(request, timeout=PATIENCE_S)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "wait 3" in caught.value.details()
        jobs.submit(Peer("wx-2", "robot", "default"), "adapt", {"robot": "wx-2"}, "other")
        assert len(lab.service.jobs.list("default")) == 4


def test_a_robots_pace_is_of_the_last_hour():
    clock = itertools.count(0, 1000)
    pace = RobotPace(2, clock_s=lambda: float(next(clock)))
    robot = Peer("wx-1", "robot", "default")
    pace.take(robot)  # 0 s
    pace.take(robot)  # 1000 s
    with pytest.raises(QuotaError, match="wait 1600 s"):
        pace.take(robot)  # 2000 s
    with pytest.raises(QuotaError, match="wait 600 s"):
        pace.take(robot)  # 3000 s
    pace.take(robot)  # 4000 s


@pytest.mark.parametrize("rule", [{"alpha_promote": 0.99}, {"alpha_promote": 0.5}, {"alpha_promote": 0.11}])
def test_a_rule_that_promotes_by_chance_is_refused_by_name(rule):
    with pytest.raises(ConfigError, match="alpha_promote"):
        rule_of(rule)


def test_a_rule_that_is_looser_than_usual_is_shown_as_such():
    assert SequentialRule().looser() == []
    assert SequentialRule(alpha_promote=0.01, min_pairs=9).looser() == []
    loose = rule_of({"alpha_promote": 0.1, "min_pairs": 1}).looser()
    assert loose == ["alpha_promote 0.1, usual is 0.025", "min_pairs 1, usual is 5"]

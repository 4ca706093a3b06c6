"""Robots report, people ask why and withdraw episodes: over mutual TLS, each under the certificate's own name."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from functools import partial

import grpc
import numpy as np
import pytest

from cloud_trainer.records.recorder import Recorder
from cloud_trainer.records.trail import Trail
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.robots import RobotBoard
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.sql_meta import SqlMetaStore
from gymnast_client import Trainer
from gymnast_client.link import Link
from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.errors import ConfigError, StorageError
from gymnast_core.types import Outcome
from gymnast_core.wire.channel import domain_error
from gymnast_core.wire.errors import BusyError, InvalidMessageError, NotFoundError, NotPermittedError, TooLargeError
from gymnast_core.wire.gymnast.v1 import robots_pb2, robots_pb2_grpc
from gymnast_core.wire.identity import Peer
from gymnast_ros.uplink import Reporter, RobotNews
from gymnast_ros.uplink.reporter import Pace
from tests.bridge.conftest import make_checkpoint

JPEG = encode_jpeg(np.zeros((16, 16, 3), np.uint8))
ADA, ROBOT = Peer("ada", "operator", "default"), Peer("wx-1", "robot", "default")


def wait_until(ready, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def report(service: Service, identity, **fields) -> None:
    """One report, without retrying."""
    link = Link(service.address, identity)
    try:
        stub = robots_pb2_grpc.RobotServiceStub(link.channel())
        stub.Report(robots_pb2.RobotReport(**fields), timeout=10)
    except grpc.RpcError as failure:
        raise domain_error(failure) from failure
    finally:
        link.close()


def row(episode_id: str, **fields) -> EpisodeRow:
    return EpisodeRow(0, fields.pop("tenant", "default"), episode_id, "wx-1", "0" * 64, 10, 1, **fields)


def test_a_report_stands_under_the_name_of_the_certificate(service, identities):
    spool = {"spool_entries": 3, "spool_bytes": 81_000, "spool_full": True}
    robot = identities("wx-1", "robot")
    report(service, robot, state="running", policy_version="policy-a", estop=True, alarm="full", frame=JPEG, **spool)
    [seen] = service.robots.of_tenant("default")
    assert (seen.robot, seen.frame) == ("wx-1", JPEG)
    assert seen.status == {
        "state": "running", "policy_version": "policy-a", "instruction": "", "estop": True, "estop_reason": "",
        "alarm": "full", "takes_orders": False, "practice": None, "weights": {},
        "spool": {"entries": 3, "bytes": 81_000, "full": True},
    }  # fmt: skip
    assert service.robots.of_tenant("another-lab") == []


def test_reports_that_are_too_large_no_picture_or_not_a_robots_are_refused(service, identities):
    robot, most = identities("wx-1", "robot"), service.config.limits.frame_bytes
    with pytest.raises(TooLargeError, match=str(most)):
        report(service, robot, frame=JPEG + bytes(most))
    with pytest.raises(InvalidMessageError, match="not a JPEG"):
        report(service, robot, frame=b"<script>alert(1)</script>")
    with pytest.raises(NotPermittedError, match="operator"):
        report(service, identities("ada", "operator"), state="running")
    assert service.robots.of_tenant("default") == []


def test_a_robot_that_reports_too_often_is_told_to_slow_down_and_keeps_its_picture():
    now = [10.0]
    board = RobotBoard(0.25, clock_s=lambda: now[0])
    board.post(ROBOT, {"state": "a"}, JPEG)
    now[0] += 0.1
    board.post(ROBOT, {"state": "b"}, b"")  # one on the heels of another that was delayed
    now[0] += 0.1
    with pytest.raises(BusyError, match="slow down"):
        board.post(ROBOT, {"state": "c"}, b"")
    now[0] += 0.1
    board.post(ROBOT, {"state": "d"}, b"")
    [seen] = board.of_tenant("default")
    assert (seen.status, seen.frame, seen.framed_s) == ({"state": "d"}, JPEG, 10.0)
    heard = 0
    for _ in range(1000):
        now[0] += 0.05
        with contextlib.suppress(BusyError):
            board.post(ROBOT, {}, b"")
            heard += 1
    assert heard <= 1000 * 0.05 / 0.25 + 1


def test_a_reporter_is_heard_again_when_the_trainer_comes_back(tmp_path, identities):
    frames = iter([JPEG])
    news = RobotNews(state="running", spool_entries=2)
    first = Service(ServiceConfig(folder=tmp_path / "trainer"))
    port = int(first.start().rpartition(":")[2])
    robot = identities("wx-1", "robot")
    reporter = Reporter(first.address, robot, lambda: news, lambda: next(frames, b""), period_s=0.3)
    reporter.start()
    try:
        wait_until(lambda: int(first.robots.version("default", every=True)) >= 2)
        [seen] = first.robots.of_tenant("default")
        assert (seen.robot, seen.frame, seen.status["spool"]["entries"]) == ("wx-1", JPEG, 2)
        first.stop()
        wait_until(lambda: reporter.dropped >= 1)
        with Service(ServiceConfig(folder=tmp_path / "trainer", port=port)) as second:
            wait_until(lambda: int(second.robots.version("default", every=True)) >= 1)
    finally:
        reporter.stop()


def test_pictures_take_a_tenth_of_a_slow_link():
    now = [100.0]
    pace = Pace(lambda: now[0])
    assert pace.with_frame()
    now[0] = 100.5  # half a second on the wire: five seconds without
    pace.sent(100.0, framed=True)
    now[0] = 105.4
    assert not pace.with_frame()
    pace.sent(105.3, framed=False)
    now[0] = 105.6
    assert pace.with_frame()


def test_why_and_retract_over_the_wire(service, identities, tmp_path):
    service.meta.add_episodes([row("ep-1", state="valid", outcome="success", instruction="lift"), row("ep-2")])
    made = make_checkpoint(tmp_path / "made", 1.0, lineage={"stage": "grpo", "episodes": ["ep-1"]})
    service.publisher.publish("default", tmp_path / "made")
    ada = identities("ada", "operator")
    with Trainer(service.address, ada).checkpoints as weights, Trainer(service.address, ada).episodes as episodes:
        answer = weights.why(made.id, verify=True)
        assert (answer["counts"]["episode"], answer["retracted"], answer["damage"]) == (1, [], [])
        graph = json.loads(weights.lineage_json(made.id))
        assert {"ep-1", made.id} <= {node["id"] for node in graph["nodes"]}
        touched = episodes.retract("ep-1", " the arm was bumped ")
        assert made.id in [one.id for one in touched if one.kind == "policy"]
        assert episodes.retract("ep-2", "nothing was made of it") == []
        assert weights.why(made.id)["retracted"][0]["by"] == "operator:ada"
        with pytest.raises(ConfigError, match="say why"):
            episodes.retract("ep-1", " ")
        with pytest.raises(NotFoundError, match="policy-x"):
            weights.why("policy-x")
    zoe = identities("zoe", "operator", "another-lab")
    with Trainer(service.address, zoe).episodes as stranger, pytest.raises(NotFoundError, match="ep-2"):
        stranger.retract("ep-2", "not mine")
    assert service.meta.episode("default", "ep-1").reason == "retracted by ada: the arm was bumped"
    assert [(entry.kind, entry.data["by"]) for entry in service.trails.of("default").log.entries] == [
        ("retract", "ada")
    ] * 2


@pytest.fixture
def trail(tmp_path):
    """A tenant's trail, with the catalogue it witnesses as meta."""
    with contextlib.closing(Database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        recorder = Recorder(database)
        meta = SqlMetaStore(database, recorder)
        made = Trail(database, meta, recorder, tmp_path / "checkpoints")
        made.meta = meta
        yield made


def test_an_episode_enters_the_graph_with_its_facts_once_they_are_known(trail):
    meta = trail.meta
    meta.add_episodes([row("ep-1"), row("ep-2", state="valid", instruction="push", outcome="failure")])
    assert "ep-1" not in trail.graph
    assert trail.graph.get("ep-2").payload["instruction"] == "push"
    meta.change_episode("default", "ep-1", lambda now: replace(now, state="valid", instruction="lift"))
    assert trail.graph.get("ep-1").payload["instruction"] == "lift"
    trail.label(ADA, "ep-2", Outcome.SUCCESS)
    assert labels(trail, "ep-2") == ["failure", "success"]


def test_a_label_that_two_people_gave_is_two_records_and_one_given_twice_is_one(trail):
    trail.meta.add_episodes([row("ep-1", state="valid")])
    for who in (ADA, ADA, Peer("bea", "operator", "default")):
        trail.label(who, "ep-1", Outcome.SUCCESS)
    given = [node.payload["by"] for node in trail.graph.affected_by_role("ep-1", "labels")]
    assert given == ["operator:ada", "operator:bea"]
    assert [entry.kind for entry in trail.log.entries] == ["label"] * 3


def test_row_graph_and_log_change_together_or_not_at_all(trail, monkeypatch):
    trail.meta.add_episodes([row("ep-1", state="valid", outcome="failure")])
    before = trail.meta.episode("default", "ep-1")

    def refuse(kind, data):
        raise StorageError("no entry today")

    with monkeypatch.context() as broken:
        broken.setattr(trail.log, "append", refuse)
        for act in (partial(trail.label, outcome=Outcome.SUCCESS), partial(trail.retract, reason="dark")):
            with pytest.raises(StorageError, match="no entry today"):
                act(ADA, episode_id="ep-1")
    assert trail.meta.episode("default", "ep-1") == before
    assert labels(trail, "ep-1") == ["failure"]
    assert trail.graph.affected_by_role("ep-1", "retracts") == []
    trail.retract(ADA, "ep-1", "dark")
    assert trail.meta.episode("default", "ep-1").state == "quarantined"


def test_what_is_put_on_the_shelf_by_hand_is_recorded_when_it_is_asked_about(trail, tmp_path):
    trail.meta.add_episodes([row("ep-1", state="valid")])
    made = make_checkpoint(tmp_path / "checkpoints" / "new", 1.0, lineage={"episodes": ["ep-1"]})
    (tmp_path / "checkpoints" / "new").rename(tmp_path / "checkpoints" / made.id)
    assert made.id not in trail.graph
    assert trail.explain(made.id)["counts"]["episode"] == 1
    with pytest.raises(NotFoundError, match="policy-x"):
        trail.explain("policy-x")


def labels(trail, episode_id):
    return [node.payload["outcome"] for node in trail.graph.affected_by_role(episode_id, "labels")]


def test_a_folder_belongs_to_one_trainer_at_a_time(tmp_path):
    config = ServiceConfig(folder=tmp_path / "trainer", insecure=True)
    with Service(config), pytest.raises(ConfigError, match=r"runs on .* already"):
        Service(config)
    with Service(config):
        pass

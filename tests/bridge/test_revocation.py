"""A certificate that was taken back is refused without a restart, and streams that are open end."""

import json
import queue
import threading
import time

import grpc
import pytest

from cloud_trainer.service import enroll, revoke
from gymnast_cli.main import main
from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.wire.channel import domain_error, open_channel
from gymnast_core.wire.codec import encode_upload
from gymnast_core.wire.errors import RevokedError
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb
from gymnast_core.wire.gymnast.v1 import weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.revocation import REVOKED, read_revoked
from gymnast_ros.uplink import Uplink, UplinkEvent
from gymnast_ros.uplink.upload import METHOD
from tests.bridge.conftest import fill
from tests.bridge.test_bridge import wait_until

WITHIN_S = 1.0


def refused_within(ask, limit_s: float) -> bool:
    """Whether a call is refused as revoked before the time is over."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            ask()
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.CANCELLED:
                continue  # it was under way when its certificate was taken back
            return isinstance(domain_error(failure), RevokedError)
        except RevokedError:
            return True
    return False


def test_a_revoked_robot_is_refused_on_the_channel_it_has_and_others_are_not(service, identities):
    with (
        open_channel(service.address, Identity.load(identities("wx-1", "robot"))) as ours,
        open_channel(service.address, Identity.load(identities("wx-2", "robot"))) as theirs,
    ):
        asks = [
            lambda channel=channel: weights_pb2_grpc.WeightsServiceStub(channel).ListReleases(
                weights_pb2.ListReleasesRequest(), timeout=10
            )
            for channel in (ours, theirs)
        ]
        for ask in asks:
            ask()
        assert len(revoke(service.authority, "wx-1")) == 1
        assert refused_within(asks[0], 10 * WITHIN_S)
        asks[1]()


def test_streams_of_a_revoked_robot_end_and_may_not_be_opened_again(service, identities):
    """An upload stream and a watch stream stand open; both end by themselves."""
    requests: queue.Queue = queue.Queue()
    with open_channel(service.address, Identity.load(identities("wx-1", "robot"))) as channel:
        upload = channel.stream_stream(
            METHOD, request_serializer=encode_upload, response_deserializer=pb.UploadReply.FromString
        )
        watch = weights_pb2_grpc.WeightsServiceStub(channel).Watch
        calls = [upload(iter(requests.get, None), timeout=60), watch(weights_pb2.WatchRequest(), timeout=60)]
        assert next(calls[0]).WhichOneof("message") == "credit"
        ended = []
        threads = [threading.Thread(target=lambda call=call: ended.append(drain(call))) for call in calls]
        for thread in threads:
            thread.start()
        revoke(service.authority, "wx-1")
        for thread in threads:
            thread.join(10 * WITHIN_S)
        requests.put(None)
        assert sorted(ended) == ["CANCELLED", "CANCELLED"]
        with pytest.raises(grpc.RpcError) as caught:
            list(watch(weights_pb2.WatchRequest(), timeout=10))
        assert isinstance(domain_error(caught.value), RevokedError)


def drain(call) -> str:
    """The status a stream ends with."""
    try:
        for _ in call:
            continue
    except grpc.RpcError as failure:
        return failure.code().name
    return "OK"


def test_an_uplink_goes_on_once_the_robot_has_a_new_certificate(service, identities, tmp_path):
    """Nothing is lost meanwhile: episodes wait in the spool, and the reason is told."""
    spool, robot = Spool(tmp_path / "spool"), identities("wx-1", "robot")
    revoke(service.authority, "wx-1")
    with open_channel(service.address, Identity.load(robot)) as channel:
        releases = weights_pb2_grpc.WeightsServiceStub(channel).ListReleases
        assert refused_within(lambda: releases(weights_pb2.ListReleasesRequest(), timeout=10), 10 * WITHIN_S)
    with Uplink(service.address, robot, spool=spool) as uplink:
        fill(spool, 3)
        wait_until(lambda: "revoked" in uplink.status().last_error)
        assert uplink.status().pending == 3
        assert enroll(service.authority, "wx-1", "robot", out=robot) == robot
        assert uplink.flush(30)
    assert {row.robot for row in service.meta.episodes(None)} == {"wx-1"}


def test_a_refusal_is_reported_once_though_every_attempt_has_another_request_id(service, identities, caplog):
    events: list[UplinkEvent] = []
    uplink = Uplink(service.address, identities("wx-1", "robot"), on_event=events.append)
    for request_id in ("a1b2", "c3d4", "e5f6"):
        uplink._broken("episodes", RevokedError(f"the certificate was taken back [{request_id}]"))
    uplink._broken("episodes", RevokedError("the certificate has ended [a7a7]"))
    assert [event.data["detail"] for event in events if event.kind == "alarm"] == [
        "the certificate was taken back [a1b2]", "the certificate has ended [a7a7]",
    ]  # fmt: skip
    assert [record.message.split()[0] for record in caplog.records if record.levelname == "ERROR"] == [
        "trainer_refused", "trainer_refused",
    ]  # fmt: skip
    uplink.stop()


def test_only_the_name_of_that_tenant_is_revoked(service, identities):
    ours, theirs = identities("ada", "operator"), identities("ada-2", "operator", "other")
    enroll(service.authority, "ada", "operator", out=theirs.parent / "third", tenant="other")
    revoke(service.authority, "ada", tenant="other")
    with Trainer(service.address, ours).jobs as jobs:
        assert jobs.list() == []
    with Trainer(service.address, theirs).jobs as jobs:
        assert jobs.list() == []
    with Trainer(service.address, theirs.parent / "third").jobs as jobs:
        assert refused_within(jobs.list, 10 * WITHIN_S)
        with pytest.raises(RevokedError, match="enroll"):
            jobs.list()


def test_a_broken_list_keeps_the_one_before_in_force(service, identities):
    robot = identities("wx-1", "robot")
    revoke(service.authority, "wx-1")
    with open_channel(service.address, Identity.load(robot)) as channel:

        def ask():
            weights_pb2_grpc.WeightsServiceStub(channel).ListReleases(weights_pb2.ListReleasesRequest(), timeout=10)

        assert refused_within(ask, 10 * WITHIN_S)
        (service.authority / REVOKED).write_text("[1, 2")
        until = time.monotonic() + 2 * WITHIN_S
        while time.monotonic() < until:
            with pytest.raises(grpc.RpcError):
                ask()
            time.sleep(0.1)
    with pytest.raises(CorruptError, match="restore"):
        read_revoked(service.authority)


def test_revoking_by_command_line_and_names_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    authority = ["--ca", str(tmp_path / "ca")]
    assert main(["enroll", "wx-1", *authority]) == 0
    assert main(["enroll", "wx-1", *authority]) == 0
    assert main(["enroll", "wx-1", "--revoke", *authority]) == 0
    revoked = json.loads((tmp_path / "ca" / REVOKED).read_text())
    assert set(revoked.values()) == {"gymnast://default/robot/wx-1"}
    assert len(revoked) == 2
    assert revoke(tmp_path / "ca", "wx-1") == []
    with pytest.raises(ConfigError, match="wx-9"):
        revoke(tmp_path / "ca", "wx-9")

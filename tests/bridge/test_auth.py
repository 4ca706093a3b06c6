"""Every method of every service has its roles; identity comes from the certificate; certificates rotate live."""

import threading
import time

import grpc
import pytest

from cloud_trainer.service import Limits, Service, ServiceConfig, enroll
from cloud_trainer.service.admission import CALL, HEALTH, STREAM, CallSlots
from cloud_trainer.service.auth import ACTION_OF, authorise_call
from cloud_trainer.service.enroll import create_authority
from cloud_trainer.service.methods import SERVICES
from gymnast_client.link import Link
from gymnast_core.authority import MAY
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.wire.channel import domain_error, open_channel
from gymnast_core.wire.errors import CATALOGUE, BusyError, NotPermittedError, error_from_wire, wire_error
from gymnast_core.wire.gymnast.v1 import weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Identity, Peer

_METHODS = [
    f"/gymnast.v1.{service}/{method.name}"
    for service, module in SERVICES.items()
    for method in module.DESCRIPTOR.services_by_name[service].methods
]


def test_every_method_of_every_proto_is_in_the_table():
    assert set(_METHODS) <= set(ACTION_OF)
    assert len(_METHODS) >= 60, "every service is walked"
    assert all(MAY[ACTION_OF[method]] for method in _METHODS)


def test_unlisted_methods_and_strangers_are_refused():
    admin = Peer("root", "admin", "default")
    with pytest.raises(NotPermittedError):
        authorise_call("/gymnast.v1.JobService/Unheard", admin)
    with pytest.raises(NotPermittedError, match="enroll"):
        authorise_call("/gymnast.v1.JobService/Get", None)


@pytest.mark.parametrize(
    ("role", "method", "allowed"),
    [
        ("robot", "TrajectoryService/Upload", True),
        ("operator", "TrajectoryService/Upload", False),
        ("robot", "TrajectoryService/LabelEpisode", False),
        ("robot", "WeightsService/Publish", False),
        ("operator", "WeightsService/Publish", False),
        ("trainer", "WeightsService/Publish", True),
        ("operator", "WeightsService/Rollback", False),
        ("admin", "WeightsService/Rollback", True),
        ("operator", "JobService/Claim", False),
        ("robot", "RobotService/Report", True),
        ("operator", "RobotService/Report", False),
        ("robot", "TrajectoryService/RetractEpisode", False),
        ("operator", "TrajectoryService/RetractEpisode", True),
        ("robot", "WeightsService/Why", False),
        ("robot", "ConsoleService/LogIn", False),
        ("robot", "AdaptationService/Begin", True),  # the handler knows what of itself a robot may ask
        ("trainer", "AdaptationService/Step", False),
        ("robot", "AdaptationService/Picture", False),
        ("robot", "RobotService/List", False),
        ("trainer", "RobotService/List", True),
        ("operator", "TrialService/Begin", True),
        ("trainer", "TrialService/Begin", False),
        ("operator", "CheckpointService/Promote", False),
        ("robot", "LogService/List", False),
        ("robot", "JudgeService/Judge", True),
        ("operator", "JudgeService/Judge", False),
        ("robot", "JudgeService/ListPrecision", False),
        ("server", "JobService/Get", False),
    ],
)
def test_roles(role, method, allowed):
    peer = Peer("somebody", role, "default")
    if allowed:
        assert authorise_call(f"/gymnast.v1.{method}", peer) == peer
    else:
        with pytest.raises(NotPermittedError, match=role):
            authorise_call(f"/gymnast.v1.{method}", peer)


def call_everything(service, identity):
    """Call every method with an empty message; returns method -> error name or None."""
    outcome = {}
    with open_channel(service.address, Identity.load(identity)) as channel:
        for path in [*_METHODS, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]:
            call = channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
            try:
                list(call(iter([b""]), timeout=1))
                outcome[path] = None
            except grpc.RpcError as failure:
                outcome[path] = type(domain_error(failure)).__name__
    return outcome


def test_a_robot_gets_not_permitted_from_exactly_what_the_table_denies(tmp_path):
    """Over the wire, for every method: the guard stands in front of each, reflection included."""
    with Service(ServiceConfig(folder=tmp_path / "trainer", limits=Limits(idle_stream_s=0.2))) as service:
        robot = enroll(tmp_path / "trainer" / "ca", "wx-1", "robot", out=tmp_path / "id")
        outcome = call_everything(service, robot)
    denied = {path for path, error in outcome.items() if error == "NotPermittedError"}
    registered = {path for path in outcome if "PolicyService" not in path}
    assert denied == {path for path in registered if "robot" not in MAY[ACTION_OF[path]]}
    assert "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" in denied


def test_calls_are_counted_by_peer_tenant_and_all_and_freed():
    slots = CallSlots(Limits(streams_per_peer=1, streams_per_tenant=2, streams=3), threads=4)
    first, second, third = (Peer(f"wx-{n}", "robot", "default") for n in (1, 2, 3))
    others = [Peer(f"wx-{n}", "robot", "acme") for n in (1, 2)]
    with slots.slot(first, STREAM, "/x/Upload"):
        with pytest.raises(BusyError, match="1 Upload"), slots.slot(first, STREAM, "/x/Upload"):
            pass
        with (
            slots.slot(first, STREAM, "/x/Watch"),
            slots.slot(first, CALL, "/x/Get"),
            slots.slot(first, HEALTH, "/x/C"),
        ):
            with pytest.raises(BusyError, match="tenant 'default'"), slots.slot(second, STREAM, "/x/Upload"):
                pass
            with slots.slot(others[0], STREAM, "/x/Upload"):  # noqa: SIM117
                with pytest.raises(BusyError, match="all there are"), slots.slot(others[1], STREAM, "/x/Upload"):
                    pass
    with slots.slot(first, CALL, "/x/Get"):
        with pytest.raises(BusyError), slots.slot(first, CALL, "/x/List"):  # a quarter of the threads, whatever it asks
            pass
        with slots.slot(second, CALL, "/x/Get"), slots.slot(third, CALL, "/x/Get"):
            with pytest.raises(BusyError, match="tenant"), slots.slot(Peer("wx-4", "robot", "default"), CALL, "/x/Get"):
                pass
            with slots.slot(others[0], CALL, "/x/Get"):
                pass
    with slots.slot(first, STREAM, "/x/Upload"):
        pass


def ask(link):
    return link.call(lambda channel: weights_pb2_grpc.WeightsServiceStub(channel).ListReleases,
                     weights_pb2.ListReleasesRequest(), patience_s=5)  # fmt: skip


def test_certificates_rotate_on_both_sides_without_downtime(tmp_path):
    """The server's and the robot's certificate are replaced while calls go on; none fails."""
    authority = tmp_path / "trainer" / "ca"
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service:
        robot = enroll(authority, "wx-1", "robot", out=tmp_path / "id")
        link, over, failures, calls = Link(service.address, robot), threading.Event(), [], []

        def keep_asking():
            while not over.is_set():
                try:
                    calls.append(ask(link))
                except Exception as error:  # noqa: BLE001  # collected for the assertion
                    failures.append(error)

        thread = threading.Thread(target=keep_asking)
        thread.start()
        before = link.identity.certificate
        for _ in range(3):
            enroll(authority, "wx-1", "robot", out=robot)
            enroll(authority, "trainer", "server", out=tmp_path / "trainer" / "server", hosts=("127.0.0.1",))
            goal, until = len(calls) + 5, time.monotonic() + 10
            while len(calls) < goal and time.monotonic() < until:
                time.sleep(0.005)
            with Link(service.address, robot).channel() as fresh:  # a new handshake takes the new certificate
                weights_pb2_grpc.WeightsServiceStub(fresh).ListReleases(weights_pb2.ListReleasesRequest(), timeout=5)
        over.set()
        thread.join()
        assert failures == []
        assert link.identity.certificate != before
        link.close()


def test_a_robot_is_refused_once_its_certificate_has_expired(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service:
        robot = enroll(tmp_path / "trainer" / "ca", "wx-1", "robot", out=tmp_path / "id", days=1e-9)
        channel = open_channel(service.address, Identity.load(robot))
        with pytest.raises(grpc.RpcError) as caught:
            weights_pb2_grpc.WeightsServiceStub(channel).ListReleases(weights_pb2.ListReleasesRequest(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        channel.close()


def test_keys_are_readable_by_their_owner_alone(tmp_path):
    folder = enroll(tmp_path / "ca", "wx-1", "robot", out=tmp_path / "id")
    assert (folder / "key.pem").stat().st_mode & 0o077 == 0
    for secret in ("ca.key", "release.key"):
        assert (tmp_path / "ca" / secret).stat().st_mode & 0o077 == 0
    assert not (folder / "ca.key").exists()
    assert Identity.load(folder).peer == Peer("wx-1", "robot", "default")


def test_a_new_release_key_leaves_the_authority_as_it_is(tmp_path):
    """Changing the key that signs releases takes nobody's identity away."""
    robot = enroll(tmp_path / "ca", "wx-1", "robot", out=tmp_path / "id")
    authority, trusted = (tmp_path / "ca" / "ca.pem").read_bytes(), (tmp_path / "ca" / "trust.pub").read_bytes()
    (tmp_path / "ca" / "release.key").unlink()
    create_authority(tmp_path / "ca")
    assert (tmp_path / "ca" / "ca.pem").read_bytes() == authority == (robot / "ca.pem").read_bytes()
    assert (tmp_path / "ca" / "trust.pub").read_bytes() != trusted


def test_enroll_names_what_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="pilot"):
        enroll(tmp_path / "ca", "x", "pilot", out=tmp_path / "id")
    with pytest.raises(ContractError, match="a/b"):
        enroll(tmp_path / "ca", "a/b", "robot", out=tmp_path / "id")
    with pytest.raises(ConfigError, match="enroll"):
        Identity.load(tmp_path)
    with pytest.raises(ConfigError, match="identity is needed"):
        open_channel("127.0.0.1:1", None)


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_error_keeps_name_and_retry_across_the_wire(name):
    kind, status = CATALOGUE[name]
    sent, sent_status, retry = wire_error(kind("why"))
    assert (sent, sent_status) == (name, status)
    assert hasattr(grpc.StatusCode, status)
    back = error_from_wire(sent, "why", retry=retry)
    assert type(back) is kind
    assert str(back) == "why"


def test_insecure_port_needs_the_flag_and_says_so(tmp_path, caplog):
    with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True)) as service:
        assert "insecure_port" in caplog.text
        link = Link(service.address, None, insecure=True)
        assert len(ask(link).releases) == 0
        link.close()

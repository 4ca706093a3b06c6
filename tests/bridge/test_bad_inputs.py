"""Whatever a stranger, a bug or a broken disk sends is refused by name or set aside with a reason, never believed."""

import gzip
import pickle
import struct
from pathlib import Path

import grpc
import numpy as np
import pytest
from blake3 import blake3
from mcap.writer import CompressionType, Writer

from cloud_trainer.service import Limits, Service, ServiceConfig, enroll
from cloud_trainer.service.inspector import Inspector
from gymnast_client import Trainer
from gymnast_core.episodes import EpisodeHeader, EpisodeWriter, Spool, encoding
from gymnast_core.episodes import messages as m
from gymnast_core.episodes.messages import SCHEMA_VERSION, EpisodeEnd
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.records.manifest import Manifest
from gymnast_core.records.weights import NotSafetensorsError, check_safetensors
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.wire import errors as e
from gymnast_core.wire.channel import domain_error, open_channel
from gymnast_core.wire.codec import Chunk, crc32c, encode_upload
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb
from gymnast_core.wire.gymnast.v1 import weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink import Uplink
from gymnast_ros.uplink.upload import METHOD
from tests.bridge.conftest import fill, make_checkpoint, make_episode
from tests.receivers import until

SMALL = Limits(
    episode_bytes=1 << 20, window_bytes=1 << 20, tenant_episodes=3, idle_stream_s=0.5, min_free_bytes=1,
    streams_per_peer=2, episodes_per_stream=2, json_bytes=10_000,
)  # fmt: skip


@pytest.fixture
def tight(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer", limits=SMALL)) as service:
        yield service


@pytest.fixture
def robot(tmp_path, tight):
    return enroll(tmp_path / "trainer" / "ca", "wx-1", "robot", out=tmp_path / "ids" / "wx-1")


def talk(service, identity, requests, *, raw=False, until=None):
    """Send messages on an upload stream and return what came back: replies, then the error the stream ended with."""
    with open_channel(service.address, Identity.load(identity)) as channel:
        serializer = (lambda data: data) if raw else encode_upload
        method = channel.stream_stream(
            METHOD, request_serializer=serializer, response_deserializer=pb.UploadReply.FromString
        )
        replies = []
        call = method(iter(requests), timeout=20)
        try:
            for reply in call:
                if reply.WhichOneof("message") != "credit":
                    replies.append(reply)
        except grpc.RpcError as failure:
            return replies, domain_error(failure)
        return replies, None


def opening(episode_id="ep", size=10, digest="0" * 64, schema=SCHEMA_VERSION, channel=1):
    return pb.UploadRequest(
        open=pb.EpisodeOpen(channel=channel, episode_id=episode_id, size=size, digest=digest, schema=schema)
    )


def chunk(offset, data, channel=1, checksum=None):
    return Chunk(channel, offset, crc32c(data) if checksum is None else checksum, data)


COMMIT = pb.UploadRequest(commit=pb.EpisodeCommit(channel=1))


@pytest.mark.parametrize("bad", ["", "..", "a/b", "../../etc/passwd", "x" * 65, "naïve", "a b", ".", "a~b"])
def test_ids_that_are_no_file_names_are_refused(tight, robot, bad):
    replies, error = talk(tight, robot, [opening(episode_id=bad)])
    assert error is None
    assert [reply.refused.code for reply in replies] == ["InvalidIdError"]


def test_an_id_with_a_zero_byte_is_refused_like_any_text_with_one(tight, robot):
    replies, error = talk(tight, robot, [opening(episode_id="a\0b")])
    assert replies == []
    assert isinstance(error, e.InvalidMessageError)
    assert "episode_id holds a zero byte" in str(error)


@pytest.mark.parametrize("bad", ["", "0" * 63, "0" * 65, "../" + "0" * 61, "G" * 64, "0" * 63 + "\n"])
def test_digests_that_are_no_digests_are_refused(tight, robot, bad):
    replies, _ = talk(tight, robot, [opening(digest=bad)])
    assert replies[0].refused.code == "InvalidIdError"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("size", 0, "TooLargeError"),
        ("size", (1 << 20) + 1, "TooLargeError"),
        ("size", 2**64 - 1, "TooLargeError"),
        ("schema", "gymnast-episode-0", "InvalidMessageError"),
    ],
)
def test_openings_that_make_no_sense_are_refused(tight, robot, field, value, code):
    replies, error = talk(tight, robot, [opening(**{field: value})])
    name = replies[0].refused.code if replies else type(error).__name__
    assert name == code


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([chunk(0, b"0123456789a")], "SizeError"),
        ([chunk(0, b"01234"), COMMIT], "OffsetError"),
        ([chunk(3, b"0123")], "OffsetError"),
        ([chunk(0, b"01234"), chunk(4, b"45678")], "OffsetError"),
        ([chunk(0, b"01234"), chunk(0, b"01234")], "OffsetError"),
        ([chunk(0, b"0123456789", checksum=7)], "ChunkCorruptError"),
        ([chunk(0, b"0123456789"), COMMIT], "DigestError"),
    ],
    ids=["too long", "too short", "gap", "overlap", "replay", "crc", "digest"],
)
def test_bytes_that_are_not_what_was_announced_are_refused(tight, robot, messages, code):
    replies, error = talk(tight, robot, [opening(), *messages])
    assert error is None
    assert [reply.refused.code for reply in replies[1:]] == [code]
    assert tight.meta.episodes(None) == []
    assert list(tight.blobs.digests()) == []


@pytest.mark.parametrize(
    "message",
    [pickle.dumps({"a": 1}), b"\xff" * 100, b"\x12\x05\x22\xff\xff\xff\xff", b"", b"\x12\x02\x08", b"\x12\x02\x2a\x00"],
)
def test_messages_nobody_understands_end_the_stream_by_name(tight, robot, message):
    _, error = talk(tight, robot, [message], raw=True)
    assert isinstance(error, e.InvalidMessageError), error


def test_credit_cannot_be_overdrawn(tight, robot):
    """Two openings of a mebibyte each; the window is one: what comes beyond it ends the stream."""
    data = b"x" * (600 << 10)
    flood = [opening(size=1 << 20), *[chunk(7, data, channel=9) for _ in range(40)]]
    credit = e.CreditError
    _, error = talk(tight, robot, [flood[0], Chunk(9, 0, 0, b"y" * ((1 << 20) + 1))])
    assert isinstance(error, credit), error


def test_channels_and_streams_per_peer_are_limited(tight, robot):
    replies, _ = talk(tight, robot, [opening(f"ep-{number}", channel=number) for number in range(4)])
    assert [reply.WhichOneof("message") for reply in replies] == ["opened", "opened", "refused", "refused"]
    assert replies[2].refused.code == "BusyError"
    assert replies[2].refused.retry
    _, error = talk(tight, robot, [opening("a"), opening("b")])
    assert isinstance(error, e.InvalidMessageError)


def test_gzip_bomb_is_refused_without_being_inflated(tight, robot):
    with open_channel(tight.address, Identity.load(robot)) as channel:
        method = channel.stream_stream(
            METHOD, request_serializer=lambda data: data, response_deserializer=pb.UploadReply.FromString
        )
        call = method(iter([b"\x00" * (64 << 20)]), compression=grpc.Compression.Gzip, timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(gzip.compress(b"\x00" * (1 << 20))) < 2000


def test_slow_loris_is_cut_off(tight, robot):
    def slowly():
        yield opening()
        import threading

        threading.Event().wait(8)

    replies, error = talk(tight, robot, slowly())
    assert replies[0].WhichOneof("message") == "opened"
    assert isinstance(error, e.IdleStreamError)


def test_quota_is_back_pressure_with_an_alarm_and_drops_nothing(tight, robot, tmp_path):
    spool = Spool(tmp_path / "spool")
    fill(spool, 5)
    with Uplink(tight.address, robot, spool=spool) as uplink:
        until(lambda: "quota" in uplink.status().alarm, "the alarm")
        assert not uplink.flush(0.5)
    assert len(tight.meta.episodes(None)) == 3
    assert len(spool.entries()) == 2


def test_full_trainer_disk_is_back_pressure_too(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer", limits=Limits(min_free_bytes=1 << 60))) as service:
        robot = enroll(tmp_path / "trainer" / "ca", "wx-1", "robot", out=tmp_path / "id")
        spool = Spool(tmp_path / "spool")
        fill(spool, 1)
        with Uplink(service.address, robot, spool=spool) as uplink:
            assert not uplink.flush(1.0)
            assert "bytes left" in uplink.status().alarm
        assert len(spool.entries()) == 1


def test_symlink_in_staging_is_not_followed(tight, robot, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    staging = tmp_path / "trainer" / "staging" / "default"
    staging.mkdir(parents=True)
    (staging / f"ep~{'0' * 64}.part").symlink_to(victim)
    replies, error = talk(tight, robot, [opening(), chunk(0, b"0123456789")])
    assert error is not None or replies[0].refused.code
    assert victim.read_bytes() == b"precious"


def test_no_certificate_and_a_foreign_one_get_no_connection(tight, tmp_path):
    foreign = enroll(tmp_path / "foreign" / "ca", "wx-1", "robot", out=tmp_path / "foreign" / "id")
    (foreign / "ca.pem").write_bytes((tmp_path / "trainer" / "ca" / "ca.pem").read_bytes())
    with open_channel(tight.address, Identity.load(foreign)) as channel, pytest.raises(grpc.RpcError) as caught:
        weights_pb2_grpc.WeightsServiceStub(channel).ListReleases(weights_pb2.ListReleasesRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    trust = grpc.ssl_channel_credentials((tmp_path / "trainer" / "ca" / "ca.pem").read_bytes())
    with grpc.secure_channel(tight.address, trust) as channel, pytest.raises(grpc.RpcError):
        weights_pb2_grpc.WeightsServiceStub(channel).ListReleases(weights_pb2.ListReleasesRequest(), timeout=5)


def test_job_specs_must_be_small_json_objects(tight, tmp_path):
    identity = enroll(tmp_path / "trainer" / "ca", "ada", "operator", out=tmp_path / "ada")
    with Trainer(tight.address, identity).jobs as jobs:
        with pytest.raises(e.TooLargeError):
            jobs.submit("train", {"text": "x" * 20_000}, "k")
        with pytest.raises(e.InvalidMessageError):
            jobs.submit("", {}, "k")
        with pytest.raises(e.NotFoundError):
            jobs.get("job-of-somebody-else")


def test_another_tenant_sees_nothing(tight, tmp_path):
    ours = enroll(tmp_path / "trainer" / "ca", "ada", "operator", out=tmp_path / "ada")
    theirs = enroll(tmp_path / "trainer" / "ca", "eve", "operator", out=tmp_path / "eve", tenant="other")
    with Trainer(tight.address, ours).jobs as jobs, Trainer(tight.address, theirs).jobs as spy:
        job = jobs.submit("train", {}, "k")
        assert spy.list() == []
        for ask in (spy.get, spy.cancel):
            with pytest.raises(e.NotFoundError):
                ask(job.job_id)


# content that is looked into after the commit


def write_raw(path: Path, messages: list[tuple[str, int, bytes]], episode_id="ep") -> Path:
    header = EpisodeHeader(episode_id, "go", "r", 0, ("cam",))
    writer = EpisodeWriter(path, header)
    writer.begin(0)
    for topic, stamp, data in messages:
        writer.add(topic, stamp, data)
    return writer.finish(EpisodeEnd())


def observe(stamp, jpeg=None):
    from gymnast_core.episodes.writer import encode_jpeg

    jpeg = encode_jpeg(np.zeros((8, 8, 3), np.uint8)) if jpeg is None else jpeg
    return [
        (m.image_topic("cam"), stamp, encoding.encode_image(stamp, "cam", jpeg)),
        (m.PROPRIO_TOPIC, stamp, encoding.encode_named(stamp, m.PROPRIO_NAMES, [0.0] * 7)),
    ]


def act(stamp, values=(0.0,) * 7, names=m.ACTION_NAMES):
    return [(m.COMMANDED_TOPIC, stamp, encoding.encode_named(stamp, names, values))]


BOMB_JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\x00" * 40
BAD_CONTENT = {
    "not a number": [*observe(0), *act(0, (float("nan"),) * 7), *observe(1)],
    "infinite": [*observe(0), *act(0, (float("inf"),) * 7), *observe(1)],
    "beyond the limits": [*observe(0), *act(0, (0.06, 0, 0, 0, 0, 0, 1)), *observe(1)],
    "rotation beyond the limits": [*observe(0), *act(0, (0, 0, 0, 0, 0.3, 0, 1)), *observe(1)],
    "gripper beyond the limits": [*observe(0), *act(0, (0, 0, 0, 0, 0, 0, 1.5)), *observe(1)],
    "six numbers": [*observe(0), *act(0, (0.0,) * 6), *observe(1)],
    "other names": [*observe(0), *act(0, names=("a",) * 7), *observe(1)],
    "time goes back": [*observe(5), *act(5), *observe(3)],
    "time stands still": [*observe(5), *act(5), *observe(5)],
    "no step": [*observe(0)],
    "action missing": [*observe(0), *observe(1), *act(1), *observe(2)],
    "png": [*observe(0, b"\x89PNG\r\n\x1a\n" + b"\x00" * 50), *act(0), *observe(1)],
    "oversize image": [*observe(0, BOMB_JPEG), *act(0), *observe(1)],
    "cut image": [*observe(0, b"\xff\xd8\xff"), *act(0), *observe(1)],
    "image length lie": [
        (m.image_topic("cam"), 0, encoding.encode_image(0, "cam", b"")[:-4] + struct.pack("<I", 2**31)),
        *observe(0)[1:], *act(0), *observe(1),
    ],
    "pickle": [*observe(0), (m.COMMANDED_TOPIC, 0, pickle.dumps([0.0] * 7)), *observe(1)],
}  # fmt: skip


@pytest.fixture(scope="module")
def inspector():
    """A child process, the same for all: none of these files may end it."""
    child = Inspector()
    yield child
    child.close()
    assert child.started == 1


@pytest.mark.parametrize("what", sorted(BAD_CONTENT))
def test_bad_content_is_quarantined(tmp_path, inspector, what):
    path = write_raw(tmp_path, BAD_CONTENT[what])
    with pytest.raises(CorruptError, match=r"^CorruptError: "):
        inspector.inspect(path, "ep", WIDOWX_250S)


def test_good_content_is_valid_and_another_id_is_not(tmp_path, inspector):
    path = write_raw(tmp_path, [*observe(0), *act(0), *observe(1)])
    assert inspector.inspect(path, "ep", WIDOWX_250S)["steps"] == 1
    with pytest.raises(CorruptError, match="it is episode 'ep'"):
        inspector.inspect(path, "other", WIDOWX_250S)


def test_mcap_bomb_is_quarantined(tmp_path, inspector):
    path = tmp_path / "bomb.mcap"
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.ZSTD)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data\n")
        channel = writer.register_channel(m.HEADER_TOPIC, "cdr", schema)
        writer.add_message(channel, 0, b"\x00" * (50 << 20), 0)
        writer.finish()
    with pytest.raises(CorruptError, match="compressed"):
        inspector.inspect(path, "ep", WIDOWX_250S)


def safetensors(header: bytes, data: bytes = b"") -> memoryview:
    return memoryview(len(header).to_bytes(8, "little") + header + data)


BAD_WEIGHTS = {
    "empty": memoryview(b""),
    "pickle": memoryview(pickle.dumps(list(range(100)))),
    "torch zip": memoryview(b"PK\x03\x04" + b"\x00" * 100),
    "header bloat": memoryview((1 << 40).to_bytes(8, "little") + b"{}"),
    "no json": safetensors(b"{nope"),
    "a list": safetensors(b"[]"),
    "deep": safetensors(b"[" * 100_000),
    "unknown dtype": safetensors(b'{"a":{"dtype":"PY","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "shape overflow": safetensors(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', b"xx"),
    "negative": safetensors(b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,-1]}}'),
    "hole": safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xx"),
    "overlap": safetensors(
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
        b'"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', b"xxx"
    ),
    "left over": safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"xx"),
    "missing field": safetensors(b'{"a":{"dtype":"U8"}}'),
    "not an object": safetensors(b'{"a":7}'),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(BAD_WEIGHTS))
def test_weights_that_are_no_safetensors_are_refused(what):
    with pytest.raises(NotSafetensorsError):
        check_safetensors(BAD_WEIGHTS[what])


def test_published_pickle_is_refused_and_leaves_nothing(tight, tmp_path):
    import hashlib

    data = pickle.dumps({"weights": list(range(1000))})
    manifest = Manifest("policy", "toy", {}, hashlib.sha256(data).hexdigest(), len(data))
    trainer = enroll(tmp_path / "trainer" / "ca", "gpu", "trainer", out=tmp_path / "gpu")

    def requests():
        yield weights_pb2.PublishRequest(open=weights_pb2.PublishOpen(manifest=manifest.to_bytes()))
        yield weights_pb2.PublishRequest(chunk=weights_pb2.BlobChunk(offset=0, crc32c=crc32c(data), data=data))

    with open_channel(tight.address, Identity.load(trainer)) as channel, pytest.raises(grpc.RpcError) as caught:
        weights_pb2_grpc.WeightsServiceStub(channel).Publish(requests(), timeout=10)
    error = domain_error(caught.value)
    assert isinstance(error, GymnastError)
    assert "safetensors" in str(error) or "header" in str(error)
    assert tight.meta.checkpoints("default") == []
    assert [path for path in (tmp_path / "trainer" / "staging").iterdir() if path.is_file()] == []


def test_a_refused_publish_leaves_its_weights_nowhere(tight, tmp_path):
    make_checkpoint(tmp_path / "good")
    trainer = enroll(tmp_path / "trainer" / "ca", "gpu", "trainer", out=tmp_path / "gpu")
    with Trainer(tight.address, trainer) as there:
        for refused, said in (
            ({"valid_for_s": 20 * 366 * 86_400}, "ten years"), ({"robots": ["wx-1"] * 1001}, "at most"),
            ({"override_reason": "in a hurry"}, "may not"),
        ):  # fmt: skip
            with pytest.raises(GymnastError, match=said):
                there.checkpoints.publish(tmp_path / "good", **refused)
    assert [path for path in (tmp_path / "trainer" / "staging").iterdir() if path.is_file()] == []


def test_episode_of_a_dead_stream_is_taken_over_by_a_new_one(tight, robot):
    """The second stream wins; what the first had sent counts."""
    data = b"0123456789"
    digest = blake3(data).hexdigest()
    replies, _ = talk(tight, robot, [opening(digest=digest), chunk(0, data[:4])])
    assert replies[0].opened.offset == 0
    replies, _ = talk(tight, robot, [opening(digest=digest), chunk(4, data[4:]), COMMIT])
    assert replies[0].opened.offset == 4
    assert replies[1].committed.episode_id == "ep"


def test_a_missing_file_is_that_episodes_trouble_alone(tmp_path, identities):
    config = ServiceConfig(folder=tmp_path / "trainer")
    with Service(config) as service:
        service.validator.stop()
        spool = Spool(tmp_path / "spool")
        fill(spool, 2)
        gone, kept = (entry.digest for entry in spool.entries())
        with Uplink(service.address, identities("wx-1", "robot"), spool=spool) as uplink:
            assert uplink.flush(10), uplink.status()
        service.blobs.local_path(gone).unlink()
    with Service(config) as service:
        assert service.validator.settle(10)
        states = {row.digest: (row.state, row.reason) for row in service.meta.episodes(None)}
    assert states[kept][0] == "valid"
    assert states[gone][0] == "quarantined"
    assert gone in states[gone][1]


def test_broken_episode_file_on_the_trainer_is_found(tmp_path, inspector):
    path = make_episode(tmp_path, "ep")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="crc"):
        inspector.inspect(path, "ep", WIDOWX_250S)

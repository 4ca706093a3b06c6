"""How long links live: dead ones are given up in time, quiet ones are left alone, first offers cost no round trip."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from cloud_trainer.service import metrics
from gymnast_core.episodes import Spool
from gymnast_core.episodes.messages import SCHEMA_VERSION
from gymnast_core.wire.channel import open_channel
from gymnast_core.wire.codec import CHUNK_BYTES, Chunk, crc32c, encode_upload
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb
from gymnast_core.wire.gymnast.v1 import weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink import Uplink
from gymnast_ros.uplink.upload import METHOD, UploadStream
from tests.bridge.conftest import fill
from tests.faults.proxy import FaultProxy

FREED_S = 30.0
QUIET_S = 75.0
ROBOTS = 16


def open_streams() -> float:
    """Upload streams the service in this process is serving."""
    return float(metrics.STREAMS.labels(METHOD)._value.get())


def wait_for(condition, timeout_s: float) -> bool:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def half_sent(address: str, identity, entry, over: threading.Event):
    """Open a stream, send half an episode on it, and keep it open until the end."""
    half = entry.path.read_bytes()[: entry.size // 2]

    def requests():
        yield pb.UploadRequest(
            open=pb.EpisodeOpen(
                channel=1, episode_id=entry.episode_id, size=entry.size, digest=entry.digest, schema=SCHEMA_VERSION
            )
        )
        yield Chunk(1, 0, crc32c(half), half)
        over.wait()

    channel = open_channel(address, Identity.load(identity))
    method = channel.stream_stream(
        METHOD, request_serializer=encode_upload, response_deserializer=pb.UploadReply.FromString
    )
    return channel, method(requests())


@pytest.mark.slow
def test_sixteen_dead_robots_are_freed_in_time_and_a_replacement_is_served_at_once(service, identities, tmp_path):
    proxy, over = FaultProxy(int(service.address.rpartition(":")[2])), threading.Event()
    folders = [identities(f"wx-{number}", "robot") for number in range(ROBOTS)]
    spools = [Spool(tmp_path / f"spool-{number}") for number in range(ROBOTS)]
    before = open_streams()
    calls = []  # a call that nobody holds is cancelled
    for number, (folder, spool) in enumerate(zip(folders, spools, strict=True)):
        fill(spool, 1, prefix=f"robot-{number}")
        calls.append(half_sent(f"127.0.0.1:{proxy.port}", folder, spool.entries()[0], over))
    assert wait_for(lambda: open_streams() == before + ROBOTS, 10)
    proxy.freeze()
    died = time.monotonic()
    with Uplink(service.address, folders[3], spool=spools[3]) as replacement:
        assert replacement.flush(10), replacement.status()
    assert service.meta.episode("default", "robot-3-0") is not None
    wait_for(lambda: open_streams() == before, FREED_S - (time.monotonic() - died))
    assert open_streams() == before, f"streams are held {time.monotonic() - died:.0f} s after their robots died"
    over.set()
    for channel, _ in calls:
        channel.close()
    proxy.close()


@pytest.mark.slow
def test_a_quiet_link_is_left_alone(service, identities):
    """Keepalive asks every 10 s; with nothing else to say that is more often than the strikes would last."""
    channel = open_channel(service.address, Identity.load(identities("wx-1", "robot")))
    watch = weights_pb2_grpc.WeightsServiceStub(channel).Watch(weights_pb2.WatchRequest())
    ended: list[grpc.RpcError] = []

    def follow() -> None:
        try:
            for _ in watch:
                continue
        except grpc.RpcError as error:
            ended.append(error)

    reader = threading.Thread(target=follow)
    reader.start()
    reader.join(QUIET_S)
    assert not ended, f"the link was broken while it was quiet: {ended[0].details()}"
    watch.cancel()
    reader.join(5)
    channel.close()


def test_the_first_offer_of_an_episode_sends_its_bytes_without_waiting(service, identities, tmp_path, monkeypatch):
    order: list[str] = []
    original_request, original_reply = UploadStream._requests, UploadStream._handle

    def requests(self):
        for message in original_request(self):
            order.append("chunk" if isinstance(message, Chunk) else message.WhichOneof("message"))
            yield message

    def handle(self, reply):
        if reply.WhichOneof("message") == "opened":
            assert answered.wait(5), "nothing was sent before the answer"
        original_reply(self, reply)

    answered = threading.Event()

    def next_chunk(self, original=UploadStream._next_chunk):
        message = original(self)
        if isinstance(message, Chunk):
            answered.set()
        return message

    monkeypatch.setattr(UploadStream, "_requests", requests)
    monkeypatch.setattr(UploadStream, "_handle", handle)
    monkeypatch.setattr(UploadStream, "_next_chunk", next_chunk)
    spool = Spool(tmp_path / "spool")
    with Uplink(service.address, identities("wx-1", "robot"), spool=spool) as uplink:
        fill(spool, 1)
        assert uplink.flush(10), uplink.status()
    assert order == ["open", "chunk", "commit"]


def test_a_first_offer_that_was_none_is_made_again_and_arrives(service, identities, tmp_path):
    """The trainer holds half of it, which this uplink cannot know: the bytes it sends at once are refused, once."""
    spool, over = Spool(tmp_path / "spool"), threading.Event()
    identity = identities("wx-1", "robot")
    with Uplink(service.address, identity, spool=spool) as uplink:
        fill(spool, 1, prefix="warm")
        assert uplink.flush(10), uplink.status()
        elsewhere = Spool(tmp_path / "elsewhere")
        fill(elsewhere, 1, prefix="twice", steps=60, side=64)
        entry = elsewhere.entries()[0]
        staged = service.config.folder / "staging" / "default" / f"{entry.episode_id}~{entry.digest}.part"
        channel, _ = half_sent(service.address, identity, entry, over)
        assert wait_for(lambda: staged.exists() and staged.stat().st_size == entry.size // 2, 10)
        over.set()
        channel.close()
        entry.path.rename(spool.folder / "pending" / entry.path.name)
        assert uplink.flush(10), uplink.status()
        assert uplink.status().refused == 0
    row = service.meta.episode("default", entry.episode_id)
    assert row is not None
    assert row.digest == entry.digest
    assert entry.size < CHUNK_BYTES

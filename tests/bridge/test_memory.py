"""Whatever is sent, and however slowly the answers are read: no stream makes a process grow by more than 64 MB.

Measured as the peak resident memory of real processes, a service and a robot, before and after.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from cloud_trainer.service import Limits, Service, ServiceConfig
from gymnast_client.download import RANGES_IN_FLIGHT, BlobDownload
from gymnast_client.link import Link
from gymnast_core.episodes import Spool, file_digest
from gymnast_core.episodes.messages import SCHEMA_VERSION
from gymnast_core.wire.channel import open_channel
from gymnast_core.wire.codec import Chunk, crc32c, encode_upload
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb
from gymnast_core.wire.gymnast.v1 import weights_pb2
from gymnast_ros.uplink import Uplink
from gymnast_ros.uplink.upload import METHOD

BOUND_MB = 64
IDLE_S = 2.0
LARGE = 160 << 20
_SPAWN = multiprocessing.get_context("spawn")
_PIECE = bytes(1 << 20)


def peak_mb(pid: int) -> float:
    """Highest resident memory since forget_peak()."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no VmHWM")


def forget_peak(pid: int) -> float:
    """Start to measure anew; returns what is in use now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_mb(pid)


def wait_for(condition, timeout_s: float = 120.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.02)


def run_service(folder: str, port_file: str) -> None:
    limits = Limits(min_free_bytes=1, idle_stream_s=IDLE_S)
    with Service(ServiceConfig(folder=Path(folder), port_file=Path(port_file), insecure=True, limits=limits)):
        threading.Event().wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, process id, folder) of a service in a process of its own."""
    folder = tmp_path_factory.mktemp("memory")
    port_file = folder / "port"
    process = _SPAWN.Process(target=run_service, args=(str(folder / "trainer"), str(port_file)), daemon=True)
    process.start()
    wait_for(lambda: port_file.exists() or not process.is_alive())
    yield port_file.read_text(), process.pid, folder
    process.kill()
    process.join()


def sparse(path: Path, size: int) -> Path:
    """A large file that costs no disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def plant(trainer: Path, weights: Path) -> str:
    """Have a running trainer hold a file as the weights of a checkpoint; returns its digest."""
    digest, size = file_digest(weights), weights.stat().st_size
    weights.rename(trainer / "blobs" / digest[:2] / digest)
    database = sqlite3.connect(trainer / "store.db", timeout=20)
    with database:
        row = ("default", f"policy-{size}", "policy", b"{}", digest, size, 1)
        columns = "tenant, checkpoint_id, kind, manifest, weights_digest, weights_size, published_ns"
        database.execute(f"INSERT INTO checkpoints ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    database.close()
    return digest


def robot_process(work, *args) -> float:
    """Run some work in a process of its own; returns the megabytes its memory grew by."""
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=work, args=(there, *args), daemon=True)
    process.start()
    assert here.poll(120), "the robot's process said nothing"
    before = forget_peak(process.pid)
    here.send("go")
    assert here.poll(120), "the robot's process did not finish"
    assert here.recv() in ("ready", "done")
    if here.poll(120):
        here.recv()
    grown = peak_mb(process.pid) - before
    process.kill()
    process.join()
    return grown


def ship(pipe, address: str, folder: str) -> None:
    spool = Spool(Path(folder), min_free_bytes=1)
    with Uplink(address, None, spool=spool, insecure=True) as uplink:
        pipe.send("ready")
        pipe.recv()
        for path in sorted((Path(folder) / "waiting").iterdir()):
            path.rename(spool.recording_folder / path.name)
            spool.enqueue(spool.recording_folder / path.name)
        assert uplink.flush(100)
        pipe.send("done")
        threading.Event().wait()


def fetch(pipe, address: str, folder: str, digest: str, size: int) -> None:
    link = Link(address, None, insecure=True)
    pipe.send("ready")
    pipe.recv()
    BlobDownload(link, digest, size, Path(folder) / "fetched", range_bytes=32 << 20).run()
    pipe.send("done")
    threading.Event().wait()


def test_a_huge_episode_and_many_small_ones_on_both_sides(served, tmp_path):
    address, pid, _ = served
    sparse(tmp_path / "spool" / "waiting" / "huge.mcap", LARGE)
    rng = np.random.default_rng(0)
    for number in range(32):
        (tmp_path / "spool" / "waiting" / f"small-{number}.mcap").write_bytes(rng.bytes(1 << 20))
    before = forget_peak(pid)
    robot = robot_process(ship, address, str(tmp_path / "spool"))
    service = peak_mb(pid) - before
    assert robot <= BOUND_MB, f"the robot grew by {robot:.0f} MB"
    assert service <= BOUND_MB, f"the service grew by {service:.0f} MB"


def test_large_weights_on_both_sides(served, tmp_path):
    address, pid, folder = served
    weights = sparse(tmp_path / "weights", 2 * LARGE)
    digest = plant(folder / "trainer", weights)
    before = forget_peak(pid)
    robot = robot_process(fetch, address, str(tmp_path), digest, 2 * LARGE)
    service = peak_mb(pid) - before
    assert robot <= RANGES_IN_FLIGHT * BOUND_MB, f"the robot grew by {robot:.0f} MB"
    assert service <= RANGES_IN_FLIGHT * BOUND_MB, f"the service grew by {service:.0f} MB"


def test_who_does_not_read_weights_is_not_waited_for_in_memory(served, tmp_path):
    address, pid, folder = served
    weights = sparse(tmp_path / "weights", LARGE + 1)
    digest = plant(folder / "trainer", weights)
    before = forget_peak(pid)
    with open_channel(address, None, insecure=True) as channel:
        method = channel.unary_stream(
            "/gymnast.v1.WeightsService/Fetch",
            request_serializer=weights_pb2.FetchRequest.SerializeToString,
            response_deserializer=bytes,
        )
        calls = [method(weights_pb2.FetchRequest(digest=digest), timeout=60) for _ in range(8)]
        for call in calls:
            next(call)
        time.sleep(1.0)
        grown = peak_mb(pid) - before
        for call in calls:
            call.cancel()
    assert grown <= BOUND_MB, f"eight streams grew the service by {grown:.0f} MB"


def opening(number: int, episode_id: str, size: int) -> pb.UploadRequest:
    return pb.UploadRequest(
        open=pb.EpisodeOpen(
            channel=number, episode_id=episode_id, size=size, digest=f"{number:064x}", schema=SCHEMA_VERSION
        )
    )


def test_who_does_not_read_answers_waits_and_is_cut_off(served):
    """Each message provokes a refusal; none is read. The service stops listening, then it ends the stream."""
    address, pid, _ = served
    before, sent, heard, over = forget_peak(pid), [0], [], threading.Event()

    def flood():
        while not over.is_set():
            sent[0] += 1
            yield opening(sent[0], "no id!" * 1000, 1)

    narrow = (("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0))
    with grpc.insecure_channel(address, options=narrow) as channel:
        method = channel.stream_stream(
            METHOD, request_serializer=encode_upload, response_deserializer=pb.UploadReply.FromString
        )
        call = method(flood(), timeout=100)
        wait_for(lambda: sent[0] > 5000, 60)
        over.set()
        with pytest.raises(grpc.RpcError) as caught:
            heard.extend(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
    grown = peak_mb(pid) - before
    assert len(heard) < 2000, "the service went on to answer"
    assert grown <= BOUND_MB, f"the service grew by {grown:.0f} MB over {sent[0]} messages"


def test_many_channels_and_chunks_for_nobody(served):
    """64 episodes open at once, chunks to all of them in turn, and as many to channels that do not exist."""
    address, pid, _ = served
    before = forget_peak(pid)
    checksum = crc32c(_PIECE)

    def requests():
        for number in range(1, 65):
            yield opening(number, f"wide-{number}", 4 << 20)
        for offset in range(3):
            for number in range(1, 65):
                credit.acquire()
                yield Chunk(number if offset < 2 else number + 1000, offset << 20, checksum, _PIECE)

    credit = threading.Semaphore(0)
    refused = opened = 0
    with open_channel(address, None, insecure=True) as channel:
        method = channel.stream_stream(
            METHOD, request_serializer=encode_upload, response_deserializer=pb.UploadReply.FromString
        )
        owed = 0
        for reply in method(requests(), timeout=100):
            kind = reply.WhichOneof("message")
            opened, refused = opened + (kind == "opened"), refused + (kind == "refused")
            if kind == "credit":
                owed += reply.credit.bytes
                for _ in range(owed >> 20):
                    credit.release()
                owed &= (1 << 20) - 1
    grown = peak_mb(pid) - before
    assert (opened, refused) == (64, 0)
    assert grown <= BOUND_MB, f"the service grew by {grown:.0f} MB"

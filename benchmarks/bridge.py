"""How near the bridge is to the limit of the machine: `python benchmarks/bridge.py [--scale 0.1] [--json FILE]`.

Everything is measured in one run, in separate processes over loopback, and told as a ratio to the plainest thing that
does the same job: a TCP socket with sendfile on one side and BLAKE3 and fsync on the other. Seconds depend on the
machine and its load; ratios much less.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import queue
import resource
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from blake3 import blake3

from cloud_trainer.service import Limits, Service, ServiceConfig, enroll
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import CheckpointRow, EpisodeRow
from cloud_trainer.store.sql_meta import SqlMetaStore
from gymnast_core.episodes import EpisodeRecorder, Spool, file_digest
from gymnast_core.episodes.durable import move_durably
from gymnast_core.types import ActionChunk, Observation, StepResult
from gymnast_ros.uplink import Uplink
from gymnast_ros.uplink.download import BlobDownload
from gymnast_ros.uplink.link import Link

_CONTEXT = multiprocessing.get_context("spawn")
_MIB = 1 << 20
_BLOCK = 1 << 20


@dataclass
class Figure:
    """One line of the table."""

    name: str
    value: float
    goal: str = ""
    unit: str = "x"
    note: str = ""
    met: bool | None = None


@dataclass
class Bench:
    """Where things are, how large they are, and what was found."""

    folder: Path
    scale: float
    repeats: int
    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, value: float, goal: float | None = None, *, unit: str = "x", note: str = "") -> None:
        """Note a figure; a goal is a lower bound."""
        met = None if goal is None else value >= goal
        self.figures.append(Figure(name, value, "" if goal is None else f">= {goal}", unit, note, met))
        sys.stdout.write(f"  {name:<58} {value:9.3f} {unit}  {note}\n")
        sys.stdout.flush()

    def bytes(self, mebibytes: float) -> int:
        """A size, scaled."""
        return max(int(mebibytes * self.scale), 1) * _MIB


def make_file(path: Path, size: int, seed: int) -> Path:
    """Random bytes, which nothing can compress."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        for at in range(0, size, 8 * _MIB):
            file.write(rng.bytes(min(8 * _MIB, size - at)))
    return path


def timed(act: Callable[[], Any]) -> float:
    """Seconds it took."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


# the other side, in processes of its own


def run_service(folder: str, port_file: str, insecure: bool) -> None:
    """The real service."""
    logging.disable(logging.ERROR)
    limits = Limits(episode_bytes=4 << 30, min_free_bytes=1)
    config = ServiceConfig(Path(folder), port_file=Path(port_file), insecure=insecure, limits=limits)
    with Service(config) as service:
        service.validator.stop()  # random bytes are no episodes; validation is after the acknowledgement anyway
        threading.Event().wait()


def run_tcp_sink(folder: str, port_file: str) -> None:
    """The plainest durable receiver: size and name, bytes, BLAKE3, fsync, rename, acknowledgement."""
    listener = socket.create_server(("127.0.0.1", 0))
    Path(port_file).write_text(f"127.0.0.1:{listener.getsockname()[1]}")
    buffer = bytearray(_BLOCK)
    for number in itertools.count():
        connection, _ = listener.accept()
        with connection:
            while head := connection.recv(8, socket.MSG_WAITALL):
                (left,) = struct.unpack("<Q", head)
                digest = blake3()
                part = Path(folder) / f"{number}.part"
                with part.open("wb") as file:
                    while left:
                        size = connection.recv_into(buffer, min(left, _BLOCK))
                        view = memoryview(buffer)[:size]
                        digest.update(view)
                        file.write(view)
                        left -= size
                    file.flush()
                    os.fsync(file.fileno())
                move_durably(part, Path(folder) / digest.hexdigest())
                connection.sendall(b"ok")


def run_lerobot_pattern(port_file: str) -> None:
    """A re-creation of what lerobot 0.6 does: 2 MiB messages, joined in memory, nothing kept, nothing checked."""

    def receive(requests: Iterator[bytes], context: Any) -> bytes:
        return b"ok" if len(b"".join(requests)) else b""

    handler = grpc.stream_unary_rpc_method_handler(receive)
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        options=(("grpc.max_receive_message_length", 4 * _MIB), ("grpc.max_send_message_length", 4 * _MIB)),
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Transport", {"Send": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    Path(port_file).write_text(f"127.0.0.1:{port}")
    server.wait_for_termination()


class Other:
    """A process of the other side and its address."""

    def __init__(self, bench: Bench, run: Callable[..., None], *args: object) -> None:
        port_file = bench.folder / f"port-{time.monotonic_ns()}"
        given = [str(arg) if isinstance(arg, Path) else arg for arg in args]
        given.insert(0 if run is run_lerobot_pattern else 1, str(port_file))
        self._process = _CONTEXT.Process(target=run, args=given, daemon=True)
        self._process.start()
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text()):
            if time.monotonic() > deadline or not self._process.is_alive():
                raise RuntimeError(f"{run.__name__} did not start")
            time.sleep(0.01)
        self.address = port_file.read_text()

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Peak resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return 0.0

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


class SlowProxy:
    """A link with a round trip of 50 ms and no other limit."""

    def __init__(self, address: str, one_way_s: float = 0.025) -> None:
        host, _, port = address.rpartition(":")
        self._target, self._delay_s = (host, int(port)), one_way_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._target)
            for source, sink in ((client, server), (server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line: queue.Queue[tuple[float, bytes]] = queue.Queue(4096)
                threading.Thread(target=self._take, args=(source, line), daemon=True).start()
                threading.Thread(target=self._give, args=(sink, line), daemon=True).start()

    def _take(self, source: socket.socket, line: Any) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                line.put((time.perf_counter() + self._delay_s, data))
        line.put((0.0, b""))

    def _give(self, sink: socket.socket, line: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = line.get()
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if (wait := due - time.perf_counter()) > 0:
                    time.sleep(wait)
                sink.sendall(data)


def tcp_send(address: str, paths: list[Path]) -> None:
    """Each file with sendfile, waiting for its acknowledgement."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for path in paths:
            link.sendall(struct.pack("<Q", path.stat().st_size))
            with path.open("rb") as file:
                link.sendfile(file)
            if link.recv(2, socket.MSG_WAITALL) != b"ok":
                raise RuntimeError("no acknowledgement")


def ship(bench: Bench, address: str, identity: Path | None, sizes: list[int], name: str) -> float:
    """Our uplink, connected: seconds from full spool to empty spool, everything acknowledged."""
    place = bench.folder / f"spool-{name}-{time.monotonic_ns()}"
    ready, spool = Spool(place / "ready", min_free_bytes=1), Spool(place / "live", min_free_bytes=1)
    first = spool.recording_folder / f"{name}-first-{time.monotonic_ns()}.mcap"
    spool.enqueue(make_file(first, 1000, 0))
    for number, size in enumerate(sizes):
        path = ready.recording_folder / f"{name}-{time.monotonic_ns()}-{number}.mcap"
        ready.enqueue(make_file(path, size, number))
    uplink = Uplink(address, identity, spool=spool, insecure=identity is None)
    uplink.start()
    if not uplink.flush(60):  # the link is up, as a robot's is
        raise RuntimeError(f"no link: {uplink.status()}")
    os.sync()
    started = time.perf_counter()
    for entry in ready.entries():
        entry.path.rename(place / "live" / "pending" / entry.path.name)
    if not uplink.flush(600):
        raise RuntimeError(f"not shipped: {uplink.status()}")
    seconds = time.perf_counter() - started
    uplink.stop()
    shutil.rmtree(place)
    return seconds


def best(bench: Bench, measure: Callable[[], float]) -> float:
    """The quickest of a few: load by others only ever adds."""
    return min(measure() for _ in range(bench.repeats))


def measure_uploads(bench: Bench) -> None:
    """200 MiB in one piece, and 200 times 1 MB; cost in CPU and memory."""
    size, small = bench.bytes(200), [1_000_000] * max(int(200 * bench.scale), 10)
    big = make_file(bench.folder / "big", size, 1)
    parts = [make_file(bench.folder / f"small-{number}", 1_000_000, number) for number in range(len(small))]
    with Other(bench, run_tcp_sink, bench.folder / "sink") as tcp:
        tcp_s = best(bench, lambda: timed(lambda: tcp_send(tcp.address, [big])))
        tcp_small_s = best(bench, lambda: timed(lambda: tcp_send(tcp.address, parts)))
    bench.add("TCP sendfile + BLAKE3 + fsync", size / tcp_s / 1e6, unit="MB/s")
    for name, insecure, goal in (("plain", True, 0.75), ("mTLS", False, 0.5)):
        folder = bench.folder / f"trainer-{name}"
        identity = None if insecure else bench.folder / "identity"
        with Other(bench, run_service, folder, insecure) as trainer:
            ship(bench, trainer.address, identity, [_MIB], "warm")
            cpu, own = trainer.cpu_s(), own_cpu_s()
            ours_s = best(bench, lambda: ship(bench, trainer.address, identity, [size], name))  # noqa: B023
            gigabytes = size * bench.repeats / 1e9
            bench.add(f"upload of {size // _MIB} MiB, {name}, over TCP", tcp_s / ours_s, goal)
            bench.add(f"  trainer's CPU, {name}", (trainer.cpu_s() - cpu) / gigabytes, unit="s/GB")
            bench.add(f"  robot's CPU, {name} (making the file included)", (own_cpu_s() - own) / gigabytes, unit="s/GB")
            bench.add(f"  trainer's peak memory, {name}", trainer.peak_mib(), unit="MiB")
            many_s = best(bench, lambda: ship(bench, trainer.address, identity, small, f"many-{name}"))  # noqa: B023
            bench.add(f"{len(small)} x 1 MB, fsync each, {name}, over TCP one by one", tcp_small_s / many_s, 2.0)
    with Other(bench, run_lerobot_pattern) as peer:
        seconds = best(bench, lambda: timed(lambda: send_like_lerobot(peer.address, big)))
        bench.add("lerobot's pattern (in memory, unchecked), over TCP", tcp_s / seconds, note="re-created")
        bench.add("  its receiver's peak memory", peer.peak_mib(), unit="MiB")


def own_cpu_s() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def send_like_lerobot(address: str, path: Path) -> None:
    """The whole file in memory, in messages of 2 MiB."""
    data = path.read_bytes()
    with grpc.insecure_channel(address, options=(("grpc.max_send_message_length", 4 * _MIB),)) as channel:
        send = channel.stream_unary("/peer.Transport/Send")
        send(data[at : at + 2 * _MIB] for at in range(0, len(data), 2 * _MIB))


def measure_round_trip(bench: Bench) -> None:
    """40 times 1 MB over a link of 50 ms, against one bulk transfer of the same bytes."""
    count = max(int(40 * bench.scale), 10)
    bulk = make_file(bench.folder / "bulk", count * 1_000_000, 3)
    with Other(bench, run_tcp_sink, bench.folder / "sink") as tcp:
        proxy = SlowProxy(tcp.address)
        tcp_s = best(bench, lambda: timed(lambda: tcp_send(proxy.address, [bulk])))
    identity = bench.folder / "identity"
    with Other(bench, run_service, bench.folder / "trainer-mTLS", False) as trainer:
        slow = SlowProxy(trainer.address)
        ours_s = best(bench, lambda: ship(bench, slow.address, identity, [1_000_000] * count, "far"))
    bench.add(f"{count} x 1 MB at 50 ms round trip, mTLS, over bulk TCP", tcp_s / ours_s, 0.75)


def measure_download(bench: Bench) -> None:
    """1 GiB of weights, verified and durable, against a local copy with fsync."""
    size = bench.bytes(1024)
    source = make_file(bench.folder / "weights", size, 4)
    digest = file_digest(source)

    def copy() -> None:
        with source.open("rb") as original, (bench.folder / "copy").open("wb") as target:
            shutil.copyfileobj(original, target, _BLOCK)
            target.flush()
            os.fsync(target.fileno())

    copy_s = best(bench, lambda: timed(copy))
    for name, insecure, goal in (("plain", True, 0.55), ("mTLS", False, None)):
        folder = bench.folder / f"trainer-{name}"
        place = folder / "blobs" / digest[:2] / digest
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        with Other(bench, run_service, folder, insecure) as trainer:
            link = Link(trainer.address, None if insecure else bench.folder / "identity", insecure=insecure)
            target = bench.folder / f"fetched-{name}"

            def fetch() -> float:
                target.unlink(missing_ok=True)  # noqa: B023
                return timed(lambda: BlobDownload(link, digest, size, target).run())  # noqa: B023

            bench.add(
                f"download of {size // _MIB} MiB, verified, {name}, over a copy", copy_s / best(bench, fetch), goal
            )
            link.close()
        place.unlink()


def measure_catalogue(bench: Bench) -> None:
    """What one more episode costs at the 10th and at the 100,000th; what questions cost then."""
    total = max(int(100_000 * bench.scale), 2000)
    database = Database(f"sqlite:///{bench.folder / 'catalogue.db'}")
    store = SqlMetaStore(database)

    def rows(first: int, count: int) -> list[EpisodeRow]:
        return [
            EpisodeRow(0, "default", f"ep-{number}", f"wx-{number % 16}", f"{number:064x}", 1_000_000, number,
                       instruction=f"task {number % 40}", metadata={"task": "lift", "seed": number})
            for number in range(first, first + count)
        ]  # fmt: skip

    young_database = Database(f"sqlite:///{bench.folder / 'young.db'}")
    young = SqlMetaStore(young_database)
    young.add_episodes(rows(0, 10))
    for first in range(0, total, 1000):
        store.add_episodes(rows(first, min(1000, total - first)))
    pairs = [  # in turn, so that both meet the same load
        (timed(partial(young.add_episodes, rows(10 + n, 1))), timed(partial(store.add_episodes, rows(total + n, 1))))
        for n in range(100)
    ]
    early, late = (float(np.median(seconds)) for seconds in zip(*pairs, strict=True))
    young_database.close()
    bench.add("adding an episode: the 10th over the last", early / late, 0.8, note=f"{late * 1e3:.2f} ms at {total}")
    lineage = [("episode", f"ep-{number}") for number in range(total)]
    store.add_checkpoint(CheckpointRow("policy-1", "policy", b"{}", "0" * 64, 1, 1), lineage)
    questions = {
        "the page at the end of the catalogue": lambda: store.episodes(tenant="default", after=total - 1000),
        "a robot's last page": lambda: store.episodes(tenant="default", robot="wx-3", after=total - 20_000),
        "every episode behind a checkpoint": lambda: store.made_from("policy-1"),
        "every checkpoint behind which an episode is": lambda: store.made_with("episode", f"ep-{total // 2}"),
    }
    for name, ask in questions.items():
        seconds = timed(ask)
        figure = Figure(f"asking for {name}, at {total}", seconds, "<= 1.0", "s", met=seconds <= 1.0)
        bench.figures.append(figure)
        sys.stdout.write(f"  {figure.name:<58} {seconds:9.3f} s\n")
    database.close()


def run_control_loop(folder: str, seconds: float, result: str) -> None:
    """A 5 Hz loop that records 256x256 frames into a spool and notes how late its ticks are."""
    spool = Spool(Path(folder), min_free_bytes=1)
    recorder = EpisodeRecorder(spool.recording_folder, robot="wx250s")
    image = np.random.default_rng(0).integers(0, 255, (1, 256, 256, 3), dtype=np.uint8)
    done, action = np.zeros(1, bool), np.zeros((1, 7), np.float32)
    lateness, start, tick = [], time.monotonic() + 0.2, 0
    while tick * 0.2 < seconds:
        due = start + tick * 0.2
        time.sleep(max(0.0, due - time.monotonic()))
        lateness.append(time.monotonic() - due)
        seen = Observation({"cam": image}, np.zeros((1, 7), np.float32), np.array([tick * 200_000_000]))
        if tick % 25 == 0:
            if tick:
                spool.enqueue(recorder.finish())
            recorder.on_reset(["lift"], seen)
        else:
            recorder.on_step(action, StepResult(seen, done, done, action), ActionChunk(action[:, None], "p"), 0)
        tick += 1
    Path(result).write_text(json.dumps(lateness))


def measure_control_loop(bench: Bench) -> None:
    """The 99th percentile of the tick's lateness while an uplink in another process is saturated."""
    seconds = max(20 * bench.scale, 5)
    result = bench.folder / "lateness"
    with Other(bench, run_service, bench.folder / "trainer-mTLS", False) as trainer:
        over = threading.Event()

        def saturate() -> None:
            while not over.is_set():
                ship(bench, trainer.address, bench.folder / "identity", [20 * _MIB], "load")

        load = threading.Thread(target=saturate)
        load.start()
        loop = _CONTEXT.Process(target=run_control_loop, args=(str(bench.folder / "loop"), seconds, str(result)))
        loop.start()
        loop.join()
        over.set()
        load.join()
    late = float(np.quantile(json.loads(result.read_text())[5:], 0.99))
    bench.figures.append(Figure("p99 lateness of the 5 Hz tick", late / 0.2, "<= 0.1", "periods", met=late <= 0.02))
    sys.stdout.write(f"  {'p99 lateness of the 5 Hz tick, uplink saturated':<58} {late / 0.2:9.3f} periods\n")


PARTS: dict[str, Callable[[Bench], None]] = {
    "uploads": measure_uploads,
    "round_trip": measure_round_trip,
    "download": measure_download,
    "catalogue": measure_catalogue,
    "control_loop": measure_control_loop,
}


def prepare(bench: Bench) -> None:
    """What several parts share: a folder for the plain receiver, and a robot's identity with the trainer."""
    (bench.folder / "sink").mkdir()
    enroll(bench.folder / "trainer-mTLS" / "ca", "wx-1", "robot", out=bench.folder / "identity")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is the size the goals are stated for")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--json", type=Path, help="the same figures for machines")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="some parts alone")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="gymnast-bench-", dir=options.folder))
    bench = Bench(folder, options.scale, options.repeats)
    try:
        if options.only != ["catalogue"]:
            prepare(bench)
        for measure in [PARTS[name] for name in options.only]:
            sys.stdout.write(f"{(measure.__doc__ or '').strip()}\n")
            measure(bench)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(f"\n{'figure':<62}{'value':>10}  {'goal':>8}\n")
    missed = [figure.name for figure in bench.figures if figure.met is False]
    for figure in bench.figures:
        verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
        value = f"{figure.value:10.3f}"
        sys.stdout.write(f"{figure.name:<62}{value} {figure.unit:7} {figure.goal:>8} {verdict} {figure.note}\n")
    load = os.getloadavg()[0]
    sys.stdout.write(f"{len(missed)} goals missed; load average {load:.1f} on {os.cpu_count()} cores\n")
    if options.json:
        told = {"scale": options.scale, "load": load, "cores": os.cpu_count(), "missed": missed}
        options.json.write_text(json.dumps({**told, "figures": [vars(f) for f in bench.figures]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What others notice of many clients: `python -m benchmarks.floods --clients 500`.

A trainer in a process of its own, on loopback. Some processes play robots of one tenant, each with an upload stream and
a watch open all the time, that report once a second; a tenth of them are hostile: they open as many streams and calls
as they can, on every kind of method, and whatever is refused is tried again at once. A robot and an operator of another
tenant measure meanwhile how long they wait for health, a page of releases, a report and a new watch, as a fresh
connection does and on one they have. Prints the table, and ends with 1 where the 99th percentile is above a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from cloud_trainer.app import stop_signals
from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_core.wire.channel import open_channel
from gymnast_core.wire.gymnast.v1 import robots_pb2, robots_pb2_grpc, weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Identity

GOAL_S = 1.0
PATIENCE_S = 30.0
SETTLED_S = 5.0
STREAMS = ("/gymnast.v1.WeightsService/Watch", "/grpc.health.v1.Health/Watch", "/gymnast.v1.TrajectoryService/Upload")
CALLS = ("/gymnast.v1.WeightsService/ListReleases", "/grpc.health.v1.Health/Check", "/gymnast.v1.JobService/List")


@dataclass(frozen=True)
class Flood:
    """What one flooding process does.

    Attributes:
        address: of the trainer.
        identities: of its robots.
        hostile: how many of them do what they like.
        seconds: how long.
    """

    address: str
    identities: tuple[Path, ...]
    hostile: int
    seconds: float


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=500, help="robots that are connected (default 500)")
    parser.add_argument("--processes", type=int, default=4, help="that play them (default 4)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring (default 30)")
    parser.add_argument("--idle", type=int, default=1100, help="connections that say nothing, beside (default 1100)")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args()
    _raise_files()
    with tempfile.TemporaryDirectory(prefix="floods-") as folder:
        rows = measured(Path(folder), args.clients, args.processes, args.seconds, args.idle)
    Console().print(table_of(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["p99_s"] > GOAL_S for row in rows))


def measured(folder: Path, clients: int, processes: int, seconds: float, idle: int) -> list[dict[str, Any]]:
    """Return the rows of the table: before the flood and during it.

    Args:
        folder: empty.
        clients: robots connected.
        processes: that play them.
        seconds: of measuring, each time.
        idle: connections that say nothing.
    """
    spawn = multiprocessing.get_context("spawn")
    trainer = spawn.Process(target=_serve, args=(folder / "trainer",))
    trainer.start()
    try:
        _wait_for((folder / "trainer" / "port").is_file)
        address = (folder / "trainer" / "port").read_text()
        authority = folder / "trainer" / "ca"
        robots = [enroll(authority, f"wx-{n}", "robot", out=folder / f"id-{n}", tenant="many") for n in range(clients)]
        other = enroll(authority, "wx-1", "robot", out=folder / "other")
        rows = _rows("quiet", address, other, seconds)
        shares = [tuple(robots[number::processes]) for number in range(processes)]
        lasting_s = 2 * seconds + PATIENCE_S
        floods = [Flood(address, share, max(1, len(share) // 10), lasting_s) for share in shares if share]
        playing = [spawn.Process(target=_play, args=(flood, folder / f"ready-{n}")) for n, flood in enumerate(floods)]
        for process in playing:
            process.start()
        try:
            _wait_for(lambda: all((folder / f"ready-{n}").is_file() for n in range(len(floods))), 300.0)
            time.sleep(SETTLED_S)
            with _silent(address, idle):
                rows += _rows(f"{clients} clients, {idle} idle", address, other, seconds)
        finally:
            for process in playing:
                process.kill()
                process.join()
        return rows
    finally:
        trainer.terminate()
        trainer.join()


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return what is printed."""
    table = Table("meanwhile", "asked", "n", "failed", "median s", "p99 s", "worst s")
    for row in rows:
        figures = (f"{row[name]:.3f}" for name in ("median_s", "p99_s", "worst_s"))
        table.add_row(row["meanwhile"], row["asked"], str(row["n"]), str(row["failed"]), *figures)
    return table


def _serve(folder: Path) -> None:
    logging.disable(logging.WARNING)
    stop = stop_signals()
    with Service(ServiceConfig(folder=folder, port_file=folder / "port")):
        stop.wait()


def _rows(meanwhile: str, address: str, identity: Path, seconds: float) -> list[dict[str, Any]]:
    rows = []
    with open_channel(address, Identity.load(identity)) as held:
        asked = {name: (lambda ask=ask: ask(held)) for name, ask in _ASKED.items()}
        asked["new connection"] = lambda: _anew(address, identity)
        share = seconds / len(asked)
        for name, ask in asked.items():
            times, failed, until = [], 0, time.monotonic() + share
            while time.monotonic() < until:
                began = time.monotonic()
                try:
                    ask()
                except grpc.RpcError:
                    failed += 1
                times.append(time.monotonic() - began)
                time.sleep(0.26)  # a robot may report four times a second
            p99 = float(np.percentile(times, 99))
            rows.append({"meanwhile": meanwhile, "asked": name, "n": len(times), "failed": failed,
                         "median_s": float(np.median(times)), "p99_s": p99, "worst_s": max(times)})  # fmt: skip
    return rows


def _health(channel: grpc.Channel) -> None:
    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)


def _releases(channel: grpc.Channel) -> None:
    weights_pb2_grpc.WeightsServiceStub(channel).ListReleases(weights_pb2.ListReleasesRequest(), timeout=PATIENCE_S)


def _report(channel: grpc.Channel) -> None:
    robots_pb2_grpc.RobotServiceStub(channel).Report(robots_pb2.RobotReport(state="idle"), timeout=PATIENCE_S)


_ASKED: dict[str, Callable[[grpc.Channel], None]] = {"health": _health, "releases": _releases, "report": _report}


def _anew(address: str, identity: Path) -> None:
    with open_channel(address, Identity.load(identity)) as channel:
        _releases(channel)


def _play(flood: Flood, ready: Path) -> None:
    """Be some robots; the hostile ones last."""
    _raise_files()
    channels = [open_channel(flood.address, Identity.load(identity)) for identity in flood.identities]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=240.0)
    honest = channels[: len(channels) - flood.hostile]
    over = threading.Event()
    held = [_held(channel, path) for channel in honest for path in (STREAMS[0], STREAMS[2])]
    for channel in channels[len(honest) :]:
        threading.Thread(target=_hammer, args=(channel, over), daemon=True).start()
    ready.touch()
    until = time.monotonic() + flood.seconds
    while time.monotonic() < until:
        began = time.monotonic()
        for channel in honest:
            report = robots_pb2_grpc.RobotServiceStub(channel).Report
            report.future(robots_pb2.RobotReport(state="running"), timeout=PATIENCE_S)
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
    over.set()
    for call in held:
        call.cancel()


def _held(channel: grpc.Channel, path: str, first: bytes | None = b"") -> Any:
    """A stream that stays open as long as the other side lets it."""
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        if first is not None and "Upload" not in path:
            yield first
        never.wait()

    return channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)(messages())


def _hammer(channel: grpc.Channel, over: threading.Event) -> None:
    """Open as many streams and half-made calls as there are, and again what was refused."""
    calls: list[Any] = []
    while not over.is_set():
        calls = [call for call in calls if call.is_active()]
        for path in (*STREAMS, *CALLS):
            if len(calls) < 120:
                calls.append(_held(channel, path, None if path in CALLS else b""))
        time.sleep(0.05)


@contextlib.contextmanager
def _silent(address: str, count: int) -> Iterator[None]:
    """Connections that say nothing, and come back when they are closed."""
    import socket

    host, _, port = address.rpartition(":")
    over, held = threading.Event(), [socket.create_connection((host, int(port))) for _ in range(count)]

    def again() -> None:
        while not over.wait(1.0):
            for number, each in enumerate(held):
                each.setblocking(False)
                with contextlib.suppress(BlockingIOError, OSError):
                    if each.recv(1) == b"":
                        each.close()
                        held[number] = socket.create_connection((host, int(port)))

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for each in held:
            each.close()


def _raise_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16_384)), hard))


def _wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"nothing within {timeout_s:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(main())

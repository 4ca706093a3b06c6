"""How near the bridge is to the limit of the machine: `python -m benchmarks.bridge [--scale 0.1] [--json FILE]`.

Everything is measured in one run, in separate processes over loopback, and told as a ratio to the plainest thing that
does the same job: a TCP socket with sendfile on one side and BLAKE3 and fsync on the other. Seconds depend on the
machine and its load; ratios much less. What gRPC itself takes, and what small durable files cost at least, are lines
of their own. The control tick beside a saturated uplink, with real nodes, is `python -m benchmarks.control_tick`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import mmap
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.bridge_catalogue import measure_catalogue
from benchmarks.bridge_peers import (
    MIB,
    Other,
    run_bare_grpc,
    run_lerobot_pattern,
    run_service,
    run_slow_proxy,
    run_tcp_sink,
    send_like_lerobot,
    send_over_bare_grpc,
    send_over_tcp,
)
from benchmarks.bridge_table import Table
from cloud_trainer.service import enroll
from gymnast_client.download import BlobDownload
from gymnast_client.link import Link
from gymnast_core.episodes import Spool, file_digest
from gymnast_core.episodes.durable import move_durably
from gymnast_ros.uplink import Uplink

_SMALL = 1_000_000
_numbers: Iterator[int] = itertools.count(1)


def make_file(path: Path, size: int) -> Path:
    """Random bytes, which nothing can compress and no run has seen before."""
    rng = np.random.default_rng(next(_numbers))
    with path.open("wb") as file:
        for at in range(0, size, 8 * MIB):
            file.write(rng.bytes(min(8 * MIB, size - at)))
    return path


def timed(act: Callable[[], object], size: int) -> float:
    """Seconds that it takes to move so many bytes."""
    settle(size)
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def own_cpu_s() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def settle(size: int) -> None:
    """Before every timed run: flush what waits for the disk, and free memory that is really there.

    A virtual machine gives freed memory back to its host within seconds, and the first write to a page then costs
    about 3 s/GB, more than all the rest of a transfer: without this, who gets recycled pages wins.
    """
    os.sync()
    with mmap.mmap(-1, 2 * size + 256 * MIB) as memory:
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1


def forget(table: Table) -> None:
    """Delete what was received: files of no more use."""
    for received in (*(table.folder / "sink").iterdir(), *table.folder.glob("trainer-*/blobs/*/*")):
        received.unlink()


def send_files(table: Table, address: str, sizes: list[int]) -> float:
    """Seconds that the plain TCP sender takes for new files of these sizes."""
    place = Path(tempfile.mkdtemp(dir=table.folder))
    paths = [make_file(place / str(number), size) for number, size in enumerate(sizes)]
    seconds = timed(lambda: send_over_tcp(address, paths), sum(sizes))
    shutil.rmtree(place)
    forget(table)
    return seconds


class Robot:
    """Our uplink, connected, as a robot's is.

    Args:
        table: where to work.
        address: of the trainer.
        identity: None for no TLS.
    """

    def __init__(self, table: Table, address: str, identity: Path | None) -> None:
        self._table, self._place = table, Path(tempfile.mkdtemp(dir=table.folder))
        self._made, self._spool = (Spool(self._place / name, min_free_bytes=1) for name in ("made", "spool"))
        self._uplink = Uplink(address, identity, spool=self._spool, insecure=identity is None)
        self._uplink.start()
        self.cpu_s = 0.0
        self.ship([1000])  # the link is up

    def ship(self, sizes: list[int]) -> float:
        """Seconds from a full spool to an empty one, everything acknowledged; making the files is not counted."""
        for size in sizes:
            self._made.enqueue(make_file(self._made.recording_folder / f"ep-{next(_numbers)}.mcap", size))
        settle(sum(sizes))
        cpu_s, started = own_cpu_s(), time.perf_counter()
        for entry in self._made.entries():
            entry.path.rename(self._place / "spool" / "pending" / entry.path.name)
        if not self._uplink.flush(600):
            raise RuntimeError(f"not shipped: {self._uplink.status()}")
        seconds = time.perf_counter() - started
        self.cpu_s += own_cpu_s() - cpu_s
        forget(self._table)
        return seconds

    def __enter__(self) -> Robot:
        """It runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._uplink.stop()
        shutil.rmtree(self._place)


def small_file_floor(table: Table, count: int) -> float:
    """Seconds to make so many small files durable one by one, without any network: write, fsync, rename, fsync."""
    place = Path(tempfile.mkdtemp(dir=table.folder))
    data = np.random.default_rng(next(_numbers)).bytes(_SMALL)
    settle(count * _SMALL)
    started = time.perf_counter()
    for number in range(count):
        part = place / "part"
        with part.open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        move_durably(part, place / str(number))
    seconds = time.perf_counter() - started
    shutil.rmtree(place)
    return seconds


def measure_uploads(table: Table) -> None:
    """200 MiB in one piece, and 200 times 1 MB; cost in CPU and memory."""
    size, small = table.bytes(200), [_SMALL] * max(int(200 * table.scale), 10)
    with Other(table.folder, run_tcp_sink, table.folder / "sink") as tcp:
        cpu = tcp.cpu_s()
        tcp_s = table.best(lambda: send_files(table, tcp.address, [size]))
        tcp_cpu = (tcp.cpu_s() - cpu) / (size * table.repeats / 1e9)
        tcp_small_s = table.best(lambda: send_files(table, tcp.address, small))
    floor_s = table.best(lambda: small_file_floor(table, len(small)))
    table.add("TCP sendfile + BLAKE3 + fsync", size / tcp_s / 1e6, unit="MB/s")
    table.add("  its receiver's CPU", tcp_cpu, unit="s/GB")
    table.add("a durable 1 MB file, over TCP, one by one", tcp_small_s / len(small) * 1e3, unit="ms")
    table.add("a durable 1 MB file, no network at all", floor_s / len(small) * 1e3, unit="ms")
    measure_other_streams(table, size, tcp_s)
    for name, insecure, goal in (("plain", True, 0.75), ("mTLS", False, 0.5)):
        identity = None if insecure else table.folder / "identity"
        with (
            Other(table.folder, run_service, table.folder / f"trainer-{name}", insecure) as trainer,
            Robot(table, trainer.address, identity) as robot,
        ):
            robot.ship([MIB])
            cpu, robot.cpu_s = trainer.cpu_s(), 0.0
            ours_s = table.best(lambda: robot.ship([size]))
            gigabytes = size * table.repeats / 1e9
            table.add(f"upload of {size // MIB} MiB, {name}, over TCP", tcp_s / ours_s, goal)
            table.add(f"  trainer's CPU, {name}", (trainer.cpu_s() - cpu) / gigabytes, unit="s/GB")
            table.add(f"  robot's CPU, {name}", robot.cpu_s / gigabytes, unit="s/GB")
            table.add(f"  trainer's peak memory, {name}", trainer.peak_mib(), unit="MiB")
            many_s = table.best(lambda: robot.ship(small))
            table.add(f"{len(small)} x 1 MB, fsync each, {name}, over TCP one by one", tcp_small_s / many_s, 2.0)
            table.add("  over the durable small files without a network", floor_s / many_s)


def measure_other_streams(table: Table, size: int, tcp_s: float) -> None:
    """Beside ours: gRPC that only moves the bytes, and what a peer does."""
    with Other(table.folder, run_bare_grpc) as peer:
        big, cpu = make_file(table.folder / "big", size), peer.cpu_s()
        seconds = table.best(lambda: timed(lambda: send_over_bare_grpc(peer.address, big), size))
        table.add("bare gRPC stream (bytes dropped, nothing durable), over TCP", tcp_s / seconds)
        table.add("  its receiver's CPU", (peer.cpu_s() - cpu) / (size * table.repeats / 1e9), unit="s/GB")
    with Other(table.folder, run_lerobot_pattern) as peer:
        seconds = table.best(lambda: timed(lambda: send_like_lerobot(peer.address, big), size))
        table.add("lerobot's pattern (in memory, unchecked), over TCP", tcp_s / seconds, note="re-created")
        table.add("  its receiver's peak memory", peer.peak_mib(), unit="MiB")


def measure_round_trip(table: Table) -> None:
    """40 times 1 MB over a link of 50 ms, against one bulk transfer of the same bytes."""
    count = max(int(40 * table.scale), 10)
    with (
        Other(table.folder, run_tcp_sink, table.folder / "sink") as tcp,
        Other(table.folder, run_slow_proxy, tcp.address) as slow,
    ):
        tcp_s = table.best(lambda: send_files(table, slow.address, [count * _SMALL]))
    table.add(f"bulk TCP of {count} MB at 50 ms round trip", tcp_s * 1e3, unit="ms")
    for name, insecure, goal in (("plain", True, None), ("mTLS", False, 0.75)):
        with (
            Other(table.folder, run_service, table.folder / f"trainer-{name}", insecure) as trainer,
            Other(table.folder, run_slow_proxy, trainer.address) as slow,
            Robot(table, slow.address, None if insecure else table.folder / "identity") as robot,
        ):
            ours_s = table.best(lambda: robot.ship([_SMALL] * count))
            table.add(f"{count} x 1 MB at 50 ms round trip, {name}, over bulk TCP", tcp_s / ours_s, goal)


def measure_download(table: Table) -> None:
    """1 GiB of weights, verified and durable, against a local copy with fsync."""
    size = table.bytes(1024)
    source = make_file(table.folder / "weights", size)
    digest = file_digest(source)

    def copy() -> None:
        with source.open("rb") as original, (table.folder / "copy").open("xb") as file:
            shutil.copyfileobj(original, file, MIB)
            file.flush()
            os.fsync(file.fileno())

    def copied() -> float:
        (table.folder / "copy").unlink(missing_ok=True)
        return timed(copy, size)

    copy_s = table.best(copied)
    table.add("local copy with fsync", size / copy_s / 1e6, unit="MB/s")
    for name, insecure, goal in (("plain", True, 0.55), ("mTLS", False, None)):
        folder, target = table.folder / f"trainer-{name}", table.folder / f"fetched-{name}"
        with Other(table.folder, run_service, folder, insecure) as trainer:
            place = folder / "blobs" / digest[:2] / digest
            shutil.copyfile(source, place)
            link = Link(trainer.address, None if insecure else table.folder / "identity", insecure=insecure)

            def fetch() -> float:
                target.unlink(missing_ok=True)  # noqa: B023
                return timed(lambda: BlobDownload(link, digest, size, target).run(), size)  # noqa: B023

            cpu = trainer.cpu_s()
            seconds = table.best(fetch)
            cpu = (trainer.cpu_s() - cpu) / (size * table.repeats / 1e9)
            table.add(f"download of {size // MIB} MiB, verified, {name}, over a copy", copy_s / seconds, goal)
            table.add(f"  trainer's CPU, {name}", cpu, unit="s/GB")
            link.close()
        place.unlink()


PARTS: dict[str, Callable[[Table], None]] = {
    "uploads": measure_uploads,
    "round_trip": measure_round_trip,
    "download": measure_download,
    "catalogue": measure_catalogue,
}


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
    table = Table(folder, options.scale, options.repeats)
    try:
        (folder / "sink").mkdir()
        enroll(folder / "trainer-mTLS" / "ca", "wx-1", "robot", out=folder / "identity")
        for measure in [PARTS[name] for name in options.only]:
            table.head((measure.__doc__ or "").strip())
            measure(table)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table.conclude(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

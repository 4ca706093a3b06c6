"""Shoots at robot and trainer and counts what is lost: `python -m tests.faults.run --faults 200 --seed 0`.

A long run is made of rounds, each with a seed and a folder of its own; with --log FILE a stopped run goes on where it
was: `make faults N=10000`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gymnast_core.episodes import file_digest
from tests.faults import mutants, processes
from tests.faults.disk import CLOCK, FULL, lose_unsynced
from tests.faults.proxy import FaultProxy

FAULTS = {
    "kill_trainer": 0.08,
    "kill_robot": 0.06,
    "kill_both": 0.04,
    "power_cut": 0.06,
    "reset": 0.20,
    "bit_flip": 0.20,
    "disk_full": 0.06,
    "scramble": 0.20,
    "clock_jump": 0.10,
}
"""Fault -> share."""
ROUND_FAULTS = 250
MAX_WIRE_RATIO = 1.10

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.faults.processes"])


@dataclass
class Report:
    """What came of a run.

    Attributes:
        faults: how many of each kind were injected.
        enqueued: episodes that were safe in the robot's spool.
        lost: of those, ones the trainer does not have.
        duplicated: rows beyond one per episode.
        corrupt: episodes whose stored bytes are not those enqueued.
        wire_ratio: bytes towards the trainer over payload.
        seconds: of the whole run.
        drained: the spool was empty at the end.
        wire_bytes: towards the trainer, at the proxy.
        payload_bytes: of the episodes enqueued.
    """

    faults: dict[str, int] = field(default_factory=dict)
    enqueued: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupt: int = 0
    wire_ratio: float = 0.0
    seconds: float = 0.0
    drained: bool = False

    wire_bytes: int = 0
    payload_bytes: int = 0

    @property
    def clean(self) -> bool:
        """Nothing lost, duplicated, corrupt or stuck."""
        return self.drained and not (self.lost or self.duplicated or self.corrupt)

    @staticmethod
    def sum(rounds: Sequence[Report]) -> Report:
        """Several rounds as one."""
        total = Report(dict(sum((Counter(one.faults) for one in rounds), Counter[str]())))
        for name in ("enqueued", "lost", "duplicated", "corrupt", "wire_bytes", "payload_bytes", "seconds"):
            setattr(total, name, sum(getattr(one, name) for one in rounds))
        total.wire_ratio = total.wire_bytes / max(total.payload_bytes, 1)
        total.drained = all(one.drained for one in rounds)
        return total


class Range:
    """A robot, a trainer and a proxy between them, on a folder.

    Args:
        folder: everything goes here.
        seed: of faults and episodes.
        mutant: a bug to plant, or "".
        naive: use the control pair instead of ours.
        size: mean episode size.
    """

    def __init__(
        self, folder: Path, seed: int, *, mutant: str = "", naive: bool = False, size: int = 512 << 10
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.control, self.trainer, self.robot = folder / "control", folder / "trainer", folder / "robot"
        for part in (self.control, self.trainer, self.robot):
            part.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.proxy = FaultProxy(self.port)
        self._mutant, self._naive, self._seed, self._size = mutant, naive, seed, size
        self._processes: dict[str, multiprocessing.process.BaseProcess] = {}
        self.start("trainer")
        self.start("robot")

    def start(self, who: str) -> None:
        """Start one side."""
        if who == "trainer":
            run = processes.run_naive_trainer if self._naive else processes.run_trainer
            args = (str(self.trainer), str(self.control), self.port, self._mutant)
        else:
            run = processes.run_naive_robot if self._naive else processes.run_robot
            address = f"127.0.0.1:{self.proxy.port}"
            args = (str(self.robot), str(self.control), address, self._mutant, self._seed, self._size, 1_000_000)
        self._processes[who] = _CONTEXT.Process(target=run, args=args, daemon=True)
        self._processes[who].start()

    def kill(self, *who: str) -> None:
        """SIGKILL, all at once."""
        for name in who:
            self._processes[name].kill()
        for name in who:
            self._processes[name].join()

    def inject(self, fault: str) -> None:
        """Do one bad thing and, where it is a state, undo it."""
        if fault in ("kill_trainer", "kill_robot", "kill_both", "power_cut"):
            sides = {"kill_trainer": ("trainer",), "kill_robot": ("robot",)}.get(fault, ("robot", "trainer"))
            self.kill(*sides)
            if fault == "power_cut":
                folders = [self.trainer / "blobs", self.trainer / "staging", self.trainer / "naive", self.robot]
                journal = self.control / "journal"  # one for both sides: an inode may move from one to the other
                lose_unsynced([folder for folder in folders if folder.is_dir()], journal, self.rng)
            for side in sides:
                self.start(side)
        elif fault == "reset":
            self.proxy.reset()
        elif fault == "bit_flip":
            self.proxy.flip()
        elif fault == "disk_full":
            (self.control / FULL).touch()
            time.sleep(float(self.rng.uniform(0.05, 0.15)))
            (self.control / FULL).unlink()
        elif fault == "scramble":
            (self.control / processes.SCRAMBLE).touch()
        elif fault == "clock_jump":
            (self.control / CLOCK).write_text(str(int(self.rng.integers(-(10**15), 10**15))))

    def flow(self, size: int, patience_s: float = 3.0) -> None:
        """Wait until some more bytes went up."""
        goal, until = self.proxy.forwarded + size, time.monotonic() + patience_s
        while self.proxy.forwarded < goal and time.monotonic() < until:
            time.sleep(0.005)

    def finish(self, patience_s: float) -> bool:
        """No more faults, no more episodes: does everything arrive?"""
        (self.control / processes.STOP).touch()
        (self.control / processes.DRAINED).unlink(missing_ok=True)
        until = time.monotonic() + patience_s
        while not (self.control / processes.DRAINED).exists() and time.monotonic() < until:
            time.sleep(0.02)
        self.kill("robot", "trainer")
        self.proxy.close()
        return (self.control / processes.DRAINED).exists()

    def count(self, report: Report) -> None:
        """Hold the ledger against what the trainer has."""
        lines = [line.split() for line in (self.control / processes.LEDGER).read_text().splitlines()]
        ledger = {episode_id: (digest, int(size)) for episode_id, digest, size in lines}
        stored = self._naive_rows() if self._naive else self._rows()
        seen = Counter(episode_id.partition("#")[0] for episode_id, _ in stored)
        report.enqueued = len(ledger)
        report.lost = sum(episode_id not in seen for episode_id in ledger)
        report.duplicated = sum(count - 1 for count in seen.values())
        files = {episode_id.partition("#")[0]: path for episode_id, path in stored}
        for episode_id, (digest, _) in ledger.items():
            path = files.get(episode_id)
            report.corrupt += path is not None and (not path.is_file() or file_digest(path) != digest)
        report.payload_bytes, report.wire_bytes = sum(size for _, size in ledger.values()), self.proxy.forwarded
        report.wire_ratio = report.wire_bytes / max(report.payload_bytes, 1)

    def _rows(self) -> list[tuple[str, Path]]:
        with contextlib.closing(sqlite3.connect(self.trainer / "store.db")) as database:
            rows = database.execute("SELECT episode_id, digest FROM episodes").fetchall()
        return [(episode_id, self.trainer / "blobs" / digest[:2] / digest) for episode_id, digest in rows]

    def _naive_rows(self) -> list[tuple[str, Path]]:
        rows = self.trainer / "rows"
        ids = rows.read_text().split() if rows.exists() else []
        return [(episode_id, self.trainer / "naive" / episode_id) for episode_id in ids]


def run(
    faults: int | Sequence[str],
    seed: int,
    *,
    mutant: str = "",
    naive: bool = False,
    size: int = 512 << 10,
    between: int = 3 << 20,
    patience_s: float = 30.0,
    flow_s: float = 3.0,
    folder: Path | None = None,
) -> Report:
    """Inject faults and report.

    Args:
        faults: how many of the usual mixture, or which.
        seed: of everything.
        mutant: a bug to plant.
        naive: the control pair.
        size: mean episode size in bytes.
        between: mean bytes between faults.
        patience_s: for the spool to drain afterwards.
        flow_s: longest wait between faults.
        folder: where; a temporary one when None.
    """
    started = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="gymnast-faults-", dir=folder))
    try:
        field_ = Range(place, seed, mutant=mutant, naive=naive, size=size)
        if isinstance(faults, int):
            names = list(FAULTS)
            chosen = [str(name) for name in field_.rng.choice(names, faults, p=[FAULTS[name] for name in names])]
        else:
            chosen = list(faults)
        field_.flow(between, 20.0)
        for fault in chosen:
            field_.inject(fault)
            field_.flow(int(field_.rng.integers(between // 2, between * 3 // 2)), flow_s)
        report = Report(dict(Counter(chosen)))
        report.drained = field_.finish(patience_s)
        field_.count(report)
        report.seconds = round(time.monotonic() - started, 1)
        return report
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run_rounds(faults: int, seed: int, log: Path | None, *, mutant: str = "", naive: bool = False) -> Report:
    """As run(), in rounds of ROUND_FAULTS; rounds that are in the log are not made again.

    Args:
        faults: how many in all.
        seed: of the first round; each further one has the next.
        log: one line of JSON per round, appended when it is over; None keeps no log.
        mutant: a bug to plant.
        naive: the control pair.
    """
    done: dict[int, Report] = {}
    if log is not None and log.exists():
        done = {line.pop("seed"): Report(**line) for line in map(json.loads, log.read_text().splitlines())}
    rounds = []
    for number, left in enumerate(range(faults, 0, -ROUND_FAULTS)):
        if (report := done.get(seed + number)) is None:
            report = run(min(left, ROUND_FAULTS), seed + number, mutant=mutant, naive=naive, patience_s=120.0)
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("a") as lines:
                    lines.write(json.dumps({"seed": seed + number, **asdict(report)}) + "\n")
        rounds.append(report)
    return Report.sum(rounds)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutant", default="", choices=["", *mutants.SERVER, *mutants.ROBOT])
    parser.add_argument("--naive", action="store_true", help="the control pair, which must fail")
    parser.add_argument("--log", type=Path, help="of the rounds made; a run with the same log goes on there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = run_rounds(options.faults, options.seed, options.log, mutant=options.mutant, naive=options.naive)
    for name, value in asdict(report).items():
        sys.stdout.write(f"{name:14} {value}\n")
    if options.json:
        options.json.write_text(json.dumps({**asdict(report), "clean": report.clean}))
    return 0 if report.clean and report.wire_ratio <= MAX_WIRE_RATIO else 1


if __name__ == "__main__":
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    sys.exit(main())

"""Kills a robot's process while it takes in and swaps weights: `python -m tests.bridge.swap_kills --kills 5000`.

A child stages, swaps, proves and rolls back one checkpoint after the other, each newer than the last, and writes down
what it is about to do and what is done. SIGKILL comes at a random moment or before a random call to the operating
system. A reader follows `current` all the time. Afterwards exactly what was current before or what was about to become
current must be in use, whole. What SIGKILL can tear does not depend on the disk, so a folder in memory will do; power
cuts are the business of tests/faults.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from blake3 import blake3
from safetensors.numpy import save

from gymnast_core.errors import CheckpointError
from gymnast_core.records.gate_rule import GateRule
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.records.release import Release
from gymnast_core.records.signing import SigningKey, TrustedKeys
from gymnast_ros.uplink.robot_store import RobotStore

KEY = SigningKey.generate()
TRUSTED = TrustedKeys([KEY.public_bytes()])
_LONGEST_S = 0.06
_MOST_CALLS = 250
_STUCK_S = 20.0
_MOST_HELD = 13
"""Three that were current, eight staged (kills put some back), the one just rolled back, the one it came with."""


@dataclass
class Tally:
    """What came of it.

    Attributes:
        kills: processes killed.
        during: what they were doing, by name.
        reads: looks at `current` by a reader meanwhile.
        swaps: swaps that were finished.
        rollbacks: rollbacks that were finished.
        torn: checkpoints in use that were not whole.
        older: looks at or recoveries to a checkpoint other than those allowed at that moment.
        forgotten: restarts after which an accepted release sequence was gone.
        wrong: other broken promises, in words.
        seconds: of the whole run.
    """

    kills: int = 0
    during: dict[str, int] = field(default_factory=dict)
    reads: int = 0
    swaps: int = 0
    rollbacks: int = 0
    torn: int = 0
    older: int = 0
    forgotten: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Nothing torn, older or forgotten."""
        return not (self.torn or self.older or self.forgotten or self.wrong)


def weights_of(number: int) -> bytes:
    """The weights of the checkpoint with this number."""
    return save({"w": np.full(256, number, np.float32)})


def stage(store: RobotStore, number: int) -> str:
    """Take in checkpoint `number`, whose release has that sequence."""
    weights = weights_of(number)
    copy = store.download_folder / f"w{number}"
    copy.write_bytes(weights)
    manifest = Manifest("policy", "toy", {"number": number}, hashlib.sha256(weights).hexdigest(), len(weights))
    release = Release(
        "release", number, manifest.id, asdict(manifest), blake3(weights).hexdigest(), len(weights), 0, 2**62
    )
    return store.stage(KEY.sign(release.to_bytes()), copy).name


def number_in_use(folder: Path) -> int:
    """What a policy loader would get now: the number of the checkpoint behind `current`, verified."""
    manifest, weights = read_checkpoint((folder / "current").resolve(strict=True))
    number = int(manifest.config["number"])
    if weights != weights_of(number):
        raise CheckpointError(f"checkpoint {number} holds other weights")
    return number


def live(folder: Path, journal: Path, rng: np.random.Generator) -> NoReturn:
    """The child: stage, swap, prove, roll back, for ever."""
    notes = os.open(journal, os.O_WRONLY | os.O_APPEND)

    def note(*words: object) -> None:
        os.write(notes, (" ".join(map(str, words)) + "\n").encode())

    note("open")
    store = RobotStore(folder, robot="wx-1", trusted=TRUSTED, gate=GateRule("off"))
    note("opened", number_in_use(folder))
    while True:
        number = store.highest + 1
        note("stage")
        name = stage(store, number)
        note("staged", number)
        note("swap", number)
        store.swap(name, probation_episodes=2)
        note("swapped", number)
        good = bool(rng.random() < 0.6)
        note("prove")
        store.on_episode(good=True)
        note("prove" if good else "rollback")
        if not store.on_episode(good=good, reason="collision"):
            note("rolled", number_in_use(folder))


class Oracle:
    """What may be in use, from what the child wrote down.

    Args:
        journal: the child's notes.
    """

    def __init__(self, journal: Path, tally: Tally) -> None:
        self._file, self._begun = journal.open(), ""
        self._tally = tally
        self._trail = [0]  # what was current, oldest first; the last one is
        self.highest = 0
        self.doing = "open"
        self.allowed = {0}
        self.seen = {0}

    def read(self) -> None:
        """Take in new lines."""
        *lines, self._begun = (self._begun + self._file.read()).split("\n")  # a line over two pages comes in two parts
        for line in lines:
            self.doing, *about = line.split(maxsplit=1)
            self._take(self.doing, about[0] if about else "")
            self.seen |= self.allowed

    def settle(self, number: int) -> None:
        """This one is in use for certain."""
        if number not in self.allowed:
            self._tally.older += 1
            self._tally.wrong.append(f"{number} is in use, allowed are {sorted(self.allowed)}, doing {self.doing}")
        if number in self._trail:
            del self._trail[self._trail.index(number) + 1 :]
        else:
            self._trail.append(number)
        self.allowed = {number}

    def _take(self, doing: str, about: str) -> None:
        if doing == "failed":
            self._tally.wrong.append(f"a process ended by itself: {about}")
            return
        number = int(about or -1)
        if doing == "staged":
            self.highest = number
        elif doing == "swap":
            self.allowed = {self._trail[-1], number}
        elif doing == "rollback":
            self.allowed = set(self._trail[-2:])
        elif doing in ("swapped", "opened"):
            self.settle(number)
            self._tally.swaps += doing == "swapped"
        elif doing == "rolled":
            self.allowed = {self._trail[-2]}
            self.settle(number)
            self._tally.rollbacks += 1


def run(kills: int, seed: int, folder: Path | None = None) -> Tally:
    """Kill and look.

    Args:
        kills: how many.
        seed: of the moments.
        folder: where to work; memory (/dev/shm) when there is such a thing.
    """
    started, tally = time.monotonic(), Tally()
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="gymnast-swaps-", dir=folder or (memory if memory.is_dir() else None)))
    robot, journal = place / "robot", place / "journal"
    try:
        write_checkpoint(place / "first", weights_of(0), kind="policy", architecture="toy", config={"number": 0})
        RobotStore(robot, robot="wx-1", gate=GateRule("off")).install(place / "first")
        journal.touch()
        oracle, during = Oracle(journal, tally), Counter[str]()
        for kill in range(kills):
            _kill_one(robot, journal, oracle, tally, np.random.default_rng([seed, kill]))
            during[oracle.doing] += 1
            _look(robot, oracle, tally, reopen=kill % 2 == 0)
        tally.during = dict(during.most_common())
        strays = [path.name for path in robot.iterdir() if path.name.startswith(".")]
        if len(strays) > 4:  # of the last process alone
            tally.wrong.append(f"{len(strays)} files are left behind, e.g. {strays[:3]}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    tally.seconds = round(time.monotonic() - started, 1)
    return tally


def _kill_one(robot: Path, journal: Path, oracle: Oracle, tally: Tally, rng: np.random.Generator) -> None:
    """One life of the child, and a reader beside it."""
    by_call, calls = bool(rng.random() < 0.5), int(rng.integers(1, _MOST_CALLS))
    end = time.monotonic() + (_STUCK_S if by_call else float(rng.uniform(0, _LONGEST_S)))
    if not (child := os.fork()):
        try:
            if by_call:
                _die_before_call(calls)
            live(robot, journal, rng)
        except BaseException as error:  # noqa: BLE001  # told to the parent, who counts it
            with journal.open("a") as notes:
                notes.write(f"failed {type(error).__name__}: {error}\n")
        finally:
            os._exit(1)
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
        oracle.seen, link = set(oracle.allowed), (robot / "current").readlink()
        try:
            number = number_in_use(robot)
        except (CheckpointError, OSError) as error:
            if (robot / "current").readlink() != link:
                continue  # it was replaced, twice or more, while this reader slept
            tally.torn += 1
            tally.wrong.append(f"while {oracle.doing}: {error}")
            continue
        oracle.read()
        tally.reads += 1
        tally.older += number not in oracle.seen
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    tally.kills += 1
    oracle.read()


def _die_before_call(calls: int) -> None:
    """SIGKILL this process when Python is about to make its so-many-th audited call (open, rename, unlink, ...)."""
    left = calls

    def count(event: str, _: object) -> None:
        nonlocal left
        if event == "open" or event.startswith(("os.", "shutil.")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _look(robot: Path, oracle: Oracle, tally: Tally, *, reopen: bool) -> None:
    """What is in use after the kill; half of the time the next child recovers, and may be killed in that."""
    try:
        if not reopen:
            number = number_in_use(robot)
            if number not in oracle.allowed:
                tally.older += 1
            return
        store = RobotStore(robot, robot="wx-1", trusted=TRUSTED, gate=GateRule("off"))
        oracle.settle(number_in_use(robot))
    except (CheckpointError, OSError) as error:
        tally.torn += 1
        tally.wrong.append(f"after a kill while {oracle.doing}: {error}")
        return
    state = store.state
    tally.forgotten += store.highest < oracle.highest
    if state.history[-1] != store.current_id() or store.current_id() in state.failed:
        tally.wrong.append(f"state {state} with {store.current_id()} in use, killed while {oracle.doing}")
    if len(store.held()) > _MOST_HELD:
        tally.wrong.append(f"{len(store.held())} checkpoints are kept")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: in memory)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tally = run(options.kills, options.seed, options.folder)
    for name, value in asdict(tally).items():
        sys.stdout.write(f"{name:10} {value}\n")
    if options.json:
        options.json.write_text(json.dumps({**asdict(tally), "clean": tally.clean}, indent=1))
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())

"""A disk that forgets what was not fsynced, can be full, and a clock that jumps: patched into a process under test."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np

FULL, CLOCK = "disk_full", "clock_ns"


class FragileDisk:
    """Notes which bytes of which file are durable, so that a crash can take the rest away.

    Args:
        control: folder shared with the injector: switches go in, the journal of fsyncs comes out.
        journal: name of the journal of this process's files.
    """

    def __init__(self, control: Path, journal: str) -> None:
        self._control = control
        self._journal = os.open(control / journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._fsync, self._fdatasync, self._pwrite, self._time_ns = os.fsync, os.fdatasync, os.pwrite, time.time_ns

    def install(self, *, lying_fsync: bool = False) -> None:
        """Patch this process. A lying fsync (a mutant's) does nothing."""
        os.fsync = (lambda descriptor: None) if lying_fsync else self._noted_fsync
        os.pwrite = self._checked_pwrite
        time.time_ns = self._jumping_time_ns

    def _noted_fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._fsync(descriptor)
        os.write(self._journal, f"{status.st_ino} {status.st_size}\n".encode())

    def _checked_pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        if (self._control / FULL).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._pwrite(descriptor, data, offset)

    def _jumping_time_ns(self) -> int:
        try:
            return self._time_ns() + int((self._control / CLOCK).read_text())
        except (OSError, ValueError):
            return self._time_ns()


def lose_unsynced(folders: list[Path], journal: Path, rng: np.random.Generator) -> int:
    """Cut every file at a random point between its last fsync and its end, as a power cut may; returns files cut."""
    durable: dict[int, int] = {}
    for line in journal.read_text().split("\n") if journal.exists() else ():
        inode, _, size = line.partition(" ")
        if size:
            durable[int(inode)] = int(size)
    cut = 0
    for folder in folders:
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            status = path.stat()
            safe = min(durable.get(status.st_ino, 0), status.st_size)
            if status.st_size > safe:
                os.truncate(path, int(rng.integers(safe, status.st_size)))
                cut += 1
    return cut

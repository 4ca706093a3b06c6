"""The emergency stop's latch: one page of memory that gate and arm share, so that no message can be late or lost.

The gate's process writes, everybody else reads. It outlives the gate: a successor finds the stop still latched. Its
word counts: odd is stopped, every change adds one. A command carries the word under which it was decided, and an arm
executes only what carries the present one; so what was on its way when the stop fell is void, even after a re-arm.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from pathlib import Path

from gymnast_core.errors import CorruptError

SIZE = 64
MAGIC = 0x67796D6C61746331
FOREVER_NS = 2**63
_MAGIC, _WORD, _BEAT = 0, 1, 2


class StopLatch:
    """Reading is safe from any process and thread, writing from any thread of one process.

    Args:
        memory: SIZE bytes, aligned; private ones where nobody shares.
    """

    def __init__(self, memory: bytearray | mmap.mmap | None = None) -> None:
        self._slots = memoryview(bytearray(SIZE) if memory is None else memory).cast("Q")
        self._slots[_MAGIC] = self._slots[_MAGIC] or MAGIC
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path) -> None:
        """Write a new page, not stopped, readable by its owner alone."""
        fresh = path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(MAGIC.to_bytes(8, "little") + bytes(SIZE - 8))
        fresh.replace(path)

    @classmethod
    def attach(cls, path: Path) -> StopLatch:
        """Share the page of a graph.

        Raises:
            CorruptError: it is no page of ours; the starter makes a new one.
        """
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size != SIZE:
                raise CorruptError(f"{path} is no stop latch of {SIZE} bytes; start the robot's graph again")
            latch = cls(mmap.mmap(file.fileno(), SIZE))
        if latch._slots[_MAGIC] != MAGIC:
            raise CorruptError(f"{path} is no stop latch; start the robot's graph again")
        return latch

    @property
    def word(self) -> int:
        """The present word."""
        return int(self._slots[_WORD])

    @property
    def stopped(self) -> bool:
        """Whether the emergency stop is latched."""
        return self.word % 2 == 1

    def latch(self) -> None:
        """Stop; once stopped, nothing changes."""
        with self._lock:
            if not self.stopped:
                self._slots[_WORD] += 1

    def release(self) -> None:
        """Let the arm move again."""
        with self._lock:
            if self.stopped:
                self._slots[_WORD] += 1

    def beat(self, now_ns: int) -> None:
        """The gate is alive at this monotonic time."""
        self._slots[_BEAT] = now_ns

    def farewell(self) -> None:
        """The gate ends in good order: its silence is meant."""
        self._slots[_BEAT] = FOREVER_NS

    def silence_ns(self, now_ns: int) -> int:
        """How long the gate has been silent; since the machine's start where it never did."""
        return max(0, now_ns - int(self._slots[_BEAT]))

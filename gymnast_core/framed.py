"""A process that answers one frame with another over its own pipes, by a deadline: it may hang, its starter does not.

A frame is its length, 4 bytes, big endian, and that many bytes. The process ends when its starter does: the kernel sees
to that even while it hangs (end_with_parent), and a well-behaved one notices that its input has ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from gymnast_core.errors import GymnastError
from gymnast_core.lifeline import end_with_parent

LENGTH = struct.Struct(">I")
MOST_BYTES = 256 << 20
"""Of one answer."""
_PIECE = 1 << 16
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="starter")
"""The kernel ends a child with the thread that started it, so one does that which lives as long as this process."""


class ProcessEndedError(GymnastError):
    """The process ended, or was ended, instead of answering; the message says how."""


class FramedProcess:
    """One such process; one thread at a time asks, any thread may end it.

    Args:
        command: its program, which calls frames() first.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = _STARTER.submit(_started, list(command)).result()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process.poll() is None

    def ask(self, data: bytes, wait_s: float) -> bytes:
        """Send a frame and return the next one; whatever it raises, this process is of no use any more.

        Raises:
            TimeoutError: there was none within wait_s.
            ProcessEndedError: it ended.
        """
        until = time.monotonic() + wait_s
        self._send(LENGTH.pack(len(data)) + data, until)
        return self.read(until - time.monotonic())

    def read(self, wait_s: float) -> bytes:
        """Return the next frame; raises as ask()."""
        until = time.monotonic() + wait_s
        (size,) = LENGTH.unpack(self._received(LENGTH.size, until))
        if size > MOST_BYTES:
            raise ProcessEndedError(f"it answered with {size} bytes; {MOST_BYTES} are accepted")
        return self._received(size, until)

    def end(self) -> None:
        """End it, whatever it does; safe from any thread, and to call twice."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and let go of its pipes; only where nobody asks any more."""
        self.end()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):  # what was not read any more
                pipe.close()

    def _send(self, data: bytes, until: float) -> None:
        left = memoryview(data)
        while left:
            _await(self._in, select.POLLOUT, until)
            try:
                left = left[os.write(self._in.fileno(), left[:_PIECE]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ProcessEndedError(self._ended()) from None

    def _received(self, size: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            _await(self._out, select.POLLIN, until)
            try:
                piece = os.read(self._out.fileno(), min(_PIECE, size - len(data)))
            except BlockingIOError:
                continue
            if not piece:
                raise ProcessEndedError(self._ended())
            data += piece
        return bytes(data)

    def _ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        return how_it_ended(self._process.returncode)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start it in a session of its own: a Ctrl-C or a closed terminal is its starter's to hear."""
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
    )  # fmt: skip


def _await(pipe: IO[bytes], what: int, until: float) -> None:
    """Wait until a pipe is ready, or its other end gone; poll, unlike select, takes a process with many open files."""
    ready = select.poll()
    ready.register(pipe.fileno(), what)
    if not ready.poll(1000.0 * max(0.0, until - time.monotonic())):
        raise TimeoutError


def how_it_ended(code: int | None) -> str:
    """Say how a process ended, by its exit code."""
    if code is None:
        return "closed its output"
    if code == -signal.SIGKILL:
        return "was killed, most likely for want of memory"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}; see the log"


def frames() -> tuple[IO[bytes], IO[bytes]]:
    """Return input and output of this process, which is such a one; what a library prints is no frame."""
    end_with_parent()
    with contextlib.suppress(OSError):  # where memory runs out, this process goes before its starter
        Path("/proc/self/oom_score_adj").write_text("800")
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sys.stdin.buffer, out


def write_frame(out: IO[bytes], data: bytes) -> None:
    """Write one frame."""
    out.write(LENGTH.pack(len(data)) + data)
    out.flush()


def read_frame(source: IO[bytes]) -> bytes | None:
    """Return the next frame, which may be empty: a request with nothing in it is; None where there is none any more."""
    head = source.read(LENGTH.size)
    return source.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None

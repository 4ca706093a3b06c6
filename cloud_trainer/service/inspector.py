"""Has files inspected by a child process, which is started again whenever one of them killed it."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gymnast_core.episodes.inspection import READY
from gymnast_core.errors import CorruptError, StorageError
from gymnast_core.spec import RobotSpec

LOG = logging.getLogger(__name__)
_MIB = 1 << 20
_START_S = 120.0
_MOST_ANSWER_BYTES = 4 * _MIB
_LEAST_WALL_S, _WALL_PER_CPU = 60.0, 10.0
"""A busy machine gives a process a share of its time; beyond this it does not compute but hang."""


class Inspector:
    """See gymnast_core.episodes.inspection, which it runs. One thread uses it; another may close it.

    Args:
        memory_mib: what one file may need.
        cpu_s: processor time one file may need,
        cpu_s_per_mib: and more for every MiB of it.
    """

    def __init__(self, *, memory_mib: int = 768, cpu_s: float = 20.0, cpu_s_per_mib: float = 0.5) -> None:
        self._memory_mib, self._cpu_s, self._cpu_s_per_mib = memory_mib, cpu_s, cpu_s_per_mib
        self._child: subprocess.Popen[bytes] | None = None
        self._lock, self._using = threading.Lock(), threading.Lock()
        self._closed = False
        self.started = 0

    def inspect(self, path: Path, episode_id: str, spec: RobotSpec) -> dict[str, Any]:
        """Return what is in a file; see inspected().

        Raises:
            CorruptError: why it must not be learned from: what is wrong with it, or how it ended its inspection.
            StorageError: no child can be started; nothing is known of the file.
        """
        cpu_s = self._cpu_s + self._cpu_s_per_mib * path.stat().st_size / _MIB
        order = {
            "path": str(path), "episode_id": episode_id, "cpu_s": cpu_s,
            "translation_m": spec.max_translation_m, "rotation_rad": spec.max_rotation_rad,
            "control_hz": spec.control_hz,
        }  # fmt: skip
        with self._using:
            answer = self._ask(
                self._running(), json.dumps(order).encode() + b"\n", _LEAST_WALL_S + cpu_s * _WALL_PER_CPU
            )
        if "refused" in answer:
            raise CorruptError(str(answer["refused"]))
        return dict(answer["found"])

    def close(self) -> None:
        """End the child, also in the middle of a file."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()
        with self._using, self._lock:  # not before the one that reads from it has noticed: numbers of files are reused
            self._end()

    def _ask(self, child: subprocess.Popen[bytes], order: bytes, wall_s: float) -> dict[str, Any]:
        assert child.stdin is not None
        try:
            child.stdin.write(order)
            child.stdin.flush()
            return dict(json.loads(_line(child, wall_s)))
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise CorruptError(f"InspectionDied: {self._obituary(child, error)}") from error

    def _obituary(self, child: subprocess.Popen[bytes], error: Exception) -> str:
        with self._lock:
            if self._closed:
                raise StorageError("the service is stopping; the file is looked into at the next start")
            code = child.poll() if isinstance(error, TimeoutError) else _code(child)
            self._end()
        LOG.error("inspection_died code=%s error=%s", code, error)
        if code == -signal.SIGXCPU:
            return "it needs more processor time than a file may"
        if isinstance(error, TimeoutError):
            return "it did not end in time"
        return f"it ended the process that looked into it ({_named(code)})"

    def _running(self) -> subprocess.Popen[bytes]:
        """The child, a fresh one where there is none."""
        with self._lock:
            if self._closed:
                raise StorageError("the service is stopping; the file is looked into at the next start")
            if self._child is not None and self._child.poll() is None:
                return self._child
            self._end()
            self._child = child = self._start()
        try:
            if _line(child, _START_S) == READY:
                return child
            reason = "it does not speak our language"
        except (EOFError, TimeoutError) as error:
            reason = str(error)
        with self._lock:
            self._end()
        raise StorageError(f"the process that looks into episodes cannot start: {reason}; see the log")

    def _start(self) -> subprocess.Popen[bytes]:
        self.started += 1
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "gymnast_core.episodes.inspection", str(self._memory_mib)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **quiet},
            start_new_session=True,
        )  # fmt: skip

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what was not sent to a child that is gone
                    LOG.debug("order_dropped")


def _line(child: subprocess.Popen[bytes], wall_s: float) -> bytes:
    """The next line a child writes.

    Raises:
        EOFError: it ended.
        TimeoutError: it wrote none in time, or one without an end.
    """
    assert child.stdout is not None
    descriptor, data, until = child.stdout.fileno(), bytearray(), time.monotonic() + wall_s
    readable = select.poll()  # select takes no number above 1023, which a service with many connections soon has
    readable.register(descriptor, select.POLLIN)
    while not data.endswith(b"\n"):
        ready = readable.poll(1000.0 * max(0.0, until - time.monotonic()))
        if not ready or len(data) > _MOST_ANSWER_BYTES:
            raise TimeoutError(f"no answer within {wall_s:.0f} s")
        if not (piece := os.read(descriptor, 65536)):
            raise EOFError("it ended")
        data += piece
    return bytes(data)


def _code(child: subprocess.Popen[bytes]) -> int | None:
    try:
        return child.wait(5.0)
    except subprocess.TimeoutExpired:
        return None


def _named(code: int | None) -> str:
    if code is None or code >= 0:
        return f"code {code}"
    return signal.Signals(-code).name

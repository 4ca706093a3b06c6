"""How much memory a job's processes use together, and the end of those that use too much.

A limit of the kernel (RLIMIT_DATA) would count what a GPU's driver merely reserves, and end a job by whichever
allocation met it; the trainer looks at what is in use, and ends the job by name.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil

from gymnast_core.errors import GymnastError

GIB = 1 << 30
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_EVERY_S = 0.2
_COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")


class JobMemoryError(GymnastError):
    """A job used more memory than one may here."""


def memory_of_machine() -> int:
    """Return how many bytes of memory there are: the machine's, or the container's where that has fewer."""
    total = int(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        total = min(total, int(_CGROUP.read_text()))
    return total


def yield_first() -> None:
    """Have the kernel end this process before the trainer, where memory runs out all the same."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def used_by(process: psutil.Process) -> int:
    """Return bytes that a process and its descendants keep in memory or swap; mapped files do not count."""
    total = 0
    for one in (process, *_descendants(process)):
        with contextlib.suppress(OSError, ValueError):  # it has just ended
            for line in Path(f"/proc/{one.pid}/status").read_text().splitlines():
                if line.startswith(_COUNTED):
                    total += int(line.split()[1]) << 10
    return total


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class MemoryWatch:
    """Ends a process and its descendants when together they use more than a limit.

    Args:
        pid: of the process, a child of this one.
        most_bytes: the limit.
    """

    def __init__(self, pid: int, most_bytes: int) -> None:
        self._process, self._most = psutil.Process(pid), most_bytes
        self._over, self._exceeded = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=f"memory-of-{pid}", daemon=True)

    def __enter__(self) -> MemoryWatch:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Return if the limit was kept.

        Raises:
            JobMemoryError: it was not, and the processes were ended.
        """
        if self._exceeded:
            raise JobMemoryError(
                f"it used more than {self._most / GIB:.3g} GiB; make it smaller (groups, group_size, most_episodes, "
                "a DiT's dream.batch_size), or whoever runs the trainer lets jobs use more: gymnast serve "
                "--job-memory-gib"
            )

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            if used_by(self._process) > self._most:
                self._exceeded = True
                for one in (self._process, *_descendants(self._process)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
                return

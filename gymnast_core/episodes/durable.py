"""Files that survive a crash: fsync the data, rename, fsync the folder."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from gymnast_core.errors import DiskFullError

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
PARTIAL_SUFFIX = ".partial"
_RETRY_S = 0.1


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_durably(source: Path, target: Path) -> None:
    """Rename a file whose bytes are already durable; when this returns the new name is, too.

    The old folder is not flushed: a rename is one transaction of the file system, and the flush of the new folder
    commits it.
    """
    source.rename(target)
    sync_folder(target.parent)


def write_durably(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace a file by new bytes: a reader sees the old or the new ones, also after a power cut.

    Args:
        path: of the file.
        data: its new bytes.
        mode: of the new file, less the umask; 0o600 keeps a secret.

    Raises:
        DiskFullError: no space; the old file is untouched.
    """
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}-{os.getpid()}-{threading.get_ident()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move_durably(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(f"no space for {len(data)} bytes of {path}; free some and try again") from error
        raise


class PatientFile:
    """A file opened for writing that waits while the disk is full, instead of losing bytes.

    Used from a writer thread: the control loop goes on while it waits. The file is locked (flock) as long as it is
    open, which shows a recovery that somebody is still writing.

    Attributes:
        waiting: True while the disk is full: the alarm to show to the operator.
    """

    def __init__(self, path: Path) -> None:
        import fcntl  # a lock of this operating system; imported here so that reading works elsewhere

        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._path = path
        self._position = 0
        self._stopped = threading.Event()
        self.waiting = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of it, waiting for space where there is none.

        Raises:
            DiskFullError: stop_waiting() was called while the disk was full.
        """
        rest = memoryview(data)
        while rest:
            try:
                written = os.write(self._descriptor, rest)
            except OSError as error:
                if error.errno not in FULL_ERRNOS:
                    raise
                self.waiting = True
                if self._stopped.wait(_RETRY_S):
                    raise DiskFullError(f"no space for {self._path}; {self._position} bytes are kept there") from error
                continue
            self.waiting = False
            self._position += written
            rest = rest[written:]
        return len(data)

    def stop_waiting(self) -> None:
        """Make a write that waits for space give up."""
        self._stopped.set()

    def tell(self) -> int:
        """Bytes written so far."""
        return self._position

    def flush(self) -> None:
        """Nothing is buffered here; MCAP's writer asks for it."""

    def sync(self) -> None:
        """Make the bytes durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close and unlock; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

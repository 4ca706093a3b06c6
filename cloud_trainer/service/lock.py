"""One trainer per folder: SQLite may lose a log that two connections reset (cloud_trainer.store.database)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from gymnast_core.errors import ConfigError


class FolderLock:
    """Held as long as a trainer runs on a folder; the kernel frees it when the process dies.

    Args:
        folder: of the trainer.

    Raises:
        ConfigError: another trainer holds it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        try:  # through a link, another file would be emptied
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise ConfigError(f"{path} cannot be opened ({error.strerror}); it must be a plain file") from error
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise ConfigError(f"{path} is no plain file; move it away")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise ConfigError(
                f"a trainer runs on {folder}{holder(folder)} already; ask that one, or give another --folder"
            ) from error
        os.truncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)
        self._held = True

    def release(self) -> None:
        """Let the next one in; safe to call twice."""
        if self._held:
            self._held = False
            os.close(self._file)


def holder(folder: Path) -> str:
    """Return which process holds a folder, as an addition in brackets; empty where its lock does not say."""
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int((folder / 'lock').read_bytes()[:20])})"
    return ""

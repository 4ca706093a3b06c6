"""Blobs in a folder: <folder>/<first two hex digits>/<digest>, moved in whole, never written in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gymnast_core.episodes.durable import FULL_ERRNOS, move_durably, sync_folder
from gymnast_core.errors import DiskFullError
from gymnast_core.text import is_digest
from gymnast_core.wire.errors import InvalidIdError, NotFoundError


def checked_digest(digest: str) -> str:
    """Return a digest that is safe as a file name.

    Raises:
        InvalidIdError: not 64 hex digits.
    """
    if not is_digest(digest):
        raise InvalidIdError(f"digest {digest[:80]!r} must be 64 lower-case hex digits (BLAKE3)")
    return digest


class FolderBlobStore:
    """A BlobStore on a local file system.

    Args:
        folder: created when missing; uploads are staged on the same file system.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "ff").is_dir():  # all at once, so that no blob waits for the folder of its first two digits
            for number in range(256):
                (folder / f"{number:02x}").mkdir(exist_ok=True)
            sync_folder(folder)

    def put_file(self, source: Path, digest: str) -> None:
        """See BlobStore."""
        target = self._path(digest)
        if target.is_file():
            source.unlink(missing_ok=True)
            return
        try:
            move_durably(source, target)
        except OSError as error:
            if error.errno in FULL_ERRNOS:
                raise DiskFullError(f"no space for blob {digest}; free some on {self._folder}") from error
            raise

    def has(self, digest: str) -> bool:
        """See BlobStore."""
        return self._path(digest).is_file()

    def size(self, digest: str) -> int:
        """See BlobStore."""
        return self.local_path(digest).stat().st_size

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See BlobStore."""
        descriptor = os.open(self.local_path(digest), os.O_RDONLY)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def local_path(self, digest: str) -> Path:
        """See BlobStore."""
        path = self._path(digest)
        if not path.is_file():
            raise NotFoundError(f"there is no blob {digest}")
        return path

    def digests(self) -> Iterator[str]:
        """See BlobStore."""
        for part in sorted(self._folder.iterdir()):
            yield from sorted(path.name for path in part.iterdir() if is_digest(path.name))

    def free_bytes(self) -> int | None:
        """See BlobStore."""
        return shutil.disk_usage(self._folder).free

    def _path(self, digest: str) -> Path:
        return self._folder / checked_digest(digest)[:2] / digest

"""Blobs in an S3 bucket, with a verified local cache for readers that need a file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.store import S3Store

from cloud_trainer.store.folder import checked_digest
from gymnast_core.episodes.durable import move_durably, sync_file
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import CorruptError, StorageError
from gymnast_core.wire.errors import NotFoundError


class S3BlobStore:
    """A BlobStore in a bucket; an object becomes visible only when it is complete.

    Args:
        url: s3://bucket/prefix.
        cache: local folder for files that readers asked for.
        options: endpoint, region, access_key_id, secret_access_key, ...; the environment fills in the rest.
    """

    def __init__(self, url: str, cache: Path, options: Mapping[str, str]) -> None:
        self._store = S3Store.from_url(url, config=cast("Any", dict(options)), client_options={"allow_http": True})
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    def put_file(self, source: Path, digest: str) -> None:
        """See BlobStore."""
        if not self.has(digest):
            try:
                obstore.put(self._store, self._key(digest), source)
            except Exception as error:  # obstore's errors share no class across backends
                raise StorageError(f"the object store did not take {digest}: {error}") from error
        source.unlink(missing_ok=True)

    def has(self, digest: str) -> bool:
        """See BlobStore."""
        try:
            self.size(digest)
        except NotFoundError:
            return False
        return True

    def size(self, digest: str) -> int:
        """See BlobStore."""
        try:
            return int(obstore.head(self._store, self._key(digest))["size"])
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no blob {digest}") from error

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See BlobStore."""
        end = min(offset + length, self.size(digest))
        if offset >= end:
            return b""
        return bytes(obstore.get_range(self._store, self._key(digest), start=offset, end=end))

    def local_path(self, digest: str) -> Path:
        """See BlobStore."""
        path = self._cache / checked_digest(digest)
        if path.is_file():
            return path
        self.size(digest)
        partial = self._cache / f".{digest}-{secrets.token_hex(4)}"
        with partial.open("wb") as file:
            for piece in obstore.get(self._store, self._key(digest)).stream():
                file.write(bytes(piece))
            file.flush()
            os.fsync(file.fileno())
        if (found := file_digest(partial)) != digest:
            partial.unlink()
            raise CorruptError(f"blob {digest} came back as {found}; the object store lost it")
        sync_file(partial)
        move_durably(partial, path)
        return path

    def digests(self) -> Iterator[str]:
        """See BlobStore."""
        for page in obstore.list(self._store):
            yield from sorted(entry["path"].rpartition("/")[2] for entry in page)

    def free_bytes(self) -> int | None:
        """See BlobStore."""
        return None

    def _key(self, digest: str) -> str:
        return f"{checked_digest(digest)[:2]}/{digest}"

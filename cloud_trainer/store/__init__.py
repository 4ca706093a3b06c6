"""What the service keeps: blobs, catalogue, jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cloud_trainer.store.folder import FolderBlobStore
from cloud_trainer.store.protocols import BlobStore
from gymnast_core.errors import ConfigError


def open_blobs(url: str | None, folder: Path, options: Mapping[str, str]) -> BlobStore:
    """Open the blob store a configuration names.

    Args:
        url: None for a folder, or s3://bucket/prefix.
        folder: the service's folder: holds blobs/, or the cache of a remote store.
        options: of the remote store.

    Raises:
        ConfigError: another kind of URL.
    """
    if url is None:
        return FolderBlobStore(folder / "blobs")
    if not url.startswith("s3://"):
        raise ConfigError(f"blob_url must be empty or s3://bucket/prefix, got {url!r}")
    from cloud_trainer.store.s3 import S3BlobStore  # needs obstore, which a folder does not

    return S3BlobStore(url, folder / "blob-cache", options)

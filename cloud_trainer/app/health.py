"""What is wrong with a trainer's folder, for whoever has no settings of its service at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cloud_trainer.service.config import ServiceConfig
from cloud_trainer.service.doctor import examine
from gymnast_core.finding import Finding


def examine_folder(folder: Path, *, database_url: str | None, blob_url: str | None, deep: bool) -> Iterator[Finding]:
    """Yield what is found, see cloud_trainer.service.doctor.

    Args:
        folder: of the trainer.
        database_url: where its database is not in the folder.
        blob_url: where its files are not.
        deep: read every stored file.

    Raises:
        ConfigError: the folder is no trainer's.
        OccupiedError: a trainer runs on it, so that deep cannot be done.
    """
    return examine(ServiceConfig(folder=folder, database_url=database_url, blob_url=blob_url), deep=deep)

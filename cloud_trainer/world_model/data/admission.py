"""Before a training run: every dataset is read once, and what was found is kept beside the run's states.

Whatever cannot be read is named before the first step, not at whichever step draws it. Processes that share a run
folder check once: the first one holds a lock, the others read what it wrote.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud_trainer.world_model.data.check import check
from cloud_trainer.world_model.data.described import DatasetConfig, build_source
from cloud_trainer.world_model.data.source import EpisodeSource, SelectedSource

_LOG = logging.getLogger(__name__)
_FILE = "data_check.json"
_REPORT_EVERY = 500


def admit(described: Sequence[DatasetConfig], folder: Path) -> list[EpisodeSource]:
    """Return the datasets of a run, without what is to be skipped.

    Args:
        described: as in run.json; "skip_broken" leaves out what cannot be read, "lag_tolerance" accepts a lag.
        folder: of the run; a check of the same datasets is found there and not repeated.

    Raises:
        CorruptError: episodes that cannot be read, all of them named.
        ConventionError: actions that are off in time.
        SchemaError: actions that cannot be turned into ours.
    """
    sources = [build_source(one) for one in described]
    key = [[one.to_json(), len(source)] for one, source in zip(described, sources, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{_FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _known(folder / _FILE, key)
        if known is None:
            known = [_readable(one, source) for one, source in zip(described, sources, strict=True)]
            _write(folder / _FILE, {"datasets": key, "readable": known})
    return [
        source if len(rows) == len(source) else SelectedSource(source, rows)
        for source, rows in zip(sources, known, strict=True)
    ]


def _readable(described: DatasetConfig, source: EpisodeSource) -> list[int]:
    """Indices that can be read, of a dataset that may be learned from."""
    name = source.info.name

    def progress(done: int, of: int) -> None:
        if done % _REPORT_EVERY == 0:
            _LOG.info("checking dataset=%s episodes=%d of=%d", name, done, of)

    found = check(source, on_read=progress)
    kept = found.kept(skip_broken=described.skip_broken)
    found.require_in_step(described.lag_tolerance)
    if found.broken:
        _LOG.warning("dataset=%s left out: %s\n%s", name, found.summary(), found.listing())
    if len(found.cameras) > 1:
        _LOG.info("dataset=%s camera=%s of=%s", name, found.camera, ",".join(found.cameras))
    _LOG.info("dataset=%s episodes=%d", name, len(kept))
    return list(found.readable)


def _known(path: Path, key: list[Any]) -> list[list[int]] | None:
    """What an earlier check of the same datasets found."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return list(stored["readable"]) if stored["datasets"] == json.loads(json.dumps(key)) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(path: Path, content: Mapping[str, object]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)

"""What this robot has done of what it was asked for by name: asked again after a restart, it goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gymnast_core.episodes.durable import sync_folder, write_durably
from gymnast_core.episodes.messages import checked_id
from gymnast_core.errors import ContractError
from gymnast_ros.run.plan import EpisodeResult

KEPT = 32
"""Names that are remembered, the newest."""


class OrderBook:
    """A file for each name, with a line for each finished episode.

    Args:
        folder: of these files; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def done(self, name: str) -> list[EpisodeResult]:
        """Return what was finished under a name, in order, by an older version too; a line that a crash cut is none.

        Raises:
            ContractError: it is no name.
        """
        path = self._path(name)
        rows: list[EpisodeResult] = []
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        for number, line in enumerate(lines):
            try:
                values = json.loads(line)
                rows.append(EpisodeResult.from_json(values))
            except (ValueError, AttributeError, TypeError, ContractError):
                write_durably(path, "".join(f"{whole}\n" for whole in lines[:number]).encode())
                break
        return rows

    def note(self, name: str, row: EpisodeResult) -> None:
        """Write down, durably, that an episode is finished."""
        path = self._path(name)
        fresh = not path.exists()
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lines:
            lines.write(json.dumps(row.to_json()) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        if fresh:
            sync_folder(self._folder)
            self._forget()

    def _forget(self) -> None:
        found = sorted(self._folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        for path in found[:-KEPT]:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{checked_id(name, 'name of what is to be gone on with')}.jsonl"

"""A dataset in the making: a folder beside the one asked for, which takes its name when everything is in it.

So nobody ever reads half a dataset, and an export that was killed goes on with the episodes it had not finished.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gymnast_core.episodes.durable import PARTIAL_SUFFIX, sync_file, sync_folder
from gymnast_core.errors import ConfigError, OccupiedError
from gymnast_core.json_values import JsonObject

Row = dict[str, Any]
"""A line of the journal: what an export noted of one episode."""
_JOURNAL = "journal.jsonl"


class Staging:
    """Holds <out>.partial, and a line for every episode that is in it whole.

    Args:
        out: the folder that the dataset will be.
        plan: what all of it is made with; an export that goes on must be of the same plan.
    """

    def __init__(self, out: Path, plan: JsonObject) -> None:
        self.out, self.folder = out, out.with_name(out.name + PARTIAL_SUFFIX)
        self._plan = json.loads(json.dumps(plan))
        self.rows: list[Row] = []

    @contextmanager
    def held(self) -> Iterator[Staging]:
        """Open the folder for one export, and find what an earlier one had finished.

        Raises:
            ConfigError: the dataset is there already, or the folder is of another plan.
            OccupiedError: another export writes it.
        """
        if self.out.exists():
            raise ConfigError(f"{self.out} exists; a dataset is written whole, so name a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.rows = self._known()
            yield self
        except BlockingIOError as error:
            raise OccupiedError(f"another export is writing {self.folder}; wait for it") from error
        finally:
            os.close(descriptor)

    def commit(self, row: JsonObject, files: list[Path]) -> None:
        """Note an episode whose files are written; from now on an export that goes on leaves it out.

        Args:
            row: JSON values, with its "episode_id".
            files: of this episode.
        """
        for path in files:
            sync_file(path)
        for folder in {path.parent for path in files}:
            sync_folder(folder)
        self.rows.append(json.loads(json.dumps(row, allow_nan=False)))
        self._append(self.rows[-1])

    def path(self, name: str) -> Path:
        """A file of the dataset; its folder is made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self) -> None:
        """Give the folder its name; everything in it must be written."""
        for place, folders, files in os.walk(self.folder, topdown=False):
            for name in files:
                sync_file(Path(place) / name)
            for name in folders:
                sync_folder(Path(place) / name)
        self._journal.unlink()
        sync_folder(self.folder)
        self.folder.rename(self.out)
        sync_folder(self.out.parent)

    def drop(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self.folder)

    @property
    def _journal(self) -> Path:
        return self.folder / _JOURNAL

    def _known(self) -> list[Row]:
        """Rows of the journal; a last line that a crash cut is not one."""
        text = self._journal.read_text(encoding="utf-8") if self._journal.exists() else ""
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
        if not lines:
            self._journal.unlink(missing_ok=True)
            self._append({"plan": self._plan})
            return []
        if text.split("\n")[-1]:
            self._journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        if lines[0]["plan"] != self._plan:
            raise ConfigError(
                f"{self.folder} is an unfinished export made with {lines[0]['plan']}, not {self._plan}; finish it that "
                "way, or remove it"
            )
        return lines[1:]

    def _append(self, line: JsonObject) -> None:
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

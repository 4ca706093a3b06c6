"""The newest practice run of a robot, on its disk: what a restart goes on with."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from gymnast_core.episodes.durable import write_durably
from gymnast_core.practice import PracticeState


class PracticeBook:
    """The newest run of this robot, on disk after every change.

    Args:
        folder: practice/ of the robot's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.state = self._read()

    def keep(self, state: PracticeState) -> None:
        """Write a run down.

        Raises:
            DiskFullError: there is no room: the file is as it was.
        """
        self.state = state
        write_durably(self._path, state.model_dump_json().encode())

    def _read(self) -> PracticeState | None:
        """The run that was left; one that cannot be read is set aside, for it could move an arm otherwise."""
        try:
            return PracticeState.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError):
            self._path.replace(self._path.with_suffix(".unreadable"))
            return None

"""A notifier of your own: calls for a person appear on a board in the corridor, which shows the lines of a file.

`way = "board"` of a receiver in the file of `gymnast serve --pages` names it; the trainer sees to reminders, retries
and who gets what.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Board:
    """Made anew for each message, from the receiver's settings.

    Args:
        path: file that the board shows.
        lines: that fit on it.
    """

    def __init__(self, path: str, lines: int = 8) -> None:
        if lines < 1:
            raise ValueError(f"lines must be at least 1, got {lines}")
        self._path, self._lines = Path(path), lines

    def __call__(self, message: Mapping[str, object]) -> None:
        """Show a call, the newest first; whatever is raised here is tried again, and shown in the list of calls."""
        shown = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        words = " ".join(str(message["title"]).split())  # a robot's words: one line
        kept = [f"{message['at']} {words}", *shown][: self._lines]
        self._path.write_text("\n".join(kept) + "\n", encoding="utf-8")

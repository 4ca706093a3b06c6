"""What the nodes write into their log files, as it comes; for the terminal they were started from."""

from __future__ import annotations

from pathlib import Path


class LogTail:
    """Lines added since the last look; what stood there before is left out.

    Args:
        folder: holds <node>.log files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {path: path.stat().st_size for path in folder.glob("*.log")}

    def new_lines(self) -> list[tuple[str, str]]:
        """(node, line) of every complete line since the last call."""
        found = []
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(whole) + len(newline)
            found += [(path.stem, line) for line in whole.decode(errors="replace").splitlines() if line.strip()]
        return found

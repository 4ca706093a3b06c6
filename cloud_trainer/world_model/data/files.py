"""Files below a folder, through symbolic links: large data is often linked in from another disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, subfolders, files) in sorted order; each real folder once, wherever links lead."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield Path(place), folders, sorted(files)


def below(folder: Path, suffix: str) -> list[Path]:
    """Every file below a folder whose name ends in the suffix, in order."""
    return sorted(place / name for place, _, files in walk(folder) for name in files if name.endswith(suffix))

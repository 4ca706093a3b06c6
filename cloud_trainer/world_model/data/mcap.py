"""Our own episodes: MCAP files, already in the convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_trainer.world_model.data.source import SourceInfo, reading, shifted
from gymnast_core.episodes import read_episode
from gymnast_core.types import Episode


@dataclass(frozen=True)
class McapSource:
    """A set of MCAP episodes.

    Attributes:
        info: tags.
        paths: the files.
        cameras: which to decode; default all.
        size: side to resize frames to.
    """

    info: SourceInfo
    paths: Sequence[Path]
    cameras: Sequence[str] | None = None
    size: int | None = None

    def __len__(self) -> int:
        """Episodes."""
        return len(self.paths)

    def episode(self, index: int) -> Episode:
        """Read one.

        Raises:
            CorruptError: no episode, or a damaged one.
        """
        size = None if self.size is None else (self.size, self.size)
        with reading(self.info, self.paths[index]):
            return shifted(read_episode(self.paths[index], self.cameras, size, compressed=True), self.info.lag)

"""Frames of a LeRobot v3 dataset: cut out of its videos, or decoded from image columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.world_model.data.video import VideoCursor, decode_picture
from gymnast_core.types import ByteArray

Row = Mapping[str, Any]
_DRIFT_FRAMES = 2


@dataclass
class LeRobotFrames:
    """Reads the frames of one camera's feature, an episode at a time.

    Attributes:
        folder: of the dataset.
        meta: its meta/info.json.
        rows: of meta/episodes, in order.
        key: the video or image feature.
        size: side to resize frames to.
    """

    folder: Path
    meta: Mapping[str, Any]
    rows: Sequence[Row]
    key: str
    size: int | None = None
    _video: VideoCursor = field(default_factory=VideoCursor)
    _before: dict[int, int] = field(default_factory=dict)

    @property
    def in_table(self) -> bool:
        """Whether the frames are pictures in an image column."""
        return bool(self.meta["features"][self.key]["dtype"] == "image")

    def of(self, row: Row, table: Sequence[Row]) -> ByteArray:
        """(T, H, W, 3) frames of one episode; table holds its rows of data, with the image column if there is one."""
        if self.in_table:
            return np.stack(
                [decode_picture(data, f"frame {number}", self.size) for number, data in enumerate(self.encoded(table))]
            )
        fps = float(self.meta["fps"])
        path = self.folder / str(self.meta["video_path"]).format(
            video_key=self.key,
            chunk_index=int(row[f"videos/{self.key}/chunk_index"]),
            file_index=int(row[f"videos/{self.key}/file_index"]),
        )
        return self._video.read(path, first=self._first(row, fps), count=len(table), fps=fps, size=self.size)

    def encoded(self, table: Sequence[Row]) -> list[bytes]:
        """Pictures of an image column as they are stored: their bytes, or the files they were left in."""
        found = []
        for entry in table:
            stored = entry[self.key]
            data = stored.get("bytes") if isinstance(stored, dict) else None
            if data is None and isinstance(stored, dict) and stored.get("path"):
                data = (self.folder / str(stored["path"])).read_bytes()
            found.append(data or b"")
        return found

    def _first(self, row: Row, fps: float) -> int:
        """Index of an episode's first frame in its video.

        Writers add up durations, and the sum drifts by a frame after hundreds of episodes; lengths do not. Where both
        are far apart, frames were cut out or left behind in between, and the time is right.
        """
        counted = self._frames_before()[int(row["episode_index"])]
        timed = round(float(row[f"videos/{self.key}/from_timestamp"]) * fps)
        return counted if abs(counted - timed) <= _DRIFT_FRAMES else timed

    def _frames_before(self) -> dict[int, int]:
        """Episode -> frames of the episodes before it in the same video."""
        total: dict[tuple[int, int], int] = {}
        for row in self.rows if not self._before else ():
            place = (int(row[f"videos/{self.key}/chunk_index"]), int(row[f"videos/{self.key}/file_index"]))
            self._before[int(row["episode_index"])] = total.get(place, 0)
            total[place] = total.get(place, 0) + int(row["length"])
        return self._before

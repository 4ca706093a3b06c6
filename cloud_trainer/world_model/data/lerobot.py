"""LeRobot v3 datasets (parquet + video), read without lerobot.

Layout: meta/info.json names the path templates; meta/episodes/**.parquet says which rows of which parquet and which
seconds of which video belong to an episode; meta/tasks.parquet has the instructions. Frame i carries action i, the
command given after seeing frame i, so N frames make N - 1 steps. Frames are thinned to the arm's control rate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.world_model.data.source import (
    ActionKind,
    SourceInfo,
    actions_of,
    at_control_rate,
    proprio_of_joints,
    reading,
    shifted,
)
from cloud_trainer.world_model.data.video import read_video
from gymnast_core.errors import CorruptError
from gymnast_core.types import Episode, FloatArray

_VERSION = "v3"


@dataclass(frozen=True)
class LeRobotSource:
    """One LeRobot v3 dataset.

    Attributes:
        folder: holds meta/, data/ and videos/.
        info: tags; declare the schema of its actions.
        camera: video key; default the first video feature.
        size: side to resize frames to.
    """

    folder: Path
    info: SourceInfo
    camera: str | None = None
    size: int | None = None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """meta/info.json.

        Raises:
            CorruptError: missing, or another version than v3.
        """
        path = self.folder / "meta" / "info.json"
        if not path.is_file():
            raise CorruptError(f"dataset {self.info.name}: {path} is missing; is it a LeRobot dataset?")
        with reading(self.info, path):
            meta: dict[str, Any] = dict(json.loads(path.read_text()))
        if not str(meta.get("codebase_version", "")).startswith(_VERSION):
            raise CorruptError(
                f"dataset {self.info.name} is LeRobot {meta.get('codebase_version')!r}; v3 is read. "
                "Convert it with lerobot's v2.1 to v3.0 converter"
            )
        return meta

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One metadata row per episode, in order of episode_index."""
        with reading(self.info, self.folder / "meta" / "episodes"):
            rows = [row for path in self._parquets("episodes") for row in _read_table(path)]
            return sorted(rows, key=lambda row: int(row["episode_index"]))

    @cached_property
    def tasks(self) -> dict[int, str]:
        """task_index -> instruction."""
        path = self.folder / "meta" / "tasks.parquet"
        table = _read_table(path) if path.is_file() else []
        names = ("task", "__index_level_0__")
        with reading(self.info, path):
            return {int(r["task_index"]): str(next(r[n] for n in names if r.get(n) is not None)) for r in table}

    @property
    def camera_key(self) -> str:
        """The video feature that is read.

        Raises:
            CorruptError: there is none.
        """
        videos = [key for key, feature in self.meta["features"].items() if feature.get("dtype") == "video"]
        key = self.camera or next(iter(videos), "")
        if key not in videos:
            raise CorruptError(f"dataset {self.info.name} has video features {videos}, not {key!r}")
        return key

    def __len__(self) -> int:
        """Episodes."""
        return len(self.rows)

    def episode(self, index: int) -> Episode:
        """Read one episode's rows and frames.

        Raises:
            CorruptError: a file is damaged or lacks something.
            SchemaError: actions or frame rate are not what is declared or possible.
        """
        row = self.rows[index]
        with reading(self.info, f"episode {row['episode_index']} of {self.folder}"):
            return self._episode(row)

    def _episode(self, row: dict[str, Any]) -> Episode:
        table = self._data_rows(row)
        frames = self._frames(row, len(table))
        stored = np.array([entry["action"] for entry in table], np.float32) if "action" in table[0] else None
        if stored is None and self.info.actions is not ActionKind.TEXT_ONLY:
            raise CorruptError(f"dataset {self.info.name} has no actions; declare it text_only")
        state = np.array([entry.get("observation.state", ()) for entry in table], np.float32)
        joints = state if self.info.actions is ActionKind.JOINT and state.shape[-1] == 7 else None
        actions = np.zeros((len(table), 0), np.float32) if stored is None else stored
        whole = Episode(
            episode_id=f"{self.info.name}-{int(row['episode_index']):06d}",
            instruction=self._instruction(row, table),
            images={self.camera_key: frames},
            proprio_TP=self._proprio(state, len(table)),
            actions_TA=actions_of(self.info, actions, None if joints is None else joints[0])[:-1],
            time_ns_T=np.array([round(entry["timestamp"] * 1e9) for entry in table], np.int64),
            metadata={"source": self.info.name, "fps": self.meta["fps"]},
        )
        return at_control_rate(shifted(whole, self.info.lag), float(self.meta["fps"]), self.info)

    def _proprio(self, state: FloatArray, frames: int) -> FloatArray:
        if state.shape[-1] != 7:
            return np.zeros((frames, 7), np.float32)
        return proprio_of_joints(state) if self.info.actions is ActionKind.JOINT else state

    def _instruction(self, row: dict[str, Any], table: list[dict[str, Any]]) -> str:
        listed = row.get("tasks")
        return str(listed[0]) if listed else self.tasks.get(int(table[0]["task_index"]), "unknown")

    def _data_rows(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        template = str(self.meta["data_path"])
        path = self.folder / template.format(
            chunk_index=int(row["data/chunk_index"]), file_index=int(row["data/file_index"])
        )
        wanted = [entry for entry in _read_table(path) if entry["episode_index"] == row["episode_index"]]
        if len(wanted) != int(row["length"]):
            raise CorruptError(f"{path}: episode {row['episode_index']} has {len(wanted)} rows, not {row['length']}")
        return sorted(wanted, key=lambda entry: int(entry["frame_index"]))

    def _frames(self, row: dict[str, Any], count: int) -> Any:
        key = self.camera_key
        path = self.folder / str(self.meta["video_path"]).format(
            video_key=key,
            chunk_index=int(row[f"videos/{key}/chunk_index"]),
            file_index=int(row[f"videos/{key}/file_index"]),
        )
        first = round(float(row[f"videos/{key}/from_timestamp"]) * float(self.meta["fps"]))
        return read_video(path, first=first, count=count, size=self.size)

    def _parquets(self, name: str) -> list[Path]:
        found = sorted((self.folder / "meta" / name).rglob("*.parquet"))
        if not found:
            raise CorruptError(f"dataset {self.info.name} has no meta/{name}/*.parquet")
        return found


def _read_table(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise CorruptError(f"{path} is not a readable parquet file: {error}") from error
    return rows

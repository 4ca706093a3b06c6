"""LeRobot v3 datasets (parquet + video or image columns), read without lerobot.

Layout: meta/info.json names the path templates; meta/episodes/**.parquet says which rows of which parquet and which
seconds of which video belong to an episode; meta/tasks.parquet has the instructions. Frame i carries action i, the
command given after seeing frame i, so N frames make N - 1 steps. Frames are thinned to the arm's control rate.
Episodes are read one at a time, each from where it begins in its file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.lerobot_columns import Columns, choose, gripper_bounds
from cloud_trainer.world_model.data.lerobot_frames import LeRobotFrames
from cloud_trainer.world_model.data.parquet import ParquetRows, read_table
from cloud_trainer.world_model.data.source import (
    SourceInfo,
    actions_of,
    at_control_rate,
    proprio_of_joints,
    reading,
    shifted,
)
from cloud_trainer.world_model.data.units import UnitsError, check_joints, check_poses, check_sizes
from gymnast_core.errors import CorruptError
from gymnast_core.types import ACTION_DIM, Episode, FloatArray

_VERSION = "v3"
OWN = "gymnast/episode"
"""Column of meta/episodes in which an export of ours keeps what LeRobot has no place for, as JSON."""
_ROW_COLUMNS = ("episode_index", "tasks", "length", "data/chunk_index", "data/file_index", OWN)


@dataclass(frozen=True)
class LeRobotSource:
    """One LeRobot v3 dataset.

    Attributes:
        folder: holds meta/, data/ and videos/.
        info: tags; declare the schema of its actions.
        camera: video or image feature; default the first that is no depth map.
        size: side to resize frames to.
        state: columns that are the proprioception, see lerobot_columns.choose; "none" for a dataset without.
        action: columns that are the action.
        every_camera: where no camera is named, read all that are no depth maps.
    """

    folder: Path
    info: SourceInfo
    camera: str | None = None
    size: int | None = None
    state: str | None = None
    action: str | None = None
    every_camera: bool = False

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
            meta: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8-sig")))
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
            rows = [
                row for path in self._parquets("episodes") for row in read_table(path, _ROW_COLUMNS, prefix="videos/")
            ]
            return sorted(rows, key=lambda row: int(row["episode_index"]))

    @cached_property
    def tasks(self) -> dict[int, str]:
        """task_index -> instruction."""
        path = self.folder / "meta" / "tasks.parquet"
        table = read_table(path) if path.is_file() else []
        names = ("task", "__index_level_0__")
        with reading(self.info, path):
            return {int(r["task_index"]): str(next(r[n] for n in names if r.get(n) is not None)) for r in table}

    @property
    def cameras(self) -> list[str]:
        """Video and image features, depth maps left out."""
        return [
            key for key, feature in self.meta["features"].items()
            if feature.get("dtype") in ("video", "image") and not (feature.get("info") or {}).get("video.is_depth_map")
        ]  # fmt: skip

    @property
    def camera_key(self) -> str:
        """The video or image feature that is read.

        Raises:
            CorruptError: there is none.
        """
        key = self.camera or next(iter(self.cameras), "")
        if key not in self.cameras:
            raise CorruptError(
                f"dataset {self.info.name} has the cameras {self.cameras}, not {key!r}; choose one with --camera"
            )
        return key

    @cached_property
    def state_columns(self) -> Columns | None:
        """Where the proprioception is; None for a dataset without.

        Raises:
            SchemaError: not found; names the columns there are.
        """
        return choose(self.meta["features"], self.info, "state", "observation.state", self.state)

    @cached_property
    def action_columns(self) -> Columns | None:
        """Where the action is; None for a dataset without.

        Raises:
            SchemaError: not found, or statistics contradict the units.
            CorruptError: no actions in a dataset that is not declared to have none.
        """
        if not self.info.actions.has_numbers:
            return None
        found = choose(self.meta["features"], self.info, "action", "action", self.action)
        if found is None:
            raise CorruptError(f"dataset {self.info.name} has no actions; declare it with --actions none")
        bounds = gripper_bounds(self._statistics, found) if len(found.indices) == ACTION_DIM else None
        if bounds is not None and bounds[1] - bounds[0] > 0.005 and max(map(abs, bounds)) < 0.2:
            raise UnitsError(
                f"dataset {self.info.name}: the gripper of {found.feature} never leaves {bounds[0]:g}..{bounds[1]:g} "
                "in meta/stats.json; metres? 0 (closed) to 1 (open) is read: convert it, or --actions none"
            )
        return found

    @cached_property
    def _statistics(self) -> dict[str, Any]:
        path = self.folder / "meta" / "stats.json"
        if not path.is_file():
            return {}
        with reading(self.info, path):
            return dict(json.loads(path.read_text(encoding="utf-8-sig")))

    @cached_property
    def frames(self) -> dict[str, LeRobotFrames]:
        """The readers of the cameras that are read, by feature."""
        keys = self.cameras if self.every_camera and self.camera is None else [self.camera_key]
        return {key: LeRobotFrames(self.folder, self.meta, self.rows, key, self.size) for key in keys}

    @cached_property
    def _rows_of(self) -> ParquetRows:
        return ParquetRows()

    def __len__(self) -> int:
        """Episodes."""
        return len(self.rows)

    def episode(self, index: int) -> Episode:
        """Read one episode's rows and frames.

        Raises:
            CorruptError: a file is damaged or lacks something.
            SchemaError: columns, units or frame rate are not what is declared or possible.
        """
        row = self.rows[index]
        with reading(self.info, f"episode {row['episode_index']} of {self.folder}"):
            return self._episode(row)

    def fingerprint(self, index: int) -> bytes:
        """Return what tells this episode from others, without its frames.

        Raises:
            CorruptError: see episode().
        """
        row = self.rows[index]
        with reading(self.info, f"episode {row['episode_index']} of {self.folder}"):
            table = self.data_rows(row)
            numbers = [self._numbers(table, columns) for columns in (self.action_columns, self.state_columns)]
            times = np.array([entry["timestamp"] for entry in table], np.float64)
            parts = [part.tobytes() for part in (*numbers, times) if part is not None]
            return b"".join([self._instruction(row, table).encode(), *parts])

    def _episode(self, row: dict[str, Any]) -> Episode:
        table = self.data_rows(row)
        actions, state = self._numbers(table, self.action_columns), self._numbers(table, self.state_columns)
        joints = self.info.actions is ActionKind.JOINT
        if joints and actions is not None:
            check_joints(self.info, "action", actions)
        if state is not None:
            (check_joints if joints else check_poses)(self.info, "observation.state", state)
        stored = np.zeros((len(table), 0), np.float32) if actions is None else actions
        whole = Episode(
            episode_id=f"{self.info.name}-{int(row['episode_index']):06d}",
            instruction=self._instruction(row, table),
            images={key: reader.of(row, table) for key, reader in self.frames.items()},
            proprio_TP=self._proprio(state, len(table)),
            actions_TA=actions_of(self.info, stored, state[0] if joints and state is not None else None)[:-1],
            time_ns_T=np.array([round(entry["timestamp"] * 1e9) for entry in table], np.int64),
            metadata={
                "source": self.info.name, "fps": self.meta["fps"], "cameras": self.cameras,
                "proprioception": state is not None,
            },
        )  # fmt: skip
        thinned = at_control_rate(shifted(whole, self.info.lag), float(self.meta["fps"]), self.info)
        return check_sizes(thinned, self.info)

    def _numbers(self, table: list[dict[str, object]], columns: Columns | None) -> FloatArray | None:
        """(T, 7) of the columns."""
        if columns is None:
            return None
        return columns.of(np.array([entry[columns.feature] for entry in table], np.float32).reshape(len(table), -1))

    def _proprio(self, state: FloatArray | None, frames: int) -> FloatArray:
        if state is None:
            return np.zeros((frames, 7), np.float32)
        return proprio_of_joints(state, self.info.robot) if self.info.actions is ActionKind.JOINT else state

    def _instruction(self, row: dict[str, Any], table: list[dict[str, Any]]) -> str:
        listed = row.get("tasks")
        return str(listed[0]) if listed else self.tasks.get(int(table[0]["task_index"]), "unknown")

    def data_rows(self, row: dict[str, Any], others: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return an episode's rows of data, in order, with what is read of them and the other columns named.

        Raises:
            CorruptError: rows are missing, or times go back.
        """
        template = str(self.meta["data_path"])
        path = self.folder / template.format(
            chunk_index=int(row["data/chunk_index"]), file_index=int(row["data/file_index"])
        )
        columns = [self.action_columns, self.state_columns]
        names = ["frame_index", "timestamp", "task_index", *(found.feature for found in columns if found is not None)]
        names += [*(key for key, reader in self.frames.items() if reader.in_table), *others]
        wanted = self._rows_of.where(path, "episode_index", int(row["episode_index"]), names)
        if len(wanted) != int(row["length"]):
            raise CorruptError(f"{path}: episode {row['episode_index']} has {len(wanted)} rows, not {row['length']}")
        if len(wanted) < 2:
            raise CorruptError(f"{path}: episode {row['episode_index']} has {len(wanted)} frames; a step needs two")
        rows = sorted(wanted, key=lambda entry: int(entry["frame_index"]))
        if any(later["timestamp"] <= earlier["timestamp"] for earlier, later in pairwise(rows)):
            raise CorruptError(f"{path}: the timestamps of episode {row['episode_index']} do not increase")
        return rows

    def _parquets(self, name: str) -> list[Path]:
        found = sorted((self.folder / "meta" / name).rglob("*.parquet"))
        if not found:
            raise CorruptError(f"dataset {self.info.name} has no meta/{name}/*.parquet")
        return found

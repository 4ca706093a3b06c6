"""Episodes as a LeRobot v3.0 dataset.

Frame i holds observation i and action i, so an episode of T steps has T+1 frames. The action of the last frame, after
which nothing was commanded, is no motion with the gripper held; whoever reads by the convention drops it. One data file
and one video per camera belong to an episode; meta/ is written last. What LeRobot has no place for (id, label, policy
versions, ...) stands in a column of its own in meta/episodes, which import reads and LeRobot leaves alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_trainer.world_model.data.export import lerobot_statistics as statistics
from cloud_trainer.world_model.data.export.layout import NOTED, DatasetLayout, held_last, kept_of, noted
from cloud_trainer.world_model.data.export.staging import Row, Staging
from cloud_trainer.world_model.data.lerobot import OWN
from gymnast_core.episodes.recording import Recording
from gymnast_core.json_values import JsonObject
from gymnast_core.pictures import decode_jpeg
from gymnast_core.types import Outcome

Columns = dict[str, npt.NDArray[Any]]
"""Feature -> a row per frame."""
VERSION = "v3.0"
CHUNK = 1000
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA, VIDEO = f"data/{FILE}.parquet", "videos/{video_key}/" + f"{FILE}.mp4"
PICTURES = "observation.images."
ACTION_NAMES = ["delta_x", "delta_y", "delta_z", "delta_roll", "delta_pitch", "delta_yaw", "gripper"]
STATE_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
JOINTS, RATES = "observation.state.joint_position", "observation.state.joint_velocity"
_CODEC, _QUALITY = "libx264", "15"
_KEY_EVERY = 2
"""LeRobot reads frames in any order; its own encoder sets a key frame every second one, too."""


@dataclass
class LeRobotWriter:
    """Writes episodes one after the other.

    Attributes:
        staging: where to.
        layout: what all episodes have in common.
        video: encode frames as h264; else the recorded JPEGs go into the tables byte for byte.
    """

    staging: Staging
    layout: DatasetLayout
    video: bool
    tasks: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Go on after what is there."""
        for row in self.staging.rows:
            self.tasks.setdefault(row["tasks"][0], len(self.tasks))

    def add(self, recording: Recording) -> None:
        """Write one episode's files, then note it."""
        number = len(self.staging.rows)
        place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        columns, task = _columns(recording, self.layout), recording.header.instruction
        first = self.staging.rows[-1]["dataset_to_index"] if number else 0
        frames = recording.steps + 1
        columns |= {
            "timestamp": (np.arange(frames) / self.layout.fps).astype(np.float32),
            "frame_index": np.arange(frames),
            "episode_index": np.full(frames, number),
            "index": first + np.arange(frames),
            "task_index": np.full(frames, self.tasks.setdefault(task, len(self.tasks))),
        }
        files = [_write_table(self.staging.path(DATA.format(**place)), columns, self._pictures(recording))]
        row: Row = {
            **noted(recording, self.layout), "episode_index": number, "tasks": [task], "length": frames,
            "data/chunk_index": place["chunk_index"], "data/file_index": place["file_index"],
            "dataset_from_index": first, "dataset_to_index": first + frames, OWN: json.dumps(kept_of(recording)),
        }  # fmt: skip
        stats = {name: statistics.of_numbers(values) for name, values in columns.items()}
        for camera in self.layout.cameras:
            key = f"{PICTURES}{camera}"
            stats[key] = statistics.of_pictures(
                decode_jpeg(recording.jpegs[camera][index]) for index in statistics.sampled(frames)
            )
            if self.video:
                path = self.staging.path(VIDEO.format(video_key=key, **place))
                files.append(_write_video(path, recording.jpegs[camera], self.layout.fps))
                row |= {f"videos/{key}/{name}": value for name, value in place.items()}
                row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": frames / self.layout.fps}
        self.staging.commit({**row, "stats": stats}, files)

    def _pictures(self, recording: Recording) -> Mapping[str, Sequence[bytes]]:
        return {} if self.video else {f"{PICTURES}{camera}": recording.jpegs[camera] for camera in self.layout.cameras}

    def finish(self) -> None:
        """Write meta/, which makes a dataset of the files."""
        rows = self.staging.rows
        meta = {
            "codebase_version": VERSION, "robot_type": self.layout.robot, "total_episodes": len(rows),
            "total_frames": rows[-1]["dataset_to_index"], "total_tasks": len(self.tasks), "chunks_size": CHUNK,
            "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": self.layout.fps,
            "splits": {"train": f"0:{len(rows)}"}, "data_path": DATA, "video_path": VIDEO if self.video else None,
            "features": self._features(),
        }  # fmt: skip
        stats = {name: statistics.merged([row["stats"][name] for row in rows]) for name in rows[0]["stats"]}
        _write_episodes(self.staging.path("meta/episodes/chunk-000/file-000.parquet"), rows)
        _write_tasks(self.staging.path("meta/tasks.parquet"), self.tasks)
        self.staging.path("meta/stats.json").write_text(json.dumps(stats, indent=4), encoding="utf-8")
        self.staging.path("meta/info.json").write_text(json.dumps(meta, indent=4), encoding="utf-8")

    def _features(self) -> JsonObject:
        joints = [] if self.layout.joints is None else list(self.layout.joints)
        found = {
            "action": _feature("float32", ACTION_NAMES), "observation.state": _feature("float32", STATE_NAMES),
            "requested_action": _feature("float32", ACTION_NAMES),
            **({JOINTS: _feature("float64", joints)} if joints else {}),
            **({RATES: _feature("float64", joints)} if self.layout.rates else {}),
            "next.reward": _feature("float32"), "next.done": _feature("bool"), "elapsed_ns": _feature("int64"),
            "timestamp": _feature("float32"),
            **{name: _feature("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
        }  # fmt: skip
        for camera, (height, width) in self.layout.cameras.items():
            picture: Row = {"dtype": "image", "shape": [height, width, 3]}
            if self.video:
                picture = {"dtype": "video", "shape": [height, width, 3], "info": {
                    "video.height": height, "video.width": width, "video.codec": "h264",
                    "video.pix_fmt": pixel_format(height, width), "video.is_depth_map": False,
                    "video.fps": self.layout.fps, "video.channels": 3, "has_audio": False,
                }}  # fmt: skip
            found[f"{PICTURES}{camera}"] = {**picture, "names": ["height", "width", "channels"]}
        return found


def _feature(dtype: str, names: Sequence[str] | None = None) -> JsonObject:
    return {"dtype": dtype, "shape": [len(names) if names else 1], "names": list(names) if names else None}


def _columns(recording: Recording, layout: DatasetLayout) -> Columns:
    """A row per frame of each feature that is no picture."""
    frames = recording.steps + 1
    reward_T = np.zeros(frames, np.float32)
    reward_T[-1] = recording.end.outcome is Outcome.SUCCESS
    found: Columns = {
        "action": held_last(recording.commanded_TA),
        "observation.state": recording.proprio_TP,
        "requested_action": held_last(recording.requested_TA),
    }
    if layout.joints is not None and recording.joints_TJ is not None:
        found[JOINTS] = recording.joints_TJ
    if layout.rates and recording.rates_TJ is not None:
        found[RATES] = recording.rates_TJ
    elapsed_T = recording.time_ns_T - recording.time_ns_T[0]
    return {**found, "next.reward": reward_T, "next.done": np.arange(frames) == frames - 1, "elapsed_ns": elapsed_T}


def _write_table(path: Path, columns: Columns, pictures: Mapping[str, Sequence[bytes]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    arrays = {}
    for name, values in columns.items():
        flat = pyarrow.array(np.ascontiguousarray(values).ravel())
        arrays[name] = flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    for name, jpegs in pictures.items():
        arrays[name] = pyarrow.array([{"bytes": jpeg, "path": None} for jpeg in jpegs], kind)
    pyarrow.parquet.write_table(pyarrow.table(arrays), path, compression="snappy")
    return path


def _write_episodes(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    flat = []
    for row in rows:
        own = {name: value for name, value in row.items() if name not in ("stats", *NOTED)}
        found = {f"stats/{n}/{s}": value for n, one in row["stats"].items() for s, value in one.items()}
        flat.append({**own, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, **found})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), path, compression="snappy")


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """As pandas stores a table whose index is the text (its documentation of metadata in Parquet)."""
    import pyarrow
    import pyarrow.parquet

    kinds = (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    described = {
        "index_columns": ["task"], "column_indexes": [], "pandas_version": "2.2.0",
        "columns": [{"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
                    for name, kind, stored in kinds],
    }  # fmt: skip
    table = pyarrow.table({"task_index": list(tasks.values()), "task": list(tasks)})
    table = table.replace_schema_metadata({"pandas": json.dumps(described)})
    pyarrow.parquet.write_table(table, path)


def pixel_format(height: int, width: int) -> str:
    """What h264 can hold of this size: colours at half the resolution need even sides."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"


def _write_video(path: Path, jpegs: Sequence[bytes], fps: int) -> Path:
    import av

    with av.open(str(path), mode="w") as container:
        stream = container.add_stream(_CODEC, rate=Fraction(fps))
        frame = decode_jpeg(jpegs[0])
        stream.height, stream.width = frame.shape[:2]
        stream.pix_fmt = pixel_format(*frame.shape[:2])
        stream.options = {"crf": _QUALITY, "preset": "veryfast", "g": str(_KEY_EVERY), "bf": "0"}
        for jpeg in jpegs:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(decode_jpeg(jpeg)), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path

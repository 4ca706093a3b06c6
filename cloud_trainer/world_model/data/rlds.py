"""RLDS datasets in TFRecord files, as TensorFlow Datasets writes them, read without TensorFlow.

features.json says what a step holds; a record is one episode. Step i carries observation i and the action after it, so
N steps make N - 1 of ours. RLDS has no times: the rate is declared.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.export.layout import Kept
from cloud_trainer.world_model.data.export.rlds import JOINTS, OWN, RATES
from cloud_trainer.world_model.data.lerobot_columns import choose
from cloud_trainer.world_model.data.source import (
    SchemaError,
    SourceInfo,
    actions_of,
    at_control_rate,
    proprio_of_joints,
    reading,
    shifted,
)
from cloud_trainer.world_model.data.tf_records import Feature, decode_example, offsets, record
from cloud_trainer.world_model.data.units import check_joints, check_poses, check_sizes
from cloud_trainer.world_model.data.video import decode_picture
from gymnast_core.episodes.recording import Recording
from gymnast_core.errors import CorruptError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode, FloatArray

Example = dict[str, Feature]
_SEEN = "observation."
_WORDS = ("steps/language_instruction", "steps/observation/natural_language_instruction",
          "episode_metadata/language_instruction")  # fmt: skip


@dataclass(frozen=True)
class RldsSource:
    """One RLDS dataset, all its splits.

    Attributes:
        folder: holds features.json, or one folder that does.
        info: tags.
        camera: image feature of the observation; default the first, or all of them.
        size: side to resize frames to.
        state: columns that are the proprioception, see lerobot_columns.choose; features are named observation.state.
        action: columns that are the action.
        fps: steps a second.
        every_camera: where no camera is named, read all.
    """

    folder: Path
    info: SourceInfo
    camera: str | None = None
    size: int | None = None
    state: str | None = None
    action: str | None = None
    fps: float = WIDOWX_250S.control_hz
    every_camera: bool = False

    @cached_property
    def place(self) -> Path:
        """The folder of the version that is read.

        Raises:
            CorruptError: there is none, or several.
        """
        found = [path.parent for pattern in ("", "*/", "*/*/") for path in self.folder.glob(f"{pattern}features.json")]
        if len(found) != 1:
            raise CorruptError(
                f"dataset {self.info.name}: {len(found)} features.json below {self.folder}; name the folder of one "
                f"version: {sorted(map(str, found))[:3]}"
            )
        return found[0]

    @cached_property
    def features(self) -> dict[str, Any]:
        """Feature of a step, as observation.state -> dtype, shape, encoding; pictures have the dtype image.

        Raises:
            CorruptError: features.json does not say what a step holds.
        """
        with reading(self.info, self.place / "features.json"):
            described = json.loads((self.place / "features.json").read_text(encoding="utf-8"))
            steps = described["featuresDict"]["features"]["steps"]["sequence"]["feature"]
            return dict(_flat(steps, ""))

    @cached_property
    def shards(self) -> tuple[tuple[Path, int], ...]:
        """Files with the number of episodes in each.

        Raises:
            CorruptError: a file is missing, or of a format that is not read.
        """
        with reading(self.info, self.place / "dataset_info.json"):
            described = json.loads((self.place / "dataset_info.json").read_text(encoding="utf-8"))
            if (form := described.get("fileFormat", "tfrecord")) != "tfrecord":
                raise CorruptError(f"dataset {self.info.name} is stored as {form!r}; tfrecord is read")
            return tuple(shard for split in described["splits"] for shard in self._shards_of(described["name"], split))

    def _shards_of(self, name: str, split: dict[str, Any]) -> list[tuple[Path, int]]:
        lengths = [int(length) for length in split["shardLengths"]]
        template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        found = []
        for number, length in enumerate(lengths):
            shard = f"{number:05d}-of-{len(lengths):05d}"
            file = template.format(DATASET=name, SPLIT=split["name"], FILEFORMAT="tfrecord", SHARD_X_OF_Y=shard)
            found.append((self.place / file, length))
        return found

    def __len__(self) -> int:
        """Episodes."""
        return sum(length for _, length in self.shards)

    @property
    def cameras(self) -> list[str]:
        """Image features of the observation, depth left out."""
        pictures = [name for name, one in self.features.items() if one["dtype"] == "image" and one["shape"][-1] == 3]
        return [name.removeprefix(_SEEN) for name in pictures if name.startswith(_SEEN)]

    def fingerprint(self, index: int) -> bytes:
        """Return what tells an episode from others: all of it.

        Raises:
            CorruptError: it is damaged.
        """
        with reading(self.info, f"episode {index} of {self.place}"):
            return self._record(index)

    def kept(self, index: int) -> Kept | None:
        """Return what an export of ours kept of an episode; None for a dataset of somebody else.

        Raises:
            CorruptError: it is damaged.
        """
        with reading(self.info, f"episode {index} of {self.place}"):
            text = decode_example(self._record(index)).get(OWN)
            return None if text is None else Kept.of(json.loads(bytes(text[0])))

    def recording(self, index: int, kept: Kept) -> Recording:
        """Return an episode of an export of ours as it was recorded.

        Raises:
            CorruptError: a feature is missing.
        """
        with reading(self.info, f"episode {index} of {self.place}"):
            example = decode_example(self._record(index))
            joints = {name: self._array(example, f"{_SEEN}{name}") for name in (JOINTS, RATES)
                      if f"{_SEEN}{name}" in self.features}  # fmt: skip
            return kept.recording(
                {camera: list(map(bytes, example[f"steps/observation/{camera}"])) for camera in kept.header.cameras},
                state_TP=self._array(example, f"{_SEEN}state").astype(np.float32),
                action_TA=self._array(example, "action").astype(np.float32),
                requested_TA=self._array(example, "requested_action").astype(np.float32),
                elapsed_T=np.asarray(example["steps/observation/elapsed_ns"], np.int64),
                joints_TJ=joints.get(JOINTS),
                rates_TJ=joints.get(RATES),
            )

    def episode(self, index: int) -> Episode:
        """Read one episode.

        Raises:
            CorruptError: it is damaged or lacks something.
            SchemaError: features, units or the rate are not what is declared or possible.
        """
        with reading(self.info, f"episode {index} of {self.place}"):
            return self._episode(index, decode_example(self._record(index)))

    def _episode(self, index: int, example: Example) -> Episode:
        action = None
        if self.info.actions.has_numbers:
            action = self._columns(example, "action", "action", self.action)
            if action is None:
                raise SchemaError(
                    f"dataset {self.info.name} has no feature action in {list(self.features)}; name --action"
                )
        state = self._columns(example, "state", "observation.state", self.state)
        frames = {camera: self._frames(example, camera) for camera in self._read_cameras()}
        count = len(next(iter(frames.values())))
        joints = self.info.actions is ActionKind.JOINT
        if joints and action is not None:
            check_joints(self.info, "action", action)
        if state is not None:
            (check_joints if joints else check_poses)(self.info, "observation.state", state)
        proprio = np.zeros((count, 7), np.float32) if state is None else state
        stored = np.zeros((count, 0), np.float32) if action is None else action
        whole = Episode(
            episode_id=f"{self.info.name}-{index:06d}",
            instruction=self._instruction(example),
            images=frames,
            proprio_TP=proprio_of_joints(proprio, self.info.robot) if joints and state is not None else proprio,
            actions_TA=actions_of(self.info, stored, state[0] if joints and state is not None else None)[:-1],
            time_ns_T=np.round(np.arange(count) * 1e9 / self.fps).astype(np.int64),
            metadata={"source": self.info.name, "fps": self.fps, "cameras": self.cameras,
                      "proprioception": state is not None},
        )  # fmt: skip
        return check_sizes(at_control_rate(shifted(whole, self.info.lag), self.fps, self.info), self.info)

    def _read_cameras(self) -> list[str]:
        if self.camera is None and self.cameras:
            return self.cameras if self.every_camera else self.cameras[:1]
        if self.camera not in self.cameras:
            raise CorruptError(
                f"dataset {self.info.name} has the cameras {self.cameras}, not {self.camera!r}; --camera"
            )
        return [self.camera] if self.camera else []

    def _frames(self, example: Example, camera: str) -> npt.NDArray[np.uint8]:
        stored = example[f"steps/observation/{camera}"]
        return np.stack([decode_picture(bytes(data), f"{camera} {n}", self.size) for n, data in enumerate(stored)])

    def _columns(self, example: Example, option: str, default: str, declared: str | None) -> FloatArray | None:
        numbers = {name: one for name, one in self.features.items() if one["dtype"] != "image"}
        columns = choose(numbers, self.info, option, default, declared)
        return None if columns is None else columns.of(self._array(example, columns.feature).astype(np.float32))

    def _array(self, example: Example, name: str) -> npt.NDArray[Any]:
        """(T, D) numbers of a feature, whatever they are stored as."""
        described, stored = self.features[name], example[f"steps/{name.replace('.', '/')}"]
        if isinstance(stored, np.ndarray):
            return stored.reshape(-1, *described["shape"])
        unpacked = [zlib.decompress(data) if described["encoding"] == "zlib" else bytes(data) for data in stored]
        return np.stack([_numbers(data, described["dtype"]).reshape(described["shape"]) for data in unpacked])

    def _instruction(self, example: Example) -> str:
        for name in _WORDS:
            stored = example.get(name)
            if (
                isinstance(stored, list)
                and stored
                and (text := bytes(stored[0]).decode("utf-8", errors="replace").strip())
            ):
                return text
        return "unknown"

    @cached_property
    def _offsets(self) -> dict[Path, list[int]]:
        return {}

    def _record(self, index: int) -> bytes:
        for path, length in self.shards:
            if index < length:
                if path not in self._offsets:
                    self._offsets[path] = offsets(path)
                return record(path, self._offsets[path][index])
            index -= length
        raise CorruptError(f"dataset {self.info.name} has {len(self)} episodes")


def _flat(feature: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """Features by their dotted names."""
    if "featuresDict" in feature:
        inner = feature["featuresDict"]["features"].items()
        return [found for key, one in inner for found in _flat(one, f"{name}.{key}" if name else key)]
    for kind in ("image", "tensor"):
        if kind in feature:
            shape = [int(side) for side in feature[kind].get("shape", {}).get("dimensions", [])]
            dtype = "image" if kind == "image" else feature[kind].get("dtype", "")
            return [(name, {"dtype": dtype, "shape": shape, "encoding": feature[kind].get("encoding", "none")})]
    return [(name, {"dtype": "string", "shape": [1], "encoding": "none"})]


def _numbers(data: bytes, dtype: str) -> npt.NDArray[Any]:
    """Numbers stored as bytes; a bfloat16 is the upper half of a float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))

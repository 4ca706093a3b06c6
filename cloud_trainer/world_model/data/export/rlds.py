"""Episodes as an RLDS dataset that TensorFlow Datasets reads, without TensorFlow.

A step holds an observation and the action commanded after it, so an episode of T steps is T+1 of RLDS's; the last one,
`is_last`, has an action that moves nothing. One TFRecord file belongs to an episode. Pictures are the recorded JPEGs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cloud_trainer.world_model.data.export.layout import DatasetLayout, held_last, kept_of, noted
from cloud_trainer.world_model.data.export.staging import Row, Staging
from cloud_trainer.world_model.data.tf_records import Feature, encode_example, framed
from gymnast_core.episodes.recording import Recording
from gymnast_core.json_values import JsonObject
from gymnast_core.types import Outcome

VERSION = "1.0.0"
OWN = "episode_metadata/gymnast"
"""What RLDS has no place for, as JSON."""
JOINTS, RATES = "joint_position", "joint_velocity"
_CLASSES = "tensorflow_datasets.core.features"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclass
class RldsWriter:
    """Writes episodes one after the other.

    Attributes:
        staging: where to.
        layout: what all episodes have in common.
    """

    staging: Staging
    layout: DatasetLayout

    def add(self, recording: Recording) -> None:
        """Write one episode's file, then note it."""
        path = self.staging.path(f"{VERSION}/{self._shard(len(self.staging.rows), 0)}")
        data = framed(encode_example(_features_of(recording, self.layout)))
        path.write_bytes(data)
        self.staging.commit({**noted(recording, self.layout), "bytes": len(data)}, [path])

    def finish(self) -> None:
        """Give the files their names, which say how many there are, and describe them."""
        rows, folder = self.staging.rows, self.staging.folder / VERSION
        for number in range(len(rows)):
            (found,) = folder.glob(f"*.tfrecord-{number:05d}-of-*")  # named already, where a finish was cut
            found.rename(folder / self._shard(number, len(rows)))
        split = {
            "name": "train", "filepathTemplate": _TEMPLATE, "shardLengths": ["1"] * len(rows),
            "numBytes": str(sum(row["bytes"] for row in rows)),
        }  # fmt: skip
        described = {
            "name": self._name, "version": VERSION, "fileFormat": "tfrecord", "splits": [split],
            "description": f"Recorded with Gymnast at {self.layout.fps} Hz.", "releaseNotes": {VERSION: "As exported."},
        }  # fmt: skip
        (folder / "features.json").write_text(json.dumps(self._described(), indent=4), encoding="utf-8")
        (folder / "dataset_info.json").write_text(json.dumps(described, indent=4), encoding="utf-8")

    @property
    def _name(self) -> str:
        """Of the folder, as TensorFlow Datasets takes names."""
        plain = re.sub(r"[^a-z0-9]+", "_", self.staging.out.name.lower()).strip("_")
        return plain if plain[:1].isalpha() else f"set_{plain}".rstrip("_")

    def _shard(self, number: int, of: int) -> str:
        return f"{self._name}-train.tfrecord-{number:05d}-of-{of:05d}"

    def _described(self) -> JsonObject:
        seen: Row = {
            camera: {"pythonClassName": f"{_CLASSES}.image_feature.Image", "image": {
                "shape": {"dimensions": [str(height), str(width), "3"]}, "dtype": "uint8", "encodingFormat": "jpeg",
            }} for camera, (height, width) in self.layout.cameras.items()
        }  # fmt: skip
        seen |= {"state": _tensor("float32", 7), "elapsed_ns": _tensor("int64")}
        if self.layout.joints is not None:
            seen[JOINTS] = _tensor("float64", len(self.layout.joints), "bytes")
            seen |= {RATES: _tensor("float64", len(self.layout.joints), "bytes")} if self.layout.rates else {}
        steps: JsonObject = {
            "observation": _group(seen), "action": _tensor("float32", 7), "requested_action": _tensor("float32", 7),
            "reward": _tensor("float32"), "discount": _tensor("float32"), "language_instruction": _TEXT,
            "policy_version": _TEXT, **{name: _tensor("bool") for name in ("is_first", "is_last", "is_terminal")},
        }  # fmt: skip
        about = _group(dict.fromkeys(("episode_id", "outcome", "labelled_by", "robot", "gymnast"), _TEXT))
        kind = f"{_CLASSES}.dataset_feature.Dataset"
        sequence: JsonObject = {"pythonClassName": kind, "sequence": {"feature": _group(steps), "length": "-1"}}
        return _group({"steps": sequence, "episode_metadata": about})


_TEXT: JsonObject = {"pythonClassName": f"{_CLASSES}.text_feature.Text", "text": {}}


def _group(features: JsonObject) -> JsonObject:
    return {"pythonClassName": f"{_CLASSES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}


def _tensor(dtype: str, width: int = 0, encoding: str = "none") -> JsonObject:
    shape: JsonObject = {"dimensions": [str(width)]} if width else {}
    kind = "tensor_feature.Tensor" if width else "scalar.Scalar"
    return {"pythonClassName": f"{_CLASSES}.{kind}", "tensor": {"shape": shape, "dtype": dtype, "encoding": encoding}}


def _features_of(recording: Recording, layout: DatasetLayout) -> Mapping[str, Feature]:
    """The flat features of one episode; what is kept in 64 bits goes as bytes, a float list has 32."""
    count, header, end = recording.steps + 1, recording.header, recording.end
    last_T = np.arange(count) == count - 1
    success = last_T & (end.outcome is Outcome.SUCCESS)
    found: dict[str, Feature] = {
        "steps/action": held_last(recording.commanded_TA),
        "steps/requested_action": held_last(recording.requested_TA),
        "steps/observation/state": recording.proprio_TP,
        "steps/observation/elapsed_ns": recording.time_ns_T - recording.time_ns_T[0],
        "steps/reward": success.astype(np.float32),
        "steps/discount": np.ones(count, np.float32),
        "steps/is_first": (np.arange(count) == 0).astype(np.int64),
        "steps/is_last": last_T.astype(np.int64),
        "steps/is_terminal": (last_T & (not end.truncated_reason)).astype(np.int64),
        "steps/language_instruction": [header.instruction.encode()] * count,
        "steps/policy_version": [version.encode() for version in (*recording.versions, "")],
        OWN: [json.dumps(kept_of(recording)).encode()],
    }
    found |= {f"steps/observation/{camera}": recording.jpegs[camera] for camera in layout.cameras}
    for name, rows in ((JOINTS, recording.joints_TJ), (RATES, recording.rates_TJ)):
        if rows is not None:
            found[f"steps/observation/{name}"] = [row.astype("<f8").tobytes() for row in rows]
    about = {"episode_id": header.episode_id, "outcome": end.outcome.value, "labelled_by": end.labelled_by,
             "robot": header.robot}  # fmt: skip
    return {**found, **{f"episode_metadata/{name}": [text.encode()] for name, text in about.items()}}

"""What the episodes of one dataset have in common, and what of an episode no column holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np

from cloud_trainer.world_model.data.export.staging import Row
from gymnast_core.episodes.messages import Annotation, EpisodeEnd, EpisodeHeader
from gymnast_core.episodes.reader import MAX_STEPS
from gymnast_core.episodes.recording import DoubleArray, Recording
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.json_values import JsonObject
from gymnast_core.pictures import jpeg_size
from gymnast_core.spec import JOINT_NAMES
from gymnast_core.types import FloatArray, IntArray, Outcome


class LayoutError(ConfigError):
    """An episode does not fit into one dataset with the others; names it and what differs."""


@dataclass(frozen=True)
class DatasetLayout:
    """What all episodes of a dataset share.

    Attributes:
        fps: control rate, whole Hz.
        cameras: name -> (height, width).
        joints: names of the joints recorded; None for none.
        rates: whether their velocities are there.
        robot: of the first episode.
    """

    fps: int
    cameras: Mapping[str, tuple[int, int]]
    joints: tuple[str, ...] | None
    rates: bool
    robot: str

    @staticmethod
    def of(recording: Recording) -> DatasetLayout:
        """Return that of one episode.

        Raises:
            LayoutError: it cannot be an episode of any dataset.
        """
        header = recording.header
        if recording.steps < 1:
            raise LayoutError(f"episode {header.episode_id} has no step; leave it out with --skip-broken")
        if header.control_hz != round(header.control_hz):
            raise LayoutError(f"episode {header.episode_id} has {header.control_hz:g} steps a second, no whole number")
        sizes = {camera: {jpeg_size(jpeg) for jpeg in jpegs} for camera, jpegs in recording.jpegs.items()}
        if mixed := {camera: sorted(found) for camera, found in sizes.items() if len(found) > 1}:
            raise LayoutError(f"episode {header.episode_id} has frames of several sizes: {mixed}")
        joints = None if recording.joints_TJ is None else JOINT_NAMES[: recording.joints_TJ.shape[1]]
        cameras = {camera: found.pop() for camera, found in sizes.items()}
        return DatasetLayout(round(header.control_hz), cameras, joints, recording.rates_TJ is not None, header.robot)

    def require(self, recording: Recording) -> None:
        """Refuse an episode that differs.

        Raises:
            LayoutError: names the episode, what it has and what the others have.
        """
        other = DatasetLayout.of(recording)
        for name in ("fps", "cameras", "joints", "rates"):
            if (here := getattr(other, name)) != (all_ := getattr(self, name)):
                raise LayoutError(
                    f"episode {recording.header.episode_id} has {name} {here}, those before it {all_}; one dataset has "
                    "one layout: export it to another folder, or leave it out with --skip-broken"
                )

    def to_json(self) -> JsonObject:
        """JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Row) -> DatasetLayout:
        """Undo to_json."""
        joints = None if values["joints"] is None else tuple(values["joints"])
        cameras = {camera: (size[0], size[1]) for camera, size in values["cameras"].items()}
        return DatasetLayout(values["fps"], cameras, joints, values["rates"], values["robot"])


def held_last(actions_TA: FloatArray) -> FloatArray:
    """(T+1, 7): the actions, and one more that moves nothing and holds the gripper."""
    still_A = np.zeros(7, np.float32)
    still_A[6] = actions_TA[-1, 6]
    return np.concatenate((actions_TA, still_A[None]))


NOTED = ("episode_id", "layout", "outcome", "labelled_by", "instruction", "robot", "steps", "versions")


def noted(recording: Recording, layout: DatasetLayout) -> JsonObject:
    """Return what the journal and the card of an export say of an episode, under the names NOTED."""
    header, end = recording.header, recording.end
    return {
        "episode_id": header.episode_id, "layout": layout.to_json(), "outcome": end.outcome.value,
        "labelled_by": end.labelled_by, "instruction": header.instruction, "robot": header.robot,
        "steps": recording.steps, "versions": sorted(set(recording.versions)),
    }  # fmt: skip


def kept_of(recording: Recording) -> JsonObject:
    """Return what no column of a dataset holds, as JSON values; see restored()."""
    return {
        "header": asdict(recording.header),
        "end": {**asdict(recording.end), "outcome": recording.end.outcome.value},
        "versions": [[version, len(list(same))] for version, same in groupby(recording.versions)],
        "annotations": [asdict(note) for note in recording.annotations],
        "start_ns": int(recording.time_ns_T[0]),
        "captured_ns": {
            camera: (taken - recording.time_ns_T).tolist()
            for camera, taken in recording.captured_ns.items()
            if (taken != recording.time_ns_T).any()
        },
    }


@dataclass(frozen=True)
class Kept:
    """kept_of(), checked: somebody may have written the dataset by hand."""

    header: EpisodeHeader
    end: EpisodeEnd
    versions: tuple[str, ...]
    annotations: tuple[Annotation, ...]
    start_ns: int
    captured_ns: Mapping[str, Sequence[int]]

    @staticmethod
    def of(values: Row) -> Kept:
        """Parse kept_of().

        Raises:
            CorruptError: a part is missing or makes no sense.
        """
        try:
            header = EpisodeHeader(**{**values["header"], "cameras": tuple(values["header"]["cameras"])})
            end = EpisodeEnd(**{**values["end"], "outcome": Outcome(values["end"]["outcome"])})
            versions = tuple(str(text) for text, count in values["versions"] for _ in range(min(int(count), MAX_STEPS)))
            notes = tuple(Annotation(**note) for note in values["annotations"])
            checked = EpisodeHeader.from_json(header.to_json()), EpisodeEnd.from_json(end.to_json())
            return Kept(*checked, versions, notes, int(values["start_ns"]), dict(values["captured_ns"]))
        except (TypeError, KeyError, ValueError) as error:
            raise CorruptError(
                f"what an export kept of an episode is damaged: {type(error).__name__}: {error}"
            ) from error

    def recording(
        self, jpegs: Mapping[str, Sequence[bytes]], *, state_TP: FloatArray, action_TA: FloatArray,
        requested_TA: FloatArray, elapsed_T: IntArray, joints_TJ: DoubleArray | None, rates_TJ: DoubleArray | None,
    ) -> Recording:  # fmt: skip
        """Return the recording that was exported.

        Args:
            jpegs: camera -> T+1 JPEG files.
            state_TP: (T+1, 7).
            action_TA: (T+1, 7), with the one that held the gripper.
            requested_TA: (T+1, 7) likewise.
            elapsed_T: (T+1,) nanoseconds since the first observation.
            joints_TJ: (T+1, J).
            rates_TJ: (T+1, J).

        Raises:
            ShapeError: it has another length than what was kept.
        """
        time_ns_T = self.start_ns + elapsed_T
        taken = {camera: time_ns_T + np.array(late, np.int64) for camera, late in self.captured_ns.items()}
        return Recording(
            header=self.header,
            end=self.end,
            jpegs=jpegs,
            proprio_TP=state_TP.astype(np.float32),
            time_ns_T=time_ns_T,
            commanded_TA=action_TA[:-1].astype(np.float32),
            requested_TA=requested_TA[:-1].astype(np.float32),
            versions=self.versions,
            joints_TJ=joints_TJ,
            rates_TJ=rates_TJ,
            captured_ns={camera: taken.get(camera, time_ns_T) for camera in self.header.cameras},
            annotations=self.annotations,
        )

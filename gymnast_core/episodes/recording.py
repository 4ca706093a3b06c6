"""An episode with everything that a dataset of another format should keep of it: pictures as the bytes they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gymnast_core.episodes import encoding, messages
from gymnast_core.episodes.messages import OUTCOME_TOPIC, Annotation, EpisodeEnd, EpisodeHeader
from gymnast_core.episodes.reader import NO_END, aligned_steps, iterate_messages, kept, read_raw
from gymnast_core.episodes.writer import EpisodeWriter, encode_jpeg
from gymnast_core.errors import CorruptError, ShapeError
from gymnast_core.types import Episode, FloatArray, IntArray, Outcome

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recording:
    """One episode as it was recorded; T steps, T+1 observations.

    Attributes:
        header: what was known before the first step.
        end: label and truncation.
        jpegs: camera -> T+1 JPEG files.
        proprio_TP: (T+1, 7) float32.
        time_ns_T: (T+1,) int64.
        commanded_TA: (T, 7) float32, after the gate.
        requested_TA: (T, 7) float32, what the policy asked for.
        versions: T policy versions.
        joints_TJ: (T+1, J) float64 [rad]; None where none were recorded.
        rates_TJ: (T+1, J) float64 [rad/s]; None likewise.
        captured_ns: camera -> (T+1,) int64, when it took each frame.
        annotations: in order.
    """

    header: EpisodeHeader
    end: EpisodeEnd
    jpegs: Mapping[str, Sequence[bytes]]
    proprio_TP: FloatArray
    time_ns_T: IntArray
    commanded_TA: FloatArray
    requested_TA: FloatArray
    versions: Sequence[str]
    joints_TJ: DoubleArray | None = None
    rates_TJ: DoubleArray | None = None
    captured_ns: Mapping[str, IntArray] = field(default_factory=dict)
    annotations: Sequence[Annotation] = ()

    def __post_init__(self) -> None:
        """Refuse parts that do not line up."""
        steps = len(self.commanded_TA)
        observed = {f"camera {name}": len(frames) for name, frames in self.jpegs.items()}
        observed |= {f"times of camera {name}": len(times) for name, times in self.captured_ns.items()}
        observed |= {"proprio_TP": len(self.proprio_TP), "time_ns_T": len(self.time_ns_T)}
        observed |= {name: len(rows) for name, rows in self._joint_rows().items()}
        acted = {"requested_TA": len(self.requested_TA), "versions": len(self.versions)}
        wrong = {name: count for name, count in observed.items() if count != steps + 1}
        wrong |= {name: count for name, count in acted.items() if count != steps}
        if wrong:
            raise ShapeError(f"recording {self.header.episode_id} has {steps} steps, which do not fit {wrong}")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.commanded_TA)

    def _joint_rows(self) -> dict[str, DoubleArray]:
        found = {"joints_TJ": self.joints_TJ, "rates_TJ": self.rates_TJ}
        return {name: rows for name, rows in found.items() if rows is not None}


def read_recording(path: Path, *, compressed: bool = False) -> Recording:
    """Read an episode file without decoding its pictures; one cut short is aligned to its last complete step.

    Args:
        path: a finished file.
        compressed: unpack chunks that somebody compressed afterwards: for files a user names himself.

    Raises:
        CorruptError: broken, inconsistent, or with joints at some observations only.
    """
    raw = read_raw(path, kept, compressed=compressed)
    assert raw.header is not None  # read_raw refuses files without one
    steps = aligned_steps(path, raw)
    stamps = raw.stamps_ns[: steps + 1]
    joints, rates, captured = _sensors(path, stamps, compressed)
    no_steps = np.zeros((0, 7), np.float32)
    return Recording(
        header=raw.header,
        end=raw.end or NO_END,
        jpegs={name: [bytes(jpeg) for jpeg in raw.frames[name][: steps + 1]] for name in raw.header.cameras},
        proprio_TP=np.stack(raw.proprio[: steps + 1]),
        time_ns_T=np.array(stamps, np.int64),
        commanded_TA=np.stack(raw.commanded[:steps]) if steps else no_steps,
        requested_TA=np.stack(raw.requested[:steps]) if steps else no_steps,
        versions=tuple(raw.versions[:steps]),
        joints_TJ=joints,
        rates_TJ=rates,
        captured_ns={name: captured[name][: steps + 1] for name in raw.header.cameras},
        annotations=tuple(note for note in raw.annotations if note.stamp_ns <= stamps[-1]),
    )


def _sensors(
    path: Path, stamps: Sequence[int], compressed: bool
) -> tuple[DoubleArray | None, DoubleArray | None, dict[str, IntArray]]:
    """Joints and their rates at these observations, and when each camera took its frames."""
    wanted, rows, captured = set(stamps), dict[int, tuple[list[float], list[float]]](), dict[str, list[int]]()
    for topic, _, data in iterate_messages(path, compressed=compressed):
        if topic == messages.JOINTS_TOPIC:
            stamp, position, rate = encoding.decode_joints(data)
            if stamp in wanted:
                rows[stamp] = (position, rate)
        elif topic.startswith(messages.IMAGE_PREFIX) and topic.endswith(messages.IMAGE_SUFFIX):
            camera = topic[len(messages.IMAGE_PREFIX) : -len(messages.IMAGE_SUFFIX)]
            captured.setdefault(camera, []).append(encoding.decode_image(data)[0])
    times = {name: np.array(taken, np.int64) for name, taken in captured.items()}
    if not rows:
        return None, None, times
    widths = {(len(position), len(rate)) for position, rate in rows.values()}
    if len(rows) != len(stamps) or len(widths) > 1:
        raise CorruptError(f"{path} has joints at {len(rows)} of {len(stamps)} observations, {sorted(widths)} wide")
    joints = np.array([rows[stamp][0] for stamp in stamps])
    rates = np.array([rows[stamp][1] for stamp in stamps])
    return joints, rates if rates.size else None, times


def write_recording(folder: Path, recording: Recording) -> Path:
    """Write <folder>/<episode_id>.mcap and return it; pictures go in byte for byte.

    Raises:
        ContractError: the file exists.
    """
    writer = EpisodeWriter(folder, recording.header)
    notes = sorted(recording.annotations, key=lambda note: note.stamp_ns)
    try:
        writer.begin(int(recording.time_ns_T[0]))
        for step, stamp in enumerate(recording.time_ns_T.tolist()):
            _write_observation(writer, recording, step, stamp)
            following = recording.time_ns_T[step + 1] if step < recording.steps else np.inf
            while notes and notes[0].stamp_ns < following:
                writer.add_annotation(notes.pop(0))
            if step < recording.steps:
                asked_A, version = recording.requested_TA[step], recording.versions[step]
                writer.add_action(stamp, recording.commanded_TA[step], asked_A, version)
        return writer.finish(recording.end)
    finally:
        writer.close()


def labelled_copy(path: Path, folder: Path, outcome: Outcome, labelled_by: str) -> Path:
    """Return an episode file with this label: the file itself where it has it, else a copy in a folder.

    Raises:
        CorruptError: the file is broken.
    """
    found = list(iterate_messages(path, compressed=True))
    if not found or found[0][0] != messages.HEADER_TOPIC:
        raise CorruptError(f"{path} does not begin with an episode header: it is no episode")
    ends = [EpisodeEnd.from_json(encoding.decode_string(data)) for topic, _, data in found if topic == OUTCOME_TOPIC]
    end = ends[-1] if ends else NO_END
    if (end.outcome, end.labelled_by) == (outcome, labelled_by):
        return path
    writer = EpisodeWriter(folder, EpisodeHeader.from_json(encoding.decode_string(found[0][2])))
    try:
        for topic, stamp_ns, data in found:
            if topic != OUTCOME_TOPIC:
                writer.add(topic, stamp_ns, data)
        return writer.finish(replace(end, outcome=outcome, labelled_by=labelled_by))
    finally:
        writer.close()


def _write_observation(writer: EpisodeWriter, recording: Recording, step: int, stamp: int) -> None:
    for camera, frames in recording.jpegs.items():
        taken = recording.captured_ns.get(camera)
        writer.add_jpeg(camera, stamp, frames[step], None if taken is None else int(taken[step]))
    writer.add_proprio(stamp, recording.proprio_TP[step])
    if recording.joints_TJ is not None:
        rates = () if recording.rates_TJ is None else recording.rates_TJ[step].tolist()
        writer.add_joints(stamp, recording.joints_TJ[step].tolist(), rates)


def recorded_as(episode: Episode, *, robot: str, created_ns: int = 0, control_hz: float = 5.0) -> Recording:
    """Return an episode that is in memory as a recording: its frames become JPEGs, its actions were also asked for.

    Args:
        episode: in our convention.
        robot: which arm.
        created_ns: wall clock, where known.
        control_hz: control rate.
    """
    seed = episode.metadata.get("seed")
    header = EpisodeHeader(
        episode.episode_id, episode.instruction, robot, created_ns, tuple(episode.images), control_hz,
        seed if isinstance(seed, int) else None, dict(episode.metadata),
    )  # fmt: skip
    return Recording(
        header=header,
        end=EpisodeEnd(episode.outcome, episode.labelled_by, episode.truncated_reason),
        jpegs={camera: [encode_jpeg(frame) for frame in frames] for camera, frames in episode.images.items()},
        proprio_TP=episode.proprio_TP,
        time_ns_T=episode.time_ns_T,
        commanded_TA=episode.actions_TA,
        requested_TA=episode.actions_TA,
        versions=tuple(episode.policy_versions) or ("",) * episode.steps,
    )


def write_episode(folder: Path, episode: Episode, *, robot: str, created_ns: int = 0, control_hz: float = 5.0) -> Path:
    """Write an episode that is in memory (converters, tests) and return its file; see recorded_as."""
    made = recorded_as(episode, robot=robot, created_ns=created_ns, control_hz=control_hz)
    return write_recording(folder, made)

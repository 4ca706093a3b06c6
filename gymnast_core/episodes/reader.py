"""Reads episode files; whatever a stranger or a broken disk put into them ends in a CorruptError."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gymnast_core.episodes import encoding, messages
from gymnast_core.episodes.bag import MAX_RECORD_BYTES, iterate_bag
from gymnast_core.episodes.messages import Annotation, EpisodeEnd, EpisodeHeader
from gymnast_core.errors import ContractError, CorruptError
from gymnast_core.pictures import decode_jpeg
from gymnast_core.types import ByteArray, Episode, FloatArray

MAX_STEPS = 20_000
MAX_TOPICS = 64
_EVERY_RATE = (messages.JOINTS_TOPIC, messages.POSE_TOPIC)
MAX_OTHERS = 20 * MAX_STEPS
"""Messages on topics that are not held in memory, of which there may be several a step."""
NO_END = EpisodeEnd(truncated_reason="no end record")


@dataclass(frozen=True)
class EpisodeSummary:
    """An episode without its pixels.

    Attributes:
        header: what was known before the first step.
        end: label and truncation; the default one when the file has none.
        steps: T, complete steps.
        policy_versions: distinct versions, in order of appearance.
    """

    header: EpisodeHeader
    end: EpisodeEnd
    steps: int
    policy_versions: tuple[str, ...]


@dataclass
class RawEpisode:
    """Messages of one file, by meaning."""

    header: EpisodeHeader | None = None
    end: EpisodeEnd | None = None
    frames: dict[str, list[Any]] = field(default_factory=dict)
    proprio: list[FloatArray] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    commanded: list[FloatArray] = field(default_factory=list)
    requested: list[FloatArray] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)


def iterate_messages(
    path: Path, *, until_cut: bool = False, compressed: bool = False
) -> Iterator[tuple[str, int, bytes]]:
    """Yield (topic, time_ns, CDR bytes) in file order.

    Args:
        path: an episode file, finished or not.
        until_cut: stop quietly where the file ends in the middle or its bytes go bad (recovery), instead of raising.
        compressed: unpack chunks that somebody compressed afterwards; what robots ship never is.

    Raises:
        CorruptError: not MCAP, a failed CRC, a compressed chunk, a record over MAX_RECORD_BYTES, or an early end.
    """
    for message in iterate_bag(path, compressed=compressed, until_cut=until_cut, limit=MAX_RECORD_BYTES):
        yield message.topic, message.time_ns, message.data


def read_summary(path: Path) -> EpisodeSummary:
    """Read everything about an episode except its pixels.

    Raises:
        CorruptError: see read_episode.
    """
    return _summary(read_raw(path))


def _summary(raw: RawEpisode) -> EpisodeSummary:
    assert raw.header is not None  # read_raw refuses files without one
    steps = min(len(raw.commanded), len(raw.proprio) - 1)
    return EpisodeSummary(raw.header, raw.end or EpisodeEnd(), steps, tuple(dict.fromkeys(raw.versions[:steps])))


def read_episode(
    path: Path,
    cameras: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    *,
    compressed: bool = False,
) -> Episode:
    """Read an episode into memory; one cut short is aligned to its last complete step.

    Args:
        path: a finished file.
        cameras: which ones to decode; None decodes all.
        image_size: (H, W) to resize frames to (area averaging); None keeps what was recorded.
        compressed: unpack chunks that somebody compressed afterwards: for files a user names himself.

    Returns:
        The episode; actions are what was commanded after the gate.

    Raises:
        CorruptError: broken, inconsistent, of another layout, or holding values no arm can have.
        ContractError: a camera is asked for that the episode does not have.
    """
    raw = read_raw(path, kept if cameras is None or cameras else _counted, compressed=compressed)
    assert raw.header is not None  # read_raw refuses files without one
    known = raw.header.cameras
    wanted = known if cameras is None else tuple(cameras)
    if missing := [camera for camera in wanted if camera not in known]:
        raise ContractError(f"{path} has cameras {known}, not {missing}")
    steps = aligned_steps(path, raw)
    return _assembled(raw, steps, {name: _decode_frames(raw.frames[name][: steps + 1], image_size) for name in wanted})


def read_film(path: Path, most: int, width: int) -> ByteArray:
    """Read at most so many frames of the first camera, evenly spread, first and last included, thinned to a width.

    The file is gone through twice and one frame is held at its full size at a time: a page may ask for any episode.

    Args:
        path: an episode file.
        most: frames.
        width: pixels of all of them side by side; rows and columns are left out until they fit.

    Returns:
        (F, H, W, 3) uint8 RGB.

    Raises:
        CorruptError: see read_episode.
    """
    raw = read_raw(path, _counted)
    assert raw.header is not None  # read_raw refuses files without one
    count, topic = aligned_steps(path, raw) + 1, messages.image_topic(raw.header.cameras[0])
    picked = set(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist())
    frames = (data for found, _, data in iterate_messages(path) if found == topic)
    thinned = []
    for number, data in enumerate(frames):
        if number in picked:
            image = decode_jpeg(encoding.decode_image(data)[1])
            step = -(-image.shape[1] * len(picked) // width)
            thinned.append(image[::step, ::step].copy())
    if len({image.shape for image in thinned}) > 1:
        raise CorruptError(f"{path}: frames of one camera differ in size")
    return np.stack(thinned)


def check_episode(path: Path) -> tuple[EpisodeSummary, Episode]:
    """As read_episode, but every frame is decoded and dropped at once: all but the images, in little memory.

    Raises:
        CorruptError: see read_episode.
    """
    raw = read_raw(path, lambda jpeg: decode_jpeg(jpeg).shape)
    for camera, shapes in raw.frames.items():
        if len(set(shapes)) > 1:
            raise CorruptError(f"frames of camera {camera!r} differ in size: {sorted(set(shapes))}")
    return _summary(raw), _assembled(raw, aligned_steps(path, raw), {})


def aligned_steps(path: Path, raw: RawEpisode) -> int:
    """Return how many complete steps there are.

    Raises:
        CorruptError: not one observation, or an episode that ran to its end with counts that do not fit.
    """
    header, end = raw.header, raw.end or NO_END
    assert header is not None  # read_raw refuses files without one
    counts = [len(raw.proprio), *(len(raw.frames.get(camera, ())) for camera in header.cameras)]
    steps = min(len(raw.commanded), min(counts) - 1)
    if steps < 0:
        raise CorruptError(f"{path} holds no complete observation")
    if not end.truncated_reason and (len(raw.commanded) != steps or set(counts) != {steps + 1}):
        raise CorruptError(f"{path}: {len(raw.commanded)} actions do not match observations {counts}")
    return steps


def _assembled(raw: RawEpisode, steps: int, images: dict[str, ByteArray]) -> Episode:
    header, end = raw.header, raw.end or NO_END
    assert header is not None  # read_raw refuses files without one
    return Episode(
        episode_id=header.episode_id,
        instruction=header.instruction,
        images=images,
        proprio_TP=np.stack(raw.proprio[: steps + 1]),
        actions_TA=np.stack(raw.commanded[:steps]) if steps else np.zeros((0, 7), np.float32),
        time_ns_T=np.array(raw.stamps_ns[: steps + 1], np.int64),
        outcome=end.outcome,
        labelled_by=end.labelled_by,
        policy_versions=tuple(raw.versions[:steps]),
        truncated_reason=end.truncated_reason,
        metadata={**header.metadata, **end.metadata, "robot": header.robot, "seed": header.seed,
                  "created_ns": header.created_ns, **_noted(raw)},
    )  # fmt: skip


def _noted(raw: RawEpisode) -> dict[str, object]:
    """Annotations as JSON values, where there are any."""
    return {"annotations": [asdict(note) for note in raw.annotations]} if raw.annotations else {}


def kept(jpeg: memoryview) -> memoryview:
    """A frame as the JPEG it is."""
    return jpeg


def _counted(jpeg: memoryview) -> None:
    """A frame of which nothing is held but that it is there."""


def read_raw(path: Path, frame: Callable[[memoryview], Any] | None = None, *, compressed: bool = False) -> RawEpisode:
    """Everything in a file; of each JPEG what `frame` makes of it, nothing when that is None."""
    raw = RawEpisode()
    last_ns, counts = -1, Counter[str]()
    for topic, time_ns, data in iterate_messages(path, compressed=compressed):
        if time_ns < last_ns:
            raise CorruptError(f"{path}: time goes back from {last_ns} to {time_ns} ns on {topic}")
        last_ns = time_ns
        if topic.startswith(messages.IMAGE_PREFIX) and topic.endswith(messages.IMAGE_SUFFIX):
            if frame is not None:
                camera = topic[len(messages.IMAGE_PREFIX) : -len(messages.IMAGE_SUFFIX)]
                raw.frames.setdefault(camera, []).append(frame(encoding.decode_image(data)[1]))
        else:
            _sort_in(raw, topic, data)
        counts[topic] += 1
        if counts[topic] > (MAX_OTHERS if topic in _EVERY_RATE else MAX_STEPS + 1) or len(counts) > MAX_TOPICS:
            raise CorruptError(f"{path} has more than {MAX_STEPS} steps or {MAX_TOPICS} topics, on {topic[:80]!a}")
    if raw.header is None:
        raise CorruptError(f"{path} has no episode header: it is no episode, but another MCAP file, or a flight record")
    if any(later <= earlier for earlier, later in zip(raw.stamps_ns, raw.stamps_ns[1:], strict=False)):
        raise CorruptError(f"{path}: observation times do not increase")
    return raw


def _sort_in(raw: RawEpisode, topic: str, data: bytes) -> None:
    if topic == messages.HEADER_TOPIC:
        raw.header = EpisodeHeader.from_json(encoding.decode_string(data))
    elif topic == messages.OUTCOME_TOPIC:
        raw.end = EpisodeEnd.from_json(encoding.decode_string(data))
    elif topic == messages.PROPRIO_TOPIC:
        stamp_ns, proprio_P = encoding.decode_named(data, messages.PROPRIO_NAMES)
        raw.stamps_ns.append(stamp_ns)
        raw.proprio.append(proprio_P)
    elif topic == messages.COMMANDED_TOPIC:
        raw.commanded.append(encoding.decode_named(data, messages.ACTION_NAMES)[1])
    elif topic == messages.REQUESTED_TOPIC:
        raw.requested.append(encoding.decode_named(data, messages.ACTION_NAMES)[1])
    elif topic == messages.ANNOTATION_TOPIC:
        raw.annotations.append(Annotation.from_json(encoding.decode_string(data)))
    elif topic == messages.VERSION_TOPIC:
        raw.versions.append(encoding.decode_string(data))


def _decode_frames(frames: Sequence[memoryview], image_size: tuple[int, int] | None) -> ByteArray:
    decoded = []
    for data in frames:
        image = decode_jpeg(data)
        if image_size is not None and image.shape[:2] != tuple(image_size):
            image = np.asarray(cv2.resize(image, image_size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        decoded.append(image)
    if len({image.shape for image in decoded}) > 1:
        raise CorruptError(f"frames of one camera differ in size: {sorted({image.shape for image in decoded})}")
    return np.stack(decoded)

"""Writes one episode as an MCAP file of standard ROS 2 messages that is readable after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mcap.writer import CompressionType, Writer

from gymnast_core.episodes import encoding, messages
from gymnast_core.episodes.channels import RosChannels
from gymnast_core.episodes.durable import PARTIAL_SUFFIX, PatientFile, move_durably
from gymnast_core.episodes.messages import Annotation, EpisodeEnd, EpisodeHeader
from gymnast_core.errors import ContractError
from gymnast_core.spec import JOINT_NAMES
from gymnast_core.types import ByteArray, FloatArray

CHUNK_BYTES = 256 * 1024
EPISODE_SUFFIX = ".mcap"
JPEG_QUALITY = 95


def encode_jpeg(image_HWC: ByteArray, quality: int = JPEG_QUALITY) -> bytes:
    """Compress an RGB image.

    Args:
        image_HWC: (H, W, 3) uint8.
        quality: JPEG quality 1..100.

    Raises:
        ContractError: not an RGB uint8 image.
    """
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
        raise ContractError(f"an image must be (H, W, 3) uint8, got {image_HWC.shape} {image_HWC.dtype}")
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ContractError(f"an image of {image_HWC.shape} cannot be a JPEG")
    return bytes(data)


class EpisodeWriter:
    """One episode being written: <folder>/<id>.mcap.partial until finish() renames it to <id>.mcap.

    Chunks of 256 KiB with a CRC each go to the file as they fill, so a crash costs at most the last one. Images are
    JPEG already, so chunks are not compressed again, which also leaves no room for decompression bombs.

    Args:
        folder: where the file goes; created when missing.
        header: what is known before the first step.
        jpeg_quality: of the frames.
    """

    def __init__(self, folder: Path, header: EpisodeHeader, *, jpeg_quality: int = JPEG_QUALITY) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._target = folder / f"{header.episode_id}{EPISODE_SUFFIX}"
        if self._target.exists():
            raise ContractError(f"{self._target} exists; an episode id is never used twice")
        self._partial = self._target.with_name(self._target.name + PARTIAL_SUFFIX)
        self._file = PatientFile(self._partial)
        self._quality = jpeg_quality
        self._header = header
        self._last_ns = 0
        self._mcap = Writer(
            self._file,  # all it uses is write, tell and flush
            chunk_size=CHUNK_BYTES,
            compression=CompressionType.NONE,
            enable_crcs=True,
        )
        self._channels = RosChannels(self._mcap)
        self._started = False

    @property
    def path(self) -> Path:
        """The file as it is called now."""
        return self._partial if self._partial.exists() else self._target

    @property
    def disk_full(self) -> bool:
        """True while a write waits for space."""
        return self._file.waiting

    def stop_waiting(self) -> None:
        """Let a write that waits for space fail with DiskFullError instead."""
        self._file.stop_waiting()

    def add(self, topic: str, stamp_ns: int, data: bytes) -> None:
        """Append one encoded message.

        Args:
            topic: where it belongs; its type is topic_type(topic).
            stamp_ns: its time; never earlier than the one before.
            data: CDR bytes.
        """
        if not self._started:  # not in the constructor: a full disk must not hold up the recording loop
            self._mcap.start(profile="ros2", library="gymnast")
            self._started = True
        self._last_ns = max(self._last_ns, stamp_ns)
        self._mcap.add_message(self._channels.of(topic, messages.topic_type(topic)), stamp_ns, data, stamp_ns)

    def flush(self) -> None:
        """End the chunk in progress early and hand it to the operating system: a killed process keeps what is in it."""
        self._mcap.flush()

    def begin(self, stamp_ns: int) -> None:
        """Write header and instruction, and put them on the disk before anything else."""
        self.add(messages.HEADER_TOPIC, stamp_ns, encoding.encode_string(self._header.to_json()))
        self.add(messages.INSTRUCTION_TOPIC, stamp_ns, encoding.encode_string(self._header.instruction))
        self._mcap.flush()

    def add_image(self, camera: str, stamp_ns: int, image_HWC: ByteArray, captured_ns: int | None = None) -> None:
        """Append one frame, compressed.

        Args:
            camera: its name.
            stamp_ns: of the observation it belongs to, and the message's time in the file.
            image_HWC: (H, W, 3) uint8 RGB.
            captured_ns: when the camera took it, in the message's header; None for at stamp_ns.
        """
        self.add_jpeg(camera, stamp_ns, encode_jpeg(image_HWC, self._quality), captured_ns)

    def add_jpeg(self, camera: str, stamp_ns: int, jpeg: bytes, captured_ns: int | None = None) -> None:
        """Append one frame that is a JPEG already, byte for byte; otherwise as add_image."""
        taken_ns = stamp_ns if captured_ns is None else captured_ns
        self.add(messages.image_topic(camera), stamp_ns, encoding.encode_image(taken_ns, camera, jpeg))

    def add_proprio(self, stamp_ns: int, proprio_P: FloatArray) -> None:
        """Append proprioception: the numbers, and the pose for viewers."""
        data = encoding.encode_named(stamp_ns, messages.PROPRIO_NAMES, proprio_P.tolist())
        self.add(messages.PROPRIO_TOPIC, stamp_ns, data)
        self.add(messages.POSE_TOPIC, stamp_ns, encoding.encode_pose(stamp_ns, proprio_P))

    def add_joints(self, stamp_ns: int, position_rad: Sequence[float], velocity_rad_s: Sequence[float] = ()) -> None:
        """Append the arm's joint state."""
        names = JOINT_NAMES[: len(position_rad)]
        data = encoding.encode_named(stamp_ns, names, list(position_rad), list(velocity_rad_s))
        self.add(messages.JOINTS_TOPIC, stamp_ns, data)

    def add_action(self, stamp_ns: int, commanded_A: FloatArray, requested_A: FloatArray, version: str) -> None:
        """Append what the policy asked for, what was commanded, and which policy it was."""
        for topic, action_A in (
            (messages.REQUESTED_TOPIC, requested_A),
            (messages.COMMANDED_TOPIC, commanded_A),
        ):
            self.add(topic, stamp_ns, encoding.encode_named(stamp_ns, messages.ACTION_NAMES, action_A.tolist()))
        self.add(messages.VERSION_TOPIC, stamp_ns, encoding.encode_string(version))

    def add_annotation(self, note: Annotation) -> None:
        """Append what somebody noted."""
        self.add(messages.ANNOTATION_TOPIC, note.stamp_ns, encoding.encode_string(note.to_json()))

    def finish(self, end: EpisodeEnd) -> Path:
        """Write the label and the index, make it durable, and give the file its final name.

        Raises:
            DiskFullError: stop_waiting() was called while there was no space; the partial file stays.
        """
        self.add(messages.OUTCOME_TOPIC, self._last_ns, encoding.encode_string(end.to_json()))
        self._mcap.finish()
        self._file.sync()
        move_durably(self._partial, self._target)
        self._file.close()
        return self._target

    def close(self) -> None:
        """Leave the partial file as it is, for recover()."""
        self._file.close()

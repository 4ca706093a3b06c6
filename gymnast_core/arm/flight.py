"""The last seconds before a stop: commands, decisions, states and pictures, written when a stop has to be explained."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mcap.writer import Writer

from gymnast_core.episodes import encoding
from gymnast_core.episodes.channels import RosChannels
from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.types import ByteArray

JPEG_QUALITY = 85


@dataclass(frozen=True)
class Named:
    """Numbers with names: an action, or where the arm is.

    Attributes:
        names: of the numbers.
        values: as many.
    """

    names: Sequence[str]
    values: Sequence[float]


Note = Named | Mapping[str, object] | ByteArray
"""Numbers (sensor_msgs/JointState), JSON values (std_msgs/String) or an RGB picture (sensor_msgs/CompressedImage)."""


class FlightRecorder:
    """A ring of notes; write() turns it into an MCAP file that Foxglove, rosbags and ros2 bag open. Thread safe.

    Args:
        folder: where records go; created with the first one.
        window_ns: how much is kept (30 s).
        keep_files: older records are deleted beyond this many.
    """

    def __init__(self, folder: Path, *, window_ns: int = 30_000_000_000, keep_files: int = 50) -> None:
        self._folder, self._window_ns, self._keep_files = folder, window_ns, keep_files
        self._notes: deque[tuple[int, str, Note]] = deque()
        self._lock = threading.Lock()
        self._count = 0

    def __len__(self) -> int:
        """Notes in the window."""
        return len(self._notes)

    def note(self, topic: str, time_ns: int, note: Note) -> None:
        """Keep one thing.

        Args:
            topic: it came on or goes to; a picture's is extended by /compressed.
            time_ns: clock of the caller, the same for every note.
            note: what is kept.
        """
        with self._lock:
            self._notes.append((time_ns, topic, note))
            while self._notes[0][0] < time_ns - self._window_ns:
                self._notes.popleft()

    def write(self, name: str) -> Path:
        """Write what is kept; the ring goes on.

        Args:
            name: of the file, without suffix.

        Returns:
            The file, complete.
        """
        with self._lock:
            notes = list(self._notes)
            self._count += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}-{self._count:03d}.mcap"
        staging = path.with_suffix(".partial")
        with staging.open("wb") as file:
            _write(file, notes)
        staging.replace(path)
        for old in sorted(self._folder.glob("*.mcap"), key=lambda record: record.stat().st_mtime)[: -self._keep_files]:
            old.unlink()
        return path


def _write(file: IO[bytes], notes: Sequence[tuple[int, str, Note]]) -> None:
    writer = Writer(file)
    writer.start(profile="ros2", library="gymnast")
    channels = RosChannels(writer)
    for time_ns, source, note in notes:
        topic, kind, data = _encoded(f"/{source.lstrip('/')}", time_ns, note)
        writer.add_message(channels.of(topic, kind), time_ns, data, time_ns)
    writer.finish()


def _encoded(topic: str, time_ns: int, note: Note) -> tuple[str, str, bytes]:
    """Topic, message type and CDR bytes."""
    if isinstance(note, Named):
        return topic, "sensor_msgs/msg/JointState", encoding.encode_named(time_ns, note.names, note.values)
    if isinstance(note, Mapping):
        return topic, "std_msgs/msg/String", encoding.encode_string(json.dumps(dict(note)))
    jpeg = encode_jpeg(note, JPEG_QUALITY)
    camera = topic.strip("/").split("/")[0]
    return f"{topic}/compressed", "sensor_msgs/msg/CompressedImage", encoding.encode_image(time_ns, camera, jpeg)

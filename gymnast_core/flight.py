"""The last seconds before a stop: commands, decisions, states and pictures, written when somebody will ask why."""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mcap.writer import Writer

from gymnast_core.types import ByteArray

_ANY_OBJECT = json.dumps({"type": "object"}).encode()
_IMAGE_SCHEMA = json.dumps(
    {
        "title": "foxglove.CompressedImage",
        "type": "object",
        "properties": {
            "timestamp": {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}},
            "frame_id": {"type": "string"},
            "data": {"type": "string", "contentEncoding": "base64"},
            "format": {"type": "string"},
        },
    }
).encode()
JPEG_QUALITY = 85


class FlightRecorder:
    """A ring of notes; write() turns it into an MCAP file that Foxglove opens. Thread safe.

    Args:
        folder: where records go; created with the first one.
        window_ns: how much is kept (30 s).
        keep_files: older records are deleted beyond this many.
    """

    def __init__(self, folder: Path, *, window_ns: int = 30_000_000_000, keep_files: int = 50) -> None:
        self._folder, self._window_ns, self._keep_files = folder, window_ns, keep_files
        self._notes: deque[tuple[int, str, Mapping[str, Any] | ByteArray]] = deque()
        self._lock = threading.Lock()
        self._count = 0

    def __len__(self) -> int:
        """Notes in the window."""
        return len(self._notes)

    def note(self, topic: str, time_ns: int, values: Mapping[str, Any] | ByteArray) -> None:
        """Keep one thing.

        Args:
            topic: what it is.
            time_ns: clock of the caller, the same for every note.
            values: JSON values, or an (H, W, 3) uint8 RGB picture.
        """
        with self._lock:
            self._notes.append((time_ns, topic, values))
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


def _write(file: Any, notes: list[tuple[int, str, Mapping[str, Any] | ByteArray]]) -> None:
    writer = Writer(file)
    writer.start(profile="", library="gymnast")
    plain = writer.register_schema(name="gymnast.note", encoding="jsonschema", data=_ANY_OBJECT)
    picture = writer.register_schema(name="foxglove.CompressedImage", encoding="jsonschema", data=_IMAGE_SCHEMA)
    channels: dict[str, int] = {}
    for time_ns, topic, values in notes:
        is_picture = isinstance(values, np.ndarray)
        if topic not in channels:
            channels[topic] = writer.register_channel(topic, "json", picture if is_picture else plain)
        body = _encoded(values, time_ns) if isinstance(values, np.ndarray) else dict(values)
        writer.add_message(channels[topic], time_ns, json.dumps(body).encode(), time_ns)
    writer.finish()


def _encoded(image_HWC: ByteArray, time_ns: int) -> dict[str, Any]:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return {
        "timestamp": {"sec": time_ns // 1_000_000_000, "nsec": time_ns % 1_000_000_000},
        "frame_id": "camera",
        "data": base64.b64encode(data.tobytes()).decode(),
        "format": "jpeg",
    }

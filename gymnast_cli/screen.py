"""What the rerun viewer shows of an episode, recorded or live: cameras, joints, actions, the gripper's path, words."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.episodes import encoding, messages
from gymnast_core.episodes.bag import iterate_bag
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.types import ByteArray

GRIPPER = "gripper/path"
_PNG = b"\x89PNG"
_PATH_LENGTH = 2000
"""Points of the path that are kept."""
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET")
_VIEWER_PORT = 9876
"""Where rerun's viewer listens; one that is there already is used, also at the far end of an SSH tunnel."""


def rerun_module() -> Any:
    """Return rerun's package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise ConfigError(f"{error}: the viewer is missing; pip install 'gymnast_ros[view]'") from error
    return rerun


def check_screen() -> None:
    """See that a viewer can open: without a screen rerun's ends at once, and what is logged to it waits for ever.

    Raises:
        ConfigError: there is no screen here, and no viewer listens.
    """
    if sys.platform != "linux" or any(map(os.environ.get, _SCREENS)):
        return
    try:
        socket.create_connection(("127.0.0.1", _VIEWER_PORT), 1.0).close()
    except OSError as error:
        raise ConfigError(
            f"no screen for rerun's viewer: none of {', '.join(_SCREENS)} is set, and no viewer listens on port "
            f"{_VIEWER_PORT}. `gymnast view EPISODE.mcap --save FILE.rrd` writes a file for a machine that has one"
        ) from error


class RerunScreen:
    """One rerun recording: to a file, or to a viewer's window. Entities are named as the topics.

    Args:
        save: write an .rrd file there instead of opening a viewer.
        name: of the recording.

    Raises:
        ConfigError: rerun is not installed, or there is no screen for it.
    """

    def __init__(self, save: Path | None, name: str) -> None:
        self._rerun = rerun = rerun_module()
        if save is None:
            check_screen()
        self._recording = rerun.RecordingStream("gymnast", recording_id=name)
        if save is None:
            self._recording.spawn()
        else:
            save.parent.mkdir(parents=True, exist_ok=True)
            self._recording.save(str(save))
        self._recording.log("gripper", rerun.ViewCoordinates.FLU, static=True)  # REP 103: forward, left, up
        self._path: list[Sequence[float]] = []
        self.shown = 0

    def at(self, stamp_ns: int) -> None:
        """What follows was seen at this time."""
        self._recording.set_time("time", timestamp=np.datetime64(stamp_ns, "ns"))

    def image(self, topic: str, image_HWC: ByteArray) -> None:
        """A frame, (H, W, 3) uint8 RGB."""
        self._log(topic, self._rerun.Image(image_HWC))

    def jpeg(self, topic: str, data: bytes) -> None:
        """A frame as it was recorded, JPEG or PNG."""
        media = "image/png" if data.startswith(_PNG) else "image/jpeg"
        self._log(topic, self._rerun.EncodedImage(contents=data, media_type=media))

    def named(self, topic: str, names: Sequence[str], values: Sequence[float]) -> None:
        """Named numbers, a curve each; proprioception also moves the gripper."""
        for name, value in zip(names, values, strict=False):
            self._log(f"{topic}/{name}", self._rerun.Scalars(float(value)))
        if tuple(names[:3]) == messages.PROPRIO_NAMES[:3]:
            self._path = [*self._path[-_PATH_LENGTH:], [float(value) for value in values[:3]]]
            self._log(GRIPPER, self._rerun.LineStrips3D([self._path], radii=0.002))
            self._log("gripper/now", self._rerun.Points3D([self._path[-1]], radii=0.01))

    def words(self, topic: str, text: str) -> None:
        """A line in the log."""
        self._log(topic, self._rerun.TextLog(text))

    def message(self, kind: str, topic: str, data: bytes) -> bool:
        """One message as it lies in a file; returns whether its type is one that is shown."""
        if kind == "sensor_msgs/msg/CompressedImage":
            self.jpeg(topic, bytes(encoding.decode_any_image(data)))
        elif kind == "sensor_msgs/msg/JointState":
            self.named(topic, *encoding.decode_any_named(data))
        elif kind == "std_msgs/msg/String":
            self.words(topic, encoding.decode_string(data))
        else:
            return False
        return True

    def close(self) -> None:
        """Everything logged reaches the file or the viewer."""
        self._recording.flush()
        self._recording.disconnect()

    def _log(self, topic: str, value: Any) -> None:
        self._recording.log(topic.strip("/"), value)
        self.shown += 1


def show_file(path: Path, screen: RerunScreen) -> dict[str, str]:
    """Show an MCAP file: an episode, a flight record, or what else has messages of these types.

    Args:
        path: of the file.
        screen: it is shown on.

    Returns:
        Topics that were left out, and why.

    Raises:
        CorruptError: no MCAP file, or one without a message that can be shown.
    """
    left_out: dict[str, str] = {}
    for message in iterate_bag(path):
        if message.encoding != "cdr":
            left_out[message.topic] = f"encoded as {message.encoding or 'nothing named'}, not cdr"
            continue
        screen.at(message.time_ns)
        try:
            if not screen.message(message.kind, message.topic, message.data) and message.topic != messages.POSE_TOPIC:
                left_out[message.topic] = f"of type {message.kind or 'unknown'}"
        except CorruptError as error:
            left_out[message.topic] = str(error)
    if not screen.shown:
        raise CorruptError(f"{path} holds no message that can be shown; its topics: {left_out or 'none'}")
    return left_out

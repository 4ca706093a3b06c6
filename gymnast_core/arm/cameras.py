"""Is a camera still looking? Stale frames, frozen frames, cameras out of step; no ROS, no threads.

A frame's age is measured twice: from its stamp, on the clock of the stamps, and from its arrival, on the receiver's
monotonic clock. A camera whose clock is wrong passes neither as live nor as dead.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from gymnast_core.errors import ConfigError, StaleCommandError
from gymnast_core.types import ByteArray

CLOCKS = "set the clocks of its host and of this machine (NTP), or let its driver stamp frames here"


@dataclass(frozen=True)
class CameraLimits:
    """What an observation may be made of.

    Attributes:
        max_age_ns: oldest frame allowed, by stamp and by arrival (Bridge: 1 s); as far may a stamp be in the future.
        max_frozen_ns: longest time with identical pixels; real sensors have noise, a hung driver has not.
        max_skew_ns: largest difference between the stamps of two cameras' frames.
    """

    max_age_ns: int = 500_000_000
    max_frozen_ns: int = 2_000_000_000
    max_skew_ns: int = 100_000_000

    def __post_init__(self) -> None:
        """Refuse limits nothing can meet."""
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        image_HWC: (H, W, 3) uint8 RGB.
        stamp_ns: sensor time.
    """

    image_HWC: ByteArray
    stamp_ns: int


class CameraWatch:
    """Newest frame of each camera and what is wrong with it."""

    def __init__(self, cameras: tuple[str, ...], limits: CameraLimits | None = None) -> None:
        if not cameras:
            raise ConfigError("cameras must name at least one camera")
        self._cameras, self._limits = cameras, limits or CameraLimits()
        self._frames: dict[str, Frame] = {}
        self._arrived_ns: dict[str, int] = {}
        self._rejected: dict[str, str] = {}
        self._changed_ns: dict[str, int] = {}
        self._checksums: dict[str, int] = {}

    def put(self, camera: str, frame: Frame, arrived_ns: int | None = None) -> None:
        """Take in a frame.

        Args:
            camera: its name.
            frame: what it shows.
            arrived_ns: on the receiver's monotonic clock; None takes the stamp.
        """
        arrived_ns = frame.stamp_ns if arrived_ns is None else arrived_ns
        checksum = zlib.crc32(frame.image_HWC.tobytes())
        if self._checksums.get(camera) != checksum:
            self._checksums[camera] = checksum
            self._changed_ns[camera] = arrived_ns
        self._frames[camera], self._arrived_ns[camera] = frame, arrived_ns
        self._rejected.pop(camera, None)

    def reject(self, camera: str, reason: str) -> None:
        """Take note of a frame that nobody can use; it takes no place."""
        self._rejected[camera] = reason

    def offset_ns(self, camera: str, now_ns: int, monotonic_ns: int) -> int:
        """How far the camera's clock is ahead of the receiver's, transport neglected; 0 before its first frame."""
        frame = self._frames.get(camera)
        if frame is None:
            return 0
        return frame.stamp_ns - (now_ns - (monotonic_ns - self._arrived_ns[camera]))

    def newest(self, now_ns: int, monotonic_ns: int | None = None) -> Mapping[str, Frame]:
        """One frame of every camera, fit to act on.

        Args:
            now_ns: on the clock of the stamps.
            monotonic_ns: on the clock of the arrivals; None takes now_ns.

        Raises:
            StaleCommandError: a camera is missing, late, frozen, or out of step with another; the message names it.
        """
        for camera in self._cameras:
            problem = self._problem(camera, now_ns, now_ns if monotonic_ns is None else monotonic_ns)
            if problem:
                raise StaleCommandError(f"camera {camera!r} {problem}")
        stamps = [self._frames[camera].stamp_ns for camera in self._cameras]
        skew_ns = max(stamps) - min(stamps)
        if skew_ns > self._limits.max_skew_ns:
            raise StaleCommandError(
                f"cameras {list(self._cameras)} are {skew_ns / 1e6:.0f} ms apart; "
                f"{self._limits.max_skew_ns / 1e6:.0f} ms are allowed"
            )
        return {camera: self._frames[camera] for camera in self._cameras}

    def _problem(self, camera: str, now_ns: int, monotonic_ns: int) -> str:
        frame, rejected, most_ns = self._frames.get(camera), self._rejected.get(camera, ""), self._limits.max_age_ns
        if frame is None:
            return f"has sent nothing that can be used: {rejected}" if rejected else "has sent nothing yet"
        silent_ns = monotonic_ns - self._arrived_ns[camera]
        if silent_ns > most_ns:
            why = f"since then only what cannot be used: {rejected}" if rejected else "is it plugged in?"
            return f"has sent nothing for {silent_ns / 1e9:.2f} s; {why}"
        age_ns = now_ns - frame.stamp_ns
        if age_ns > most_ns:
            return f"is {age_ns / 1e9:.2f} s old by its stamp, {silent_ns / 1e9:.2f} s by its arrival; {CLOCKS}"
        if age_ns < -most_ns:
            return f"is stamped {-age_ns / 1e9:.2f} s in the future; {CLOCKS}"
        frozen_ns = self._arrived_ns[camera] - self._changed_ns[camera]
        if frozen_ns > self._limits.max_frozen_ns:
            return f"shows the same picture for {frozen_ns / 1e9:.1f} s; restart its driver"
        return ""

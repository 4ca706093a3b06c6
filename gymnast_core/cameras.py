"""Is a camera still looking? Stale frames, frozen frames, cameras out of step; no ROS, no threads."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from gymnast_core.errors import ConfigError, StaleCommandError
from gymnast_core.types import ByteArray


@dataclass(frozen=True)
class CameraLimits:
    """What an observation may be made of.

    Attributes:
        max_age_ns: oldest frame allowed (Bridge: 1 s).
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
        self._changed_ns: dict[str, int] = {}
        self._checksums: dict[str, int] = {}

    def put(self, camera: str, frame: Frame) -> None:
        """Take in a frame."""
        checksum = zlib.crc32(frame.image_HWC.tobytes())
        if self._checksums.get(camera) != checksum:
            self._checksums[camera] = checksum
            self._changed_ns[camera] = frame.stamp_ns
        self._frames[camera] = frame

    def newest(self, now_ns: int) -> Mapping[str, Frame]:
        """One frame of every camera, fit to act on.

        Args:
            now_ns: on the clock of the stamps.

        Raises:
            StaleCommandError: a camera is missing, late, frozen, or out of step with another; the message says which.
        """
        for camera in self._cameras:
            problem = self._problem(camera, now_ns)
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

    def _problem(self, camera: str, now_ns: int) -> str:
        frame = self._frames.get(camera)
        if frame is None:
            return "has sent nothing yet"
        age_ns = now_ns - frame.stamp_ns
        if age_ns > self._limits.max_age_ns:
            return f"is {age_ns / 1e9:.2f} s old; is it plugged in?"
        frozen_ns = frame.stamp_ns - self._changed_ns[camera]
        if frozen_ns > self._limits.max_frozen_ns:
            return f"shows the same picture for {frozen_ns / 1e9:.1f} s; restart its driver"
        return ""

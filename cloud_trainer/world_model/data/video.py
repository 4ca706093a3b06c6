"""Frames out of video files and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cloud_trainer.world_model.data.source import require_content
from gymnast_core import pictures
from gymnast_core.errors import CorruptError
from gymnast_core.types import ByteArray

_DECODE_ACROSS = 64
"""Frames to the next piece that are rather decoded than sought."""


def read_video(path: Path, *, size: int | None = None) -> ByteArray:
    """Decode all (F, H, W, 3) uint8 RGB frames of a file.

    Args:
        path: anything FFmpeg reads (h264, AV1, ...).
        size: side to resize to (area averaging); default as stored.

    Raises:
        CorruptError: unreadable, or without a frame.
    """
    import av

    try:
        require_content(path)
        with av.open(str(path)) as container:
            frames = [resized(f.to_ndarray(format="rgb24"), size) for f in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise CorruptError(f"{path} is not a readable video: {error}") from error
    if not frames:
        raise CorruptError(f"{path} is a video without frames")
    return np.stack(frames)


class VideoCursor:
    """Cuts pieces out of long files of constant rate: reading them in order decodes each file once.

    Holds one file open. A piece elsewhere begins at the key frame before it.
    """

    def __init__(self) -> None:
        """Nothing is open yet."""
        self._path: Path | None = None
        self._container: Any = None
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._next = 0

    def read(self, path: Path, *, first: int, count: int, fps: float, size: int | None = None) -> ByteArray:
        """Decode (count, H, W, 3) uint8 RGB frames from index `first` on; fps counts frames by their time stamps.

        Raises:
            CorruptError: unreadable, fewer frames than asked for, or frames that are missing.
        """
        import av

        try:
            if path != self._path or not self._next <= first <= self._next + _DECODE_ACROSS:
                self._go(path, first, fps)
            frames: list[ByteArray] = []
            while len(frames) < count:
                index, frame = next(self._frames)
                if index >= first:
                    self._require(path, index, first + len(frames), fps)
                    frames.append(resized(frame.to_ndarray(format="rgb24"), size))
            self._next = first + count
        except StopIteration:
            self.close()
            raise CorruptError(f"{path} gives {len(frames)} frames from frame {first} on, not {count}") from None
        except (av.FFmpegError, IndexError) as error:
            self.close()
            raise CorruptError(f"{path} is not a readable video: {error}") from error
        return np.stack(frames)

    def close(self) -> None:
        """Close the file; reading goes on with another call."""
        if self._container is not None:
            self._container.close()
        self._path, self._container, self._frames, self._next = None, None, iter(()), 0

    def _go(self, path: Path, first: int, fps: float) -> None:
        """Open the file if need be, and stand at the key frame before a frame."""
        import av

        if path != self._path:
            self.close()
            require_content(path)
            self._container, self._path = av.open(str(path)), path
        stream = self._container.streams.video[0]
        start = stream.start_time or 0
        self._container.seek(start + int(first / fps / stream.time_base), stream=stream, backward=True)
        self._frames = (
            (round(float((frame.pts - start) * stream.time_base) * fps), frame)
            for frame in self._container.decode(stream)
            if frame.pts is not None
        )

    def _require(self, path: Path, found: int, expected: int, fps: float) -> None:
        if found != expected:
            self.close()
            raise CorruptError(
                f"{path} has frame {found} where {expected} was expected; is it {fps:g} frames/s throughout?"
            )


def read_picture(path: Path, size: int | None = None) -> ByteArray:
    """Decode one (H, W, 3) uint8 RGB picture.

    Raises:
        CorruptError: unreadable.
    """
    require_content(path)
    return decode_picture(path.read_bytes(), str(path), size)


def decode_picture(data: bytes, name: str, size: int | None = None) -> ByteArray:
    """Decode the bytes of one (H, W, 3) uint8 RGB picture.

    Raises:
        CorruptError: unreadable; carries the name.
    """
    try:
        return resized(pictures.decode_picture(data), size)
    except CorruptError as error:
        raise CorruptError(f"{name} is not a readable picture ({len(data)} bytes): {error}") from error


def resized(image_HWC: ByteArray, size: int | None) -> ByteArray:
    """Return a square picture of the given side; the same array when it already is."""
    if size is None or image_HWC.shape[:2] == (size, size):
        return image_HWC
    return np.asarray(cv2.resize(image_HWC, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def write_video(path: Path, frames_FHWC: ByteArray, *, fps: int = 5) -> None:
    """Write (F, H, W, 3) uint8 RGB frames as h264 mp4; sides are padded to even numbers."""
    import av

    pad = [(0, 0), (0, frames_FHWC.shape[1] % 2), (0, frames_FHWC.shape[2] % 2), (0, 0)]
    padded = np.pad(frames_FHWC, pad, mode="edge")
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = padded.shape[1], padded.shape[2], "yuv420p"
        stream.options = {"crf": "16", "preset": "veryfast"}
        for picture in padded:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())

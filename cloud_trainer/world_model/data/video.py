"""Frames out of video files and pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gymnast_core.errors import CorruptError
from gymnast_core.types import ByteArray


def read_video(path: Path, *, first: int = 0, count: int | None = None, size: int | None = None) -> ByteArray:
    """Decode (F, H, W, 3) uint8 RGB frames.

    Args:
        path: anything FFmpeg reads (h264, AV1, ...).
        first: index of the first frame wanted; earlier ones are decoded and dropped.
        count: how many; default all that follow.
        size: side to resize to (area averaging); default as stored.

    Raises:
        CorruptError: unreadable, or fewer frames than asked for.
    """
    import av

    frames: list[ByteArray] = []
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if count is not None and len(frames) == count:
                    break
                if index >= first:
                    frames.append(resized(frame.to_ndarray(format="rgb24"), size))
    except (av.FFmpegError, IndexError) as error:
        raise CorruptError(f"{path} is not a readable video: {error}") from error
    if not frames or (count is not None and len(frames) < count):
        raise CorruptError(f"{path} gives {len(frames)} frames from frame {first} on, {count or 'some'} were expected")
    return np.stack(frames)


def read_picture(path: Path, size: int | None = None) -> ByteArray:
    """Decode one (H, W, 3) uint8 RGB picture.

    Raises:
        CorruptError: unreadable.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise CorruptError(f"{path} is not a readable picture")
    return resized(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size)


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

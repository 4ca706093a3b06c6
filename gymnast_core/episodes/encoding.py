"""Between numbers and the bytes of the standard ROS 2 messages that an episode file holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gymnast_core.episodes.cdr import CdrReader, CdrWriter
from gymnast_core.errors import CorruptError
from gymnast_core.spec import BASE_FRAME
from gymnast_core.types import FloatArray


def encode_string(text: str) -> bytes:
    """std_msgs/String."""
    return CdrWriter().string(text).done()


def encode_image(stamp_ns: int, camera: str, jpeg: bytes) -> bytes:
    """sensor_msgs/CompressedImage holding a JPEG."""
    return CdrWriter().header(stamp_ns, camera).string("jpeg").octets(jpeg).done()


def encode_named(stamp_ns: int, names: Sequence[str], values: Sequence[float], rates: Sequence[float] = ()) -> bytes:
    """sensor_msgs/JointState: named numbers, with velocities where known."""
    return CdrWriter().header(stamp_ns, BASE_FRAME).strings(names).floats64(values).floats64(rates).floats64(()).done()


def encode_pose(stamp_ns: int, proprio_P: FloatArray) -> bytes:
    """geometry_msgs/PoseStamped of a proprioception row (for viewers; the numbers to learn from are in /proprio)."""
    x, y, z, roll, pitch, yaw = (float(value) for value in proprio_P[:6])
    quaternion = _quaternion_from_rpy(roll, pitch, yaw)
    return CdrWriter().header(stamp_ns, BASE_FRAME).float64((x, y, z, *quaternion)).done()


def decode_string(data: bytes) -> str:
    """The text of a std_msgs/String."""
    return CdrReader(data).string()


def decode_image(data: bytes) -> tuple[int, memoryview]:
    """Stamp and JPEG bytes of a CompressedImage."""
    reader = CdrReader(data)
    stamp_ns = reader.stamp_ns()
    if (encoding := reader.string()) != "jpeg":
        raise CorruptError(f"image encoding {encoding!r} is not 'jpeg'")
    return stamp_ns, reader.octets()


def decode_any_image(data: bytes) -> memoryview:
    """Bytes of a CompressedImage of any encoding a viewer knows.

    Raises:
        CorruptError: neither JPEG nor PNG; names its own format field.
    """
    reader = CdrReader(data)
    reader.stamp_ns()
    encoding, picture = reader.string(), reader.octets()
    if bytes(picture[:3]) not in (b"\xff\xd8\xff", b"\x89PN"):
        raise CorruptError(f"a picture of encoding {encoding!r} that is neither JPEG nor PNG")
    return picture


def decode_named(data: bytes, names: Sequence[str]) -> tuple[int, FloatArray]:
    """Stamp and values of a JointState whose names must be the given ones.

    Raises:
        CorruptError: other names, another number of values, or a value that is not finite.
    """
    reader = CdrReader(data)
    stamp_ns, found, values = reader.stamp_ns(), reader.strings(), reader.floats64()
    if found != tuple(names) or len(values) != len(names):
        raise CorruptError(f"expected the {len(names)} values {tuple(names)}, got {len(values)} named {found[:8]}")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise CorruptError(f"values {values.tolist()} of {found} are not all finite")
    return stamp_ns, narrow


def decode_any_named(data: bytes) -> tuple[tuple[str, ...], list[float]]:
    """Names and values of a JointState, whatever they are; for viewers."""
    reader = CdrReader(data)
    reader.stamp_ns()
    names = reader.strings()
    return names, reader.floats64().tolist()


def decode_joints(data: bytes) -> tuple[int, list[float], list[float]]:
    """Stamp, positions [rad] and velocities [rad/s] of a JointState; velocities are empty where there are none."""
    reader = CdrReader(data)
    stamp_ns, _ = reader.stamp_ns(), reader.strings()
    return stamp_ns, reader.floats64().tolist(), reader.floats64().tolist()


def _quaternion_from_rpy(roll: float, pitch: float, yaw: float) -> tuple[float, float, float, float]:
    """Quaternion (x, y, z, w) of R = Rz(yaw) Ry(pitch) Rx(roll); Diebel 2006, "Representing Attitude", eq. 297."""
    sr, cr = math.sin(roll / 2), math.cos(roll / 2)
    sp, cp = math.sin(pitch / 2), math.cos(pitch / 2)
    sy, cy = math.sin(yaw / 2), math.cos(yaw / 2)
    return (
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
        cr * cp * cy + sr * sp * sy,
    )

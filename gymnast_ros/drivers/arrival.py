"""Whether the arm has come to a pose: measured there and still, with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gymnast_core.spec import JOINT_NAMES
from gymnast_ros.drivers.reading import ArmReading

ARRIVED_RAD, STILL_RAD_S = 0.1, 0.05
"""A joint this close and no faster has arrived; gravity leaves some hundredths of a radian."""
SETTLE_S = 4.0
"""How much longer than its profile a move may take."""
SPAN_S = 0.02
"""Least time between two readings that a speed is taken from."""


def why_not_at(
    pose_rad: Sequence[float],
    read: Callable[[], ArmReading],
    now_s: Callable[[], float],
    look: Callable[[], object],
) -> str:
    """Wait until the joints are measured at a pose and still.

    Args:
        pose_rad: (6,) [rad].
        read: newest joint states; the same ones again prove nothing.
        now_s: monotonic clock.
        look: waits a moment, and raises where the arm may not move.

    Returns:
        An empty string, or after SETTLE_S why the arm is not there.
    """
    until_s, before, seen = now_s() + SETTLE_S, read(), False
    while True:
        look()
        now = read()
        off_J = np.abs(now.joints_J - np.asarray(pose_rad))
        span_s = (now.stamp_ns - before.stamp_ns) / 1e9
        if span_s >= SPAN_S:
            speed_rad_s = float(np.abs(now.joints_J - before.joints_J).max()) / span_s
            if off_J.max() <= ARRIVED_RAD and speed_rad_s <= STILL_RAD_S:
                return ""
            before, seen = now, True
        if now_s() >= until_s:
            worst = int(off_J.argmax())
            return f"{JOINT_NAMES[worst]} is {off_J[worst]:.2f} rad away" if seen else "joint_states do not change"

"""A camera's age is measured on two clocks: neither a wrong clock nor a dead camera is taken for a live one."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.arm.cameras import CameraLimits, CameraWatch, Frame
from gymnast_core.errors import StaleCommandError

SECOND = 1_000_000_000
LIMITS = CameraLimits(max_age_ns=SECOND, max_frozen_ns=10 * SECOND)


def frame(stamp_ns: int, value: int = 0) -> Frame:
    return Frame(np.full((4, 4, 3), value, np.uint8), stamp_ns)


@pytest.mark.parametrize("ahead_s", [2, 30, 3600])
def test_camera_ahead_in_time_is_refused_by_name_at_its_first_frame(ahead_s) -> None:
    watch = CameraWatch(("top",), LIMITS)
    watch.put("top", frame((100 + ahead_s) * SECOND), 5 * SECOND)
    with pytest.raises(StaleCommandError, match=rf"'top' is stamped {ahead_s}\.00 s in the future.*NTP"):
        watch.newest(100 * SECOND, 5 * SECOND)
    assert watch.offset_ns("top", 100 * SECOND, 5 * SECOND) == ahead_s * SECOND


def test_camera_a_little_ahead_that_dies_is_noticed_by_its_arrivals() -> None:
    """Its stamps look young for longer than it has been silent."""
    watch = CameraWatch(("top",), LIMITS)
    watch.put("top", frame(100 * SECOND + 9 * SECOND // 10), 5 * SECOND)
    assert watch.newest(100 * SECOND, 5 * SECOND)
    with pytest.raises(StaleCommandError, match=r"has sent nothing for 1\.10 s"):
        watch.newest(101 * SECOND + SECOND // 10, 6 * SECOND + SECOND // 10)


def test_clock_that_steps_between_two_frames_does_not_make_a_dead_camera_young() -> None:
    watch = CameraWatch(("top",), LIMITS)
    watch.put("top", frame(100 * SECOND), 5 * SECOND)
    with pytest.raises(StaleCommandError, match="has sent nothing for 20"):
        watch.newest(100 * SECOND, 25 * SECOND)  # this machine's clock was set back meanwhile


def test_frames_that_cannot_be_used_are_the_reason_the_operator_reads() -> None:
    watch = CameraWatch(("top",), LIMITS)
    watch.reject("top", "image encoding 'yuv422' is not supported; use rgb8 or bgr8")
    with pytest.raises(StaleCommandError, match="nothing that can be used: image encoding 'yuv422'"):
        watch.newest(0, 0)
    watch.put("top", frame(100 * SECOND), 5 * SECOND)
    assert watch.newest(100 * SECOND, 5 * SECOND)
    watch.reject("top", "0 bytes are no picture")
    with pytest.raises(StaleCommandError, match="only what cannot be used: 0 bytes"):
        watch.newest(102 * SECOND, 7 * SECOND)

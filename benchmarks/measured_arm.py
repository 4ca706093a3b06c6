"""The arm that benchmarks measure: where it stands, its cameras, and how evenly it ticks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.arm.kinematics import inverse
from gymnast_core.arm.targets import DEFAULT_ROTATION, EndEffectorTarget
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray

CAMERAS = (("wide", 640, 480), ("left", 256, 256), ("right", 256, 256))


def jitter_share(ticks_ns: Sequence[int], period_ns: float) -> dict[str, float]:
    """Percentiles of |interval - period| / period, the first five ticks left out."""
    jitter = np.abs(np.diff(np.array(ticks_ns[5:], np.float64)) - period_ns) / period_ns
    return {f"p{share}": float(np.percentile(jitter, share)) for share in (50, 99)}


def still_target() -> tuple[EndEffectorTarget, FloatArray]:
    """Where the measuring arm stands."""
    target = EndEffectorTarget(np.array([0.28, 0.0, 0.12]), DEFAULT_ROTATION, 1.0)
    neutral_J = WIDOWX_250S.neutral_joints_rad
    return target, np.asarray(inverse(target.position_m, target.rotation, neutral_J, spec=WIDOWX_250S), np.float32)

"""What tests hold the arm's fast arithmetic against, from the general kinematics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gymnast_core.arm import kinematics
from gymnast_core.arm.clearance import Clearance, clearance_of
from gymnast_core.spec import WIDOWX_250S, RobotSpec


def within_limits(joints: npt.ArrayLike, spec: RobotSpec = WIDOWX_250S) -> bool:
    """Whether all six joints are inside the arm's limits, with 1e-9 rad of slack."""
    joints_J = np.asarray(joints, np.float64)
    low, high = np.array(spec.joint_low_rad), np.array(spec.joint_high_rad)
    return bool(np.all(joints_J >= low - 1e-9) and np.all(joints_J <= high + 1e-9))


def clearance(joints: npt.ArrayLike, *, table_height_m: float = 0.0, spec: RobotSpec = WIDOWX_250S) -> Clearance:
    """An arm's clearances at six joint angles, by the forward map."""
    joints_J = np.asarray(joints, np.float64)
    position, rotation = kinematics.forward(joints_J, spec)
    waist, shoulder = (float(angle) for angle in joints_J[:2])
    return clearance_of(position.tolist(), rotation.tolist(), waist, shoulder, table_height_m=table_height_m, spec=spec)

"""How far the WidowX 250s is from the table and from itself, by kinematics alone.

The arm is a chain of capsules between shoulder, elbow, wrist and gripper; links that share a joint are not compared.
Frames: base_link, x forward, z up, origin under the waist; the table top is a height in it.

Source: link offsets of wx250s in Interbotix/interbotix_ros_manipulators (interbotix_xsarm_descriptions).
Segment distance: Ericson, Real-Time Collision Detection (2005), section 5.1.9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gymnast_core import kinematics

Array = npt.NDArray[np.float64]

SHOULDER_M = np.array([0.0, 0.0, 0.11065])
UPPER_ARM_M = np.array([0.04975, 0.0, 0.25])
"""Shoulder to elbow at zero joints."""
WRIST_TO_GRIPPER_M = 0.158575
PALM_TO_GRIPPER_M = 0.066
"""From the finger carriage, the widest part of the gripper, to the gripper frame."""
PALM_HALF_WIDTH_M = 0.05

ELBOW_RADIUS_M = 0.04
WRIST_RADIUS_M = 0.035
PALM_RADIUS_M = 0.02
BASE_RADIUS_M = 0.07
ARM_RADIUS_M = 0.03


@dataclass(frozen=True)
class Clearance:
    """Distances of one pose.

    Attributes:
        table_m: lowest surface of elbow, wrist and palm above the table; negative is inside it.
        self_m: smallest gap between gripper or forearm and base column or upper arm; negative is a collision.
    """

    table_m: float
    self_m: float


def clearance(joints: npt.ArrayLike, *, table_height_m: float = 0.0) -> Clearance:
    """Return the clearances of six joint angles [rad].

    Raises:
        ShapeError: joints is not (6,).
    """
    gripper_X, rotation_XX = kinematics.forward(joints)
    waist, shoulder = float(np.asarray(joints)[0]), float(np.asarray(joints)[1])
    elbow_X = SHOULDER_M + kinematics.euler_to_rotation([0.0, shoulder, waist]) @ UPPER_ARM_M
    wrist_X = gripper_X - rotation_XX[:, 0] * WRIST_TO_GRIPPER_M
    palm_X = gripper_X - rotation_XX[:, 0] * PALM_TO_GRIPPER_M
    palm_drop = abs(float(rotation_XX[2, 1])) * PALM_HALF_WIDTH_M + PALM_RADIUS_M
    lowest = min(float(elbow_X[2]) - ELBOW_RADIUS_M, float(wrist_X[2]) - WRIST_RADIUS_M, float(palm_X[2]) - palm_drop)
    base = (np.zeros(3), SHOULDER_M)
    gaps = (
        segment_distance(wrist_X, gripper_X, *base) - BASE_RADIUS_M - ARM_RADIUS_M,
        segment_distance((elbow_X + wrist_X) / 2, wrist_X, *base) - BASE_RADIUS_M - ARM_RADIUS_M,
        segment_distance(palm_X, gripper_X, SHOULDER_M, elbow_X) - 2 * ARM_RADIUS_M,
    )
    return Clearance(lowest - table_height_m, min(gaps))


def segment_distance(a0_X: Array, a1_X: Array, b0_X: Array, b1_X: Array) -> float:
    """Smallest distance [m] between two segments of positive length."""
    along_a, along_b, between = a1_X - a0_X, b1_X - b0_X, a0_X - b0_X
    aa, bb, ab = float(along_a @ along_a), float(along_b @ along_b), float(along_a @ along_b)
    a_between, b_between = float(along_a @ between), float(along_b @ between)
    determinant = aa * bb - ab * ab
    at_a = 0.0 if determinant < 1e-12 else _unit((ab * b_between - a_between * bb) / determinant)
    at_b = (ab * at_a + b_between) / bb
    if not 0.0 <= at_b <= 1.0:
        at_b = _unit(at_b)
        at_a = _unit((ab * at_b - a_between) / aa)
    gap = (a0_X + at_a * along_a) - (b0_X + at_b * along_b)
    return float(np.sqrt(gap @ gap))


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)

"""How far an arm is from the table and from itself, by kinematics alone.

The arm is a chain of capsules between shoulder, elbow, wrist and gripper; links that share a joint are not compared.
Frames: base_link, x forward, z up, origin under the waist; the table top is a height in it. Plain floats, because the
gate asks with every command.

Source of the segment distance: Ericson, Real-Time Collision Detection (2005), section 5.1.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gymnast_core.arm import closed_form
from gymnast_core.spec import WIDOWX_250S, RobotSpec

_FLOOR_M = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Clearance:
    """Distances of one pose.

    Attributes:
        table_m: lowest surface of elbow, wrist and palm above the table; negative is inside it.
        self_m: smallest gap between gripper or forearm and base column or upper arm; negative is a collision.
    """

    table_m: float
    self_m: float


def clearance_of(
    gripper_m: Sequence[float],
    rotation: Sequence[Sequence[float]],
    waist_rad: float,
    shoulder_rad: float,
    *,
    table_height_m: float = 0.0,
    spec: RobotSpec = WIDOWX_250S,
) -> Clearance:
    """Return an arm's clearances at a gripper pose reached with these two joints; they decide where the elbow is."""
    chain, sizes = spec.chain, spec.sizes
    hand_m, palm_m = chain.wrist_to_gripper_m, sizes.palm_to_gripper_m
    shoulder = (0.0, 0.0, chain.shoulder_z_m)
    (ax, _, _), (ay, _, _), (az, across_z, _) = rotation
    x, y, z = gripper_m
    elbow = closed_form.elbow(waist_rad, shoulder_rad, chain)
    wrist = (x - ax * hand_m, y - ay * hand_m, z - az * hand_m)
    palm = (x - ax * palm_m, y - ay * palm_m, z - az * palm_m)
    middle = ((elbow[0] + wrist[0]) / 2, (elbow[1] + wrist[1]) / 2, (elbow[2] + wrist[2]) / 2)
    palm_drop = abs(across_z) * sizes.palm_half_width_m + sizes.palm_radius_m
    lowest = min(elbow[2] - sizes.elbow_radius_m, wrist[2] - sizes.wrist_radius_m, palm[2] - palm_drop)
    gap = min(
        segment_distance(wrist, gripper_m, _FLOOR_M, shoulder) - sizes.base_radius_m - sizes.arm_radius_m,
        segment_distance(middle, wrist, _FLOOR_M, shoulder) - sizes.base_radius_m - sizes.arm_radius_m,
        segment_distance(palm, gripper_m, shoulder, elbow) - 2 * sizes.arm_radius_m,
    )
    return Clearance(lowest - table_height_m, gap)


def segment_distance(
    a0_X: Sequence[float], a1_X: Sequence[float], b0_X: Sequence[float], b1_X: Sequence[float]
) -> float:
    """Smallest distance [m] between two segments of positive length."""
    ax, ay, az = a1_X[0] - a0_X[0], a1_X[1] - a0_X[1], a1_X[2] - a0_X[2]
    bx, by, bz = b1_X[0] - b0_X[0], b1_X[1] - b0_X[1], b1_X[2] - b0_X[2]
    rx, ry, rz = a0_X[0] - b0_X[0], a0_X[1] - b0_X[1], a0_X[2] - b0_X[2]
    aa, bb, ab = ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz, ax * bx + ay * by + az * bz
    a_between, b_between = ax * rx + ay * ry + az * rz, bx * rx + by * ry + bz * rz
    determinant = aa * bb - ab * ab
    at_a = 0.0 if determinant < 1e-12 else _unit((ab * b_between - a_between * bb) / determinant)
    at_b = (ab * at_a + b_between) / bb
    if not 0.0 <= at_b <= 1.0:
        at_b = _unit(at_b)
        at_a = _unit((ab * at_b - a_between) / aa)
    gap = (rx + at_a * ax - at_b * bx, ry + at_a * ay - at_b * by, rz + at_a * az - at_b * bz)
    return math.sqrt(gap[0] * gap[0] + gap[1] * gap[1] + gap[2] * gap[2])


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)

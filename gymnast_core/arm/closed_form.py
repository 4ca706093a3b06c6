"""An arm's joint angles for a gripper pose in closed form: exact, and quick enough to ask twice a command.

Forearm roll, wrist angle and wrist rotate meet in one point, so the pose splits in two (Pieper 1968): waist, shoulder
and elbow put that point where it belongs (two links in a plane), the last three turn the gripper (Euler angles X-Y-X).
The arm's own solver is another one (kinematics.inverse, or the vendor's), so a check of an arm with this module
does not repeat the arm's mistakes. Plain floats: arrays of three are slower than the arithmetic on them.

Frames and joint order: gymnast_core.chain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from gymnast_core.chain import ArmChain
from gymnast_core.errors import UnreachableError
from gymnast_core.spec import WIDOWX_250S, RobotSpec

Triple = tuple[float, float, float]
Joints = tuple[float, float, float, float, float, float]

_TOLERANCE_M, _TOLERANCE_RAD = 1e-4, 1e-3
_LIMIT_SLACK_RAD = 1e-4


def elbow(waist_rad: float, shoulder_rad: float, chain: ArmChain) -> Triple:
    """Where an arm's elbow joint is, (x, y, z) [m] in base_link."""
    ahead_m, above_m = chain.elbow_x_m, chain.elbow_z_m
    sine, cosine = math.sin(shoulder_rad), math.cos(shoulder_rad)
    reach = ahead_m * cosine + above_m * sine
    height = chain.shoulder_z_m - ahead_m * sine + above_m * cosine
    return reach * math.cos(waist_rad), reach * math.sin(waist_rad), height


def solutions(
    position_m: Sequence[float], rotation: Sequence[Sequence[float]], roll_rad: float, chain: ArmChain
) -> Iterator[Joints]:
    """Yield every set of joints that puts the gripper at a pose, limits aside: at most eight.

    Args:
        position_m: (3,) gripper position.
        rotation: (3, 3) gripper rotation.
        roll_rad: forearm roll where forearm and gripper are in line and any roll would do.
        chain: the arm's geometry.
    """
    upper_m, upper_rad, forearm_m = chain.upper_arm_m, chain.upper_arm_rad, chain.forearm_m
    hand_m = chain.wrist_to_gripper_m
    (r00, r01, r02), (r10, r11, r12), (r20, r21, r22) = rotation
    x = position_m[0] - r00 * hand_m
    y = position_m[1] - r10 * hand_m
    z = position_m[2] - r20 * hand_m - chain.shoulder_z_m
    level = math.hypot(x, y)
    cosine = (level * level + z * z - upper_m**2 - forearm_m**2) / (2.0 * upper_m * forearm_m)
    if not -1.0 <= cosine <= 1.0:
        distance = math.hypot(level, z)
        if max(distance - upper_m - forearm_m, abs(upper_m - forearm_m) - distance) > _TOLERANCE_M:
            return
        cosine = max(-1.0, min(1.0, cosine))
    bend_rad = math.acos(cosine)
    for waist, reach in ((math.atan2(y, x), level), (math.atan2(-y, -x), -level)):
        cw, sw = math.cos(waist), math.sin(waist)
        for bend in (bend_rad, -bend_rad):
            inner = math.atan2(forearm_m * math.sin(bend), upper_m + forearm_m * math.cos(bend))
            shoulder = _wrapped(upper_rad - math.atan2(z, reach) - inner)
            lift = shoulder + bend - upper_rad
            cl, sl = math.cos(lift), math.sin(lift)
            # The gripper seen from the forearm: M = (Rz(waist) Ry(lift))^T R.
            m00 = cl * (cw * r00 + sw * r10) - sl * r20
            m01 = cl * (cw * r01 + sw * r11) - sl * r21
            m02 = cl * (cw * r02 + sw * r12) - sl * r22
            m10, m20 = cw * r10 - sw * r00, sl * (cw * r00 + sw * r10) + cl * r20
            sine = math.hypot(m01, m02)
            if sine < _TOLERANCE_RAD:
                m11, m21 = cw * r11 - sw * r01, sl * (cw * r01 + sw * r11) + cl * r21
                turn = _wrapped(math.atan2(m21, m11) - roll_rad)
                yield waist, shoulder, bend - upper_rad, roll_rad, math.atan2(0.0, m00), turn
                continue
            for sign in (1.0, -1.0):
                roll, turn = math.atan2(sign * m10, -sign * m20), math.atan2(sign * m01, sign * m02)
                yield waist, shoulder, bend - upper_rad, roll, math.atan2(sign * sine, m00), turn


def joints_for(
    position_m: Sequence[float],
    rotation: Sequence[Sequence[float]],
    near_J: Sequence[float],
    *,
    spec: RobotSpec = WIDOWX_250S,
) -> Joints:
    """Return the joints that put the gripper at a pose and are nearest to the given ones.

    Args:
        position_m: (3,) gripper position.
        rotation: (3, 3) gripper rotation.
        near_J: (6,) present joints [rad]; the solution whose furthest joint moves least is taken.
        spec: the arm; its joint limits hold.

    Returns:
        Six joints [rad], exact up to 0.1 mm and 1 mrad at the edges of reach, limits and singularity.

    Raises:
        UnreachableError: no solution lies within the limits; hold the arm.
    """
    best: Joints | None = None
    least = math.inf
    for joints in solutions(position_m, rotation, near_J[3], spec.chain):
        furthest = 0.0
        for angle, near, low, high in zip(joints, near_J, spec.joint_low_rad, spec.joint_high_rad, strict=True):
            if not low - _LIMIT_SLACK_RAD <= angle <= high + _LIMIT_SLACK_RAD:
                break
            furthest = max(furthest, abs(angle - near))
        else:
            if furthest < least:
                best, least = joints, furthest
    if best is None:
        where = [round(float(value), 4) for value in position_m]
        raise UnreachableError(f"no joints within limits reach {where} m with the asked rotation; hold the arm")
    a, b, c, d, e, f = (
        min(max(angle, low), high)
        for angle, low, high in zip(best, spec.joint_low_rad, spec.joint_high_rad, strict=True)
    )
    return a, b, c, d, e, f


def _wrapped(angle_rad: float) -> float:
    """The same angle in [-pi, pi]."""
    return math.remainder(angle_rad, math.tau)

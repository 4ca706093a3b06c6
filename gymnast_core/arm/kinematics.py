"""Where an arm's gripper is for which joint angles, and which joint angles put it where it should be.

Product of exponentials in the space frame (Lynch and Park, Modern Robotics, eq. 4.14 and 5.11), numpy only.
Frames: x forward, y left, z up, origin under the waist joint; at the home pose the gripper points along x.

The screw axes that gymnast_core.chain makes of an arm's lengths are those of Interbotix/interbotix_ros_toolboxes
(mr_descriptions) for wx250s and vx300s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gymnast_core.chain import ArmChain
from gymnast_core.errors import ShapeError, UnreachableError
from gymnast_core.spec import WIDOWX_250S, RobotSpec

Array = npt.NDArray[np.float64]


def _skew(vector: Array) -> Array:
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


@dataclass(frozen=True, eq=False)
class _Screws:
    """What the exponentials need of an arm's joints: (6, 3) axes and velocities, their (6, 3, 3) products."""

    w_JX: Array
    v_JX: Array
    w_JXX: Array
    w2_JXX: Array
    wv_JX: Array
    w2v_JX: Array


@lru_cache(maxsize=16)
def _screws(chain: ArmChain) -> _Screws:
    axes_JX = chain.screw_axes_JX
    w_JXX = np.stack([_skew(row[:3]) for row in axes_JX])
    w2_JXX, v_JX = w_JXX @ w_JXX, axes_JX[:, 3:]
    return _Screws(
        axes_JX[:, :3], v_JX, w_JXX, w2_JXX, np.einsum("jab,jb->ja", w_JXX, v_JX),
        np.einsum("jab,jb->ja", w2_JXX, v_JX),
    )  # fmt: skip


def _link_transforms(joints_J: Array, screws: _Screws) -> Array:
    """(7, 4, 4): row j is the product of the exponentials of joints 0..j-1; row 6 times home is the gripper."""
    angle = joints_J[:, None]
    sine, versine = np.sin(angle), 1.0 - np.cos(angle)
    steps = np.zeros((6, 4, 4))
    steps[:, :3, :3] = np.eye(3) + sine[:, :, None] * screws.w_JXX + versine[:, :, None] * screws.w2_JXX
    steps[:, :3, 3] = angle * screws.v_JX + versine * screws.wv_JX + (angle - sine) * screws.w2v_JX
    steps[:, 3, 3] = 1.0
    product = np.empty((7, 4, 4))
    product[0] = np.eye(4)
    for joint in range(6):
        product[joint + 1] = product[joint] @ steps[joint]
    return product


def _checked_joints(joints: npt.ArrayLike) -> Array:
    joints_J = np.asarray(joints, np.float64)
    if joints_J.shape != (6,):
        raise ShapeError(f"joints must be (6,), got {joints_J.shape}")
    return joints_J


def _cross(a_JX: Array, b_JX: Array) -> Array:
    """Row by row; np.cross spends most of its time on its arguments' axes."""
    return a_JX[:, _NEXT] * b_JX[:, _AFTER] - a_JX[:, _AFTER] * b_JX[:, _NEXT]


_NEXT, _AFTER = [1, 2, 0], [2, 0, 1]


def gripper_and_jacobian(joints_J: Array, spec: RobotSpec = WIDOWX_250S) -> tuple[Array, Array, Array]:
    """Position (3,), rotation (3, 3), Jacobian (6, 6) in one pass over the arm's chain."""
    screws = _screws(spec.chain)
    product = _link_transforms(joints_J, screws)
    rotation_XX = product[6, :3, :3]
    position_X = rotation_XX @ spec.chain.home_X + product[6, :3, 3]
    rotations = product[:6, :3, :3]
    w_JX = np.einsum("jab,jb->ja", rotations, screws.w_JX)
    v_JX = np.einsum("jab,jb->ja", rotations, screws.v_JX) + _cross(product[:6, :3, 3], w_JX)
    linear_JX = v_JX + _cross(w_JX, position_X[None])
    return position_X, rotation_XX, np.concatenate([w_JX, linear_JX], axis=1).T


def forward(joints: npt.ArrayLike, spec: RobotSpec = WIDOWX_250S) -> tuple[Array, Array]:
    """Return the position (3,) [m] and rotation (3, 3) of an arm's gripper at six joint angles [rad].

    Raises:
        ShapeError: joints is not (6,).
    """
    product = _link_transforms(_checked_joints(joints), _screws(spec.chain))[6]
    return product[:3, :3] @ spec.chain.home_X + product[:3, 3], product[:3, :3].copy()


def rotation_vector(rotation_XX: Array) -> Array:
    """Return the (3,) rotation vector [rad] of a rotation matrix: its logarithm, angle in [0, pi]."""
    axis = np.array(
        [
            rotation_XX[2, 1] - rotation_XX[1, 2],
            rotation_XX[0, 2] - rotation_XX[2, 0],
            rotation_XX[1, 0] - rotation_XX[0, 1],
        ]
    )
    sine = float(np.sqrt(axis @ axis)) / 2.0
    cosine = (float(np.trace(rotation_XX)) - 1.0) / 2.0
    angle = float(np.arctan2(sine, cosine))
    if sine > 1e-6:
        return axis * (angle / (2.0 * sine))
    if cosine > 0:
        return axis / 2.0
    # Half a turn: the axis is the dominant column of (R + I) / 2.
    outer = (rotation_XX + np.eye(3)) / 2.0
    column = outer[:, int(np.argmax(np.diag(outer)))]
    return np.asarray(column / np.linalg.norm(column) * angle)


def inverse(
    position_m: npt.ArrayLike,
    rotation: npt.ArrayLike,
    guess: npt.ArrayLike,
    *,
    spec: RobotSpec = WIDOWX_250S,
    tolerance_m: float = 1e-4,
    tolerance_rad: float = 1e-3,
    max_iterations: int = 60,
) -> Array:
    """Find joints that put the gripper at a pose: damped least squares (Wampler 1986), clipped to the limits.

    Args:
        position_m: (3,) gripper position.
        rotation: (3, 3) gripper rotation.
        guess: (6,) joints to start from; the nearest solution to it is found, so pass the current ones.
        spec: the arm; its geometry, and its joint limits in every iteration.
        tolerance_m: largest position error accepted.
        tolerance_rad: largest rotation error accepted.
        max_iterations: give up after that many (about 60 microseconds each).

    Returns:
        (6,) joints within the limits.

    Raises:
        UnreachableError: no solution was found; the caller should hold the arm where it is.
    """
    goal_X, goal_XX = np.asarray(position_m, np.float64), np.asarray(rotation, np.float64)
    low, high = np.array(spec.joint_low_rad), np.array(spec.joint_high_rad)
    joints_J = np.clip(_checked_joints(guess), low, high)
    damping, previous = 1e-3, np.inf
    error_m = error_rad = np.inf
    for _ in range(max_iterations):
        position_X, rotation_XX, jacobian_XJ = gripper_and_jacobian(joints_J, spec)
        error = np.concatenate([rotation_vector(goal_XX @ rotation_XX.T), goal_X - position_X])
        error_rad, error_m = float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))
        if error_m < tolerance_m and error_rad < tolerance_rad:
            return joints_J
        size = error_m + 0.2 * error_rad
        damping = max(damping * 0.3, 1e-6) if size < previous else min(damping * 10.0, 1.0)
        previous = size
        square = jacobian_XJ @ jacobian_XJ.T + damping * np.eye(6)
        change = jacobian_XJ.T @ np.linalg.solve(square, error)
        largest = float(np.abs(change).max())
        joints_J = np.clip(joints_J + change * min(1.0, 0.5 / max(largest, 1e-12)), low, high)
    raise UnreachableError(
        f"no joints within limits reach position {np.round(goal_X, 4).tolist()} m with the asked rotation: "
        f"{error_m * 1000:.1f} mm and {error_rad:.3f} rad short after {max_iterations} iterations; hold the arm"
    )

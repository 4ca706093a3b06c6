"""Poses of the gripper by Bridge's conventions: proprioception, and the target that deltas add up to.

Source: default rotation and deltas on the previous target in rail-berkeley/bridge_data_robot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ActionOutOfBoundsError, ShapeError
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import FloatArray

Array = npt.NDArray[np.float64]

DEFAULT_ROTATION: Array = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Gripper straight down: the rotation Bridge's roll, pitch and yaw are relative to."""


def euler_to_rotation(euler_X: npt.ArrayLike) -> Array:
    """Return the rotation (..., 3, 3) of roll, pitch, yaw (..., 3) [rad] about the fixed world axes: Rz Ry Rx."""
    angles = np.asarray(euler_X, np.float64)
    cosines, sines = np.cos(angles), np.sin(angles)
    if angles.ndim == 1:  # one rotation: plain floats, several times quicker than arrays of one
        (cr, cp, cy), (sr, sp, sy) = cosines.tolist(), sines.tolist()
    else:
        (cr, cp, cy), (sr, sp, sy) = np.moveaxis(cosines, -1, 0), np.moveaxis(sines, -1, 0)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    if angles.ndim == 1:
        return np.array(rows)
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_to_euler(rotation: npt.ArrayLike) -> Array:
    """Return roll, pitch, yaw (..., 3) [rad], pitch in [-pi/2, pi/2]; the inverse of euler_to_rotation."""
    matrix = np.asarray(rotation, np.float64)
    pitch = np.arctan2(-matrix[..., 2, 0], np.hypot(matrix[..., 0, 0], matrix[..., 1, 0]))
    roll = np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2])
    yaw = np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])
    return np.stack([roll, pitch, yaw], axis=-1)


def proprioception(position_m: npt.ArrayLike, rotation: npt.ArrayLike, gripper: float) -> FloatArray:
    """Return Bridge's (7,) float32 [xyz m, roll pitch yaw relative to DEFAULT_ROTATION, gripper 0..1]."""
    euler = rotation_to_euler(np.asarray(rotation, np.float64) @ DEFAULT_ROTATION.T)
    return np.concatenate([np.asarray(position_m, np.float64), euler, [gripper]]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class EndEffectorTarget:
    """The commanded pose of the arm: what Bridge's deltas add up to.

    Attributes:
        position_m: (3,) xyz.
        rotation: (3, 3).
        gripper: 0 closed, 1 open.
    """

    position_m: Array
    rotation: Array
    gripper: float

    @classmethod
    def from_proprioception(cls, proprio_P: npt.ArrayLike) -> EndEffectorTarget:
        """The target an arm rests at when it measures this (7,) proprioception."""
        proprio = np.asarray(proprio_P, np.float64)
        if proprio.shape != (7,):
            raise ShapeError(f"proprioception must be (7,), got {proprio.shape}")
        return cls(proprio[:3].copy(), euler_to_rotation(proprio[3:6]) @ DEFAULT_ROTATION, float(proprio[6]))

    @property
    def proprio_P(self) -> FloatArray:
        """(7,) float32: what the arm would measure if it stood exactly here."""
        return proprioception(self.position_m, self.rotation, self.gripper)

    def advanced(self, action_A: npt.ArrayLike, spec: RobotSpec = WIDOWX_250S) -> tuple[EndEffectorTarget, FloatArray]:
        """Add one action to the target, within the step limits and the workspace.

        Args:
            action_A: (7,) deltas and gripper, see gymnast_core.types.ACTION_DIM.
            spec: limits.

        Returns:
            The next target and the action (7,) float32 that leads there: deltas beyond the step limits are cut
            to them, xyz beyond the workspace to its face, the gripper to [0, 1]. A target outside the workspace comes
            back by a step's length at a time.

        Raises:
            ShapeError: the action is not (7,).
            ActionOutOfBoundsError: a value is not finite.
        """
        action = np.asarray(action_A, np.float64)
        if action.shape != (7,):
            raise ShapeError(f"action must be (7,), got {action.shape}")
        if not np.isfinite(action).all():
            raise ActionOutOfBoundsError(f"action {action.tolist()} has values that are not finite; nothing was sent")
        low, high = spec.workspace_low_m, spec.workspace_high_m
        start, wanted = self.position_m.tolist(), action.tolist()
        move = [_clipped(value, -spec.max_translation_m, spec.max_translation_m) for value in wanted[:3]]
        turn = [_clipped(value, -spec.max_rotation_rad, spec.max_rotation_rad) for value in wanted[3:6]]
        position = [_clipped(start[axis] + move[axis], low[axis], high[axis]) for axis in range(3)]
        for axis in range(3):
            if not low[axis] <= start[axis] <= high[axis]:  # back into the workspace, but no further than a step goes
                towards = _clipped(position[axis] - start[axis], -spec.max_translation_m, spec.max_translation_m)
                position[axis] = start[axis] + towards
        gripper = _clipped(wanted[6], 0.0, 1.0)
        rotation = euler_to_rotation(turn) @ self.rotation if any(turn) else self.rotation
        delta = (position[axis] - start[axis] for axis in range(3))
        commanded = np.array([*delta, *turn, gripper], np.float32)
        return EndEffectorTarget(np.array(position), rotation, gripper), commanded


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def commanded_proprioception(
    start_BP: npt.NDArray[np.floating], actions_BTA: npt.NDArray[np.floating], spec: RobotSpec = WIDOWX_250S
) -> FloatArray:
    """Return the poses a batch of action sequences commands, start included: the deltas summed as the arm sums them.

    Args:
        start_BP: (B, 7) proprioception at the start.
        actions_BTA: (B, T, 7) actions; cut to the step limits and the workspace as EndEffectorTarget.advanced does.
        spec: limits.

    Returns:
        (B, T + 1, 7) float32 commanded proprioception; [:, 0] is the start.
    """
    start, actions = np.asarray(start_BP, np.float64), np.asarray(actions_BTA, np.float64)
    batch, steps = actions.shape[:2]
    poses = np.empty((batch, steps + 1, 7))
    poses[:, 0] = start
    rotation = euler_to_rotation(start[:, 3:6])
    turns = euler_to_rotation(np.clip(actions[..., 3:6], -spec.max_rotation_rad, spec.max_rotation_rad))
    moves = np.clip(actions[..., :3], -spec.max_translation_m, spec.max_translation_m)
    for step in range(steps):
        moved = poses[:, step, :3] + moves[:, step]
        inside = np.clip(moved, spec.workspace_low_m, spec.workspace_high_m)
        start_B3 = poses[:, step, :3]
        outside = (start_B3 < spec.workspace_low_m) | (start_B3 > spec.workspace_high_m)
        back = start_B3 + np.clip(inside - start_B3, -spec.max_translation_m, spec.max_translation_m)
        poses[:, step + 1, :3] = np.where(outside, back, inside)
        rotation = turns[:, step] @ rotation
        poses[:, step + 1, 3:6] = rotation_to_euler(rotation)
    poses[:, 1:, 6] = np.clip(actions[..., 6], 0.0, 1.0)
    return poses.astype(np.float32)

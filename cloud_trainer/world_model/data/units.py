"""Units that cannot be ours: found by the names of columns and by the size of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.source import SchemaError, SourceInfo
from gymnast_core.spec import RobotSpec
from gymnast_core.types import Episode, FloatArray

GRIPPER_RANGE = (-0.15, 1.15)
"""0 closed to 1 open, with what a measurement may overshoot."""
_FOREIGN = re.compile(r"deg(ree)?s?$|^deg_|percent|_mm$|_cm$|quat|^q[wxyz]$|axis_?angle", re.IGNORECASE)
_JOINTS = re.compile(r"joint|shoulder|elbow|forearm|waist|wrist|motor", re.IGNORECASE)
_POSES = re.compile(r"^(d|delta_?)?(x|y|z|roll|pitch|yaw)$", re.IGNORECASE)
_SURELY_TOO_FAST = 2.0
"""Times the arm's limit: other arms are a little faster, other units are far off."""
_REMEDY = "convert the dataset first, or read its video alone with --actions none"


class UnitsError(SchemaError):
    """Numbers or names contradict the declared units; the message says which."""


def check_names(info: SourceInfo, what: str, names: Sequence[str]) -> None:
    """Refuse columns whose names say another unit, or another kind of action than is declared.

    Args:
        info: of the dataset.
        what: the feature, for the message.
        names: of the columns read, in order; empty when the dataset gives none.

    Raises:
        UnitsError: names the columns.
    """
    if not info.actions.has_numbers:
        return
    if foreign := [name for name in names if _FOREIGN.search(name)]:
        raise UnitsError(
            f"dataset {info.name}: {what} has columns {foreign}; metres, radians (roll pitch yaw) and a gripper from "
            f"0 to 1 are read: {_REMEDY}"
        )
    if info.actions is ActionKind.EE_DELTA7 and (joints := [name for name in names if _JOINTS.search(name)]):
        raise UnitsError(
            f"dataset {info.name} is declared ee_delta7, but {what} has columns {joints}; declare --actions joint "
            f"(radians, of the arm that --robot names), or {_REMEDY}"
        )
    if info.actions is ActionKind.JOINT and (poses := [name for name in names if _POSES.match(name)]):
        raise UnitsError(
            f"dataset {info.name} is declared joint, but {what} has columns {poses}; declare --actions ee_delta7"
        )


def check_joints(info: SourceInfo, what: str, joints_TJ: FloatArray) -> None:
    """Refuse (T, 7) joints that no revolute joint in radians reaches, and grippers outside 0..1.

    Raises:
        UnitsError: names the largest.
    """
    if not np.isfinite(joints_TJ).all():
        raise UnitsError(f"dataset {info.name}: {what} has values that are not finite; drop those episodes")
    largest = float(np.abs(joints_TJ[:, :6]).max(initial=0.0))
    if largest > 2 * _furthest(info.arm):
        raise UnitsError(
            f"dataset {info.name}: {what} has joints up to {largest:.1f}; no joint of the {info.arm.name} turns "
            f"further than {_furthest(info.arm):.2f} rad. If these are degrees or ticks, {_REMEDY}"
        )
    _check_gripper(info, what, joints_TJ[:, 6])


def check_poses(info: SourceInfo, what: str, poses_TP: FloatArray) -> None:
    """Refuse (T, 7) poses further away than an arm reaches, or turned by more than a turn.

    Raises:
        UnitsError: names the largest.
    """
    if not info.actions.has_numbers:
        return
    if not np.isfinite(poses_TP).all():
        raise UnitsError(f"dataset {info.name}: {what} has values that are not finite; drop those episodes")
    for part, columns, limit, unit in (("positions", slice(0, 3), 3.0, "m"), ("angles", slice(3, 6), 2 * np.pi, "rad")):
        largest = float(np.abs(poses_TP[:, columns]).max(initial=0.0))
        if not largest <= limit:
            raise UnitsError(
                f"dataset {info.name}: {what} has {part} up to {largest:.1f}, at most {limit:.2f} {unit} is possible. "
                f"If it is in other units, {_REMEDY}, or read it without proprioception (--state none)"
            )


def check_sizes(episode: Episode, info: SourceInfo) -> Episode:
    """Return the episode if its actions are of a size that an arm is commanded at the control rate; a camera is none.

    Args:
        episode: in our convention, at the arm's control rate.
        info: of the dataset.

    Raises:
        UnitsError: steps are far above the arm's limits in the root mean square, or a gripper is not between 0 and 1.
    """
    if not info.actions.has_numbers or info.actions is ActionKind.CAMERA:
        return episode
    limits = {"translation": (slice(0, 3), info.arm.max_translation_m, "m"),
              "rotation": (slice(3, 6), info.arm.max_rotation_rad, "rad")}  # fmt: skip
    for part, (columns, limit, unit) in limits.items():
        size = float(np.sqrt(np.square(episode.actions_TA[:, columns], dtype=np.float64).mean(axis=0).max()))
        if not size <= _SURELY_TOO_FAST * limit:
            raise UnitsError(
                f"dataset {info.name}: episode {episode.episode_id} has a {part} of {size:.3g} {unit} a step (root "
                f"mean square), an arm takes at most {limit:g} {unit}; are these absolute, normalised or in other "
                f"units? If so, {_REMEDY}"
            )
    _check_gripper(info, f"episode {episode.episode_id}", episode.actions_TA[:, 6])
    return episode


def _furthest(arm: RobotSpec) -> float:
    return max(map(abs, (*arm.joint_low_rad, *arm.joint_high_rad)))


def _check_gripper(info: SourceInfo, what: str, gripper_T: FloatArray) -> None:
    low, high = float(gripper_T.min(initial=0.0)), float(gripper_T.max(initial=0.0))
    if low < GRIPPER_RANGE[0] or high > GRIPPER_RANGE[1]:
        raise UnitsError(
            f"dataset {info.name}: {what} has a gripper from {low:g} to {high:g}; 0 (closed) to 1 (open) is read. "
            f"If it is -1..1, 0..100 or metres, {_REMEDY}"
        )

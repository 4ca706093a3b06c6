"""The geometry of an arm of six joints whose wrist meets in one point: lengths, and what kinematics makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _exact(metres: float) -> float:
    """A sum of lengths as its digits say, without what adding floats leaves."""
    return round(metres, 9)


@dataclass(frozen=True)
class ArmChain:
    """Where each joint is at zero angles, from the one before it [m]; x forward, y left, z up.

    The waist turns about z, shoulder and elbow about y, the forearm rolls about x, the wrist bends about y and rotates
    about x. Upper arm upright, forearm and gripper along x.

    Attributes:
        shoulder_z_m: shoulder above base_link.
        elbow_x_m: elbow ahead of the shoulder.
        elbow_z_m: elbow above the shoulder.
        forearm_roll_x_m: forearm roll ahead of the elbow.
        wrist_angle_x_m: wrist angle ahead of that.
        wrist_rotate_x_m: wrist rotate ahead of that.
        gripper_x_m: the gripper's frame, between the fingers, ahead of that.
    """

    shoulder_z_m: float
    elbow_x_m: float
    elbow_z_m: float
    forearm_roll_x_m: float
    wrist_angle_x_m: float
    wrist_rotate_x_m: float
    gripper_x_m: float

    @cached_property
    def forearm_m(self) -> float:
        """Elbow to wrist."""
        return _exact(self.forearm_roll_x_m + self.wrist_angle_x_m)

    @cached_property
    def wrist_to_gripper_m(self) -> float:
        """Wrist to the gripper's frame."""
        return _exact(self.wrist_rotate_x_m + self.gripper_x_m)

    @cached_property
    def upper_arm_m(self) -> float:
        """Shoulder to elbow."""
        return math.hypot(self.elbow_x_m, self.elbow_z_m)

    @cached_property
    def upper_arm_rad(self) -> float:
        """Angle of that above the horizontal at zero joints."""
        return math.atan2(self.elbow_z_m, self.elbow_x_m)

    @cached_property
    def screw_axes_JX(self) -> Array:
        """(6, 6) rows [w, v] of the joints in base_link at zero angles."""
        shoulder_m, elbow_m = self.shoulder_z_m, _exact(self.shoulder_z_m + self.elbow_z_m)
        wrist_m = _exact(self.elbow_x_m + self.forearm_m)
        return _fixed(
            [
                [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
                [0.0, 1.0, 0.0, -shoulder_m, 0.0, 0.0],
                [0.0, 1.0, 0.0, -elbow_m, 0.0, self.elbow_x_m],
                [1.0, 0.0, 0.0, 0.0, elbow_m, 0.0],
                [0.0, 1.0, 0.0, -elbow_m, 0.0, wrist_m],
                [1.0, 0.0, 0.0, 0.0, elbow_m, 0.0],
            ]
        )

    @cached_property
    def home_X(self) -> Array:
        """(3,) the gripper at zero joints [m]; its rotation is the identity there."""
        ahead_m = self.elbow_x_m + self.forearm_m + self.wrist_to_gripper_m
        return _fixed([_exact(ahead_m), 0.0, _exact(self.shoulder_z_m + self.elbow_z_m)])


@dataclass(frozen=True)
class LinkSizes:
    """How thick an arm is, for what it keeps from table and itself.

    Attributes:
        palm_to_gripper_m: from the finger carriage, the widest part of the gripper, to the gripper's frame.
        palm_half_width_m: of the carriage.
        elbow_radius_m: around the elbow.
        wrist_radius_m: around the wrist.
        palm_radius_m: half the carriage's thickness.
        base_radius_m: of the column below the shoulder.
        arm_radius_m: of upper arm, forearm and gripper.
        finger_inset_m: how far the fingers' faces are inside of where the finger joints say; 0 where the opening is
            twice the joint.
    """

    palm_to_gripper_m: float
    palm_half_width_m: float
    elbow_radius_m: float
    wrist_radius_m: float
    palm_radius_m: float
    base_radius_m: float
    arm_radius_m: float
    finger_inset_m: float = 0.0


def _fixed(values: list[list[float]] | list[float]) -> Array:
    array = np.array(values)
    array.setflags(write=False)
    return array

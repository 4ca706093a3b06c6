"""An arm and what stands before it as URDF, made from the numbers that the other engine uses.

Joints come from the chain and the limits of the RobotSpec; shapes and masses are
read from the compiled MJCF of gymnast_ros.sim.scene, so that both engines hold the same bodies and differ in how they
move them. Every link's frame is parallel to the base at zero joints and lies on its joint's axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np
import numpy.typing as npt

from gymnast_core.arm.targets import rotation_to_euler
from gymnast_core.spec import JOINT_NAMES, WIDOWX_250S, RobotSpec
from gymnast_ros.sim.scene import DRAWER_TRAVEL_M, SceneConfig, mjcf

Array = npt.NDArray[np.float64]

ARM_BODIES = ("waist", "upper_arm", "upper_forearm", "lower_forearm", "wrist", "gripper")
"""Body of the MJCF that each joint of JOINT_NAMES moves."""
FINGERS = ("left_finger", "right_finger")
GRIPPER_POINT = "gripper_point"
FINGER_FORCE_N = 8.0
"""As the MJCF's actuators have it."""


class SceneShapes:
    """Shapes and masses of a compiled MJCF at zero joints.

    Args:
        scene: looks and distractors.
        robot: the arm.
    """

    def __init__(self, scene: SceneConfig, robot: RobotSpec = WIDOWX_250S) -> None:
        self._robot = robot
        self._model = model = mujoco.MjModel.from_xml_string(mjcf(scene, 1, robot))
        self._data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, self._data)
        mujoco.mj_comPos(model, self._data)

    def arm(self) -> str:
        """Return the arm's URDF: six joints, the gripper's point, two fingers."""
        spec = self._robot
        axes_JX, home_X = spec.chain.screw_axes_JX, spec.chain.home_X
        origins = [np.cross(row[:3], row[3:]) for row in axes_JX]
        parts = [f"<link name='base'>{_FIXED}{self._collisions('world', np.zeros(3), skip=('table',))}</link>"]
        parent, at_X = "base", np.zeros(3)
        for index, (name, body) in enumerate(zip(JOINT_NAMES, ARM_BODIES, strict=True)):
            limits = (spec.joint_low_rad[index], spec.joint_high_rad[index])
            parts.append(self._link(name, body, origins[index]))
            parts.append(
                _joint(name, "revolute", parent, name, origins[index] - at_X, axes_JX[index, :3], limits,
                       spec.stall_nm[index], spec.joint_velocity_rad_s)
            )  # fmt: skip
            parent, at_X = name, origins[index]
        parts.append(f"<link name='{GRIPPER_POINT}'>{_inertial(1e-3, np.zeros(3), np.eye(3), np.full(3, 1e-6))}</link>")
        parts.append(_fixed(GRIPPER_POINT, parent, home_X - at_X))
        for name, side in zip(FINGERS, (1.0, -1.0), strict=True):
            limits = (spec.finger_closed_m, spec.finger_open_m)
            parts.append(self._link(name, name, home_X))
            parts.append(
                _joint(name, "prismatic", GRIPPER_POINT, name, np.zeros(3), np.array([0.0, side, 0.0]), limits,
                       FINGER_FORCE_N, 0.5)
            )  # fmt: skip
        return f"<robot name='{spec.name}'>{''.join(parts)}</robot>"

    def single(self, body: str) -> str:
        """Return the URDF of a body without joints, its frame as in the MJCF; one without mass does not move."""
        at_X = self._data.body(body).xpos
        return f"<robot name='{body}'>{self._link(body, body, at_X)}</robot>"

    def table(self) -> str:
        """Return the table's URDF, in base_link."""
        shape = self._collisions("world", np.zeros(3), only="table")
        return f"<robot name='table'><link name='table'>{_FIXED}{shape}</link></robot>"

    def cabinet(self) -> str:
        """Return the URDF of the cabinet with its drawer."""
        at_X = self._data.body("cabinet").xpos
        slide = _joint(
            "drawer", "prismatic", "cabinet", "drawer", np.zeros(3), np.array([0.0, 1.0, 0.0]), (0.0, DRAWER_TRAVEL_M),
            100.0, 10.0,
        )  # fmt: skip
        links = self._link("cabinet", "cabinet", at_X) + self._link("drawer", "drawer", at_X)
        return f"<robot name='cabinet'>{links}{slide}</robot>"

    def _link(self, name: str, body: str, origin_X: Array) -> str:
        return f"<link name='{name}'>{self._mass(body, origin_X)}{self._collisions(body, origin_X)}</link>"

    def _mass(self, body: str, origin_X: Array) -> str:
        """A slide's armature is mass that its motor carries, so it counts; a fixed body has none."""
        index = self._model.body(body).id
        mass = float(self._model.body_mass[index])
        if self._model.body_dofnum[index] == 1:
            joint = int(self._model.body_jntadr[index])
            if self._model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE:
                mass += float(self._model.dof_armature[self._model.body_dofadr[index]])
        if mass == 0.0 or self._model.body_mocapid[index] >= 0:
            return _FIXED
        place_X = self._data.xipos[index] - origin_X
        rotation_XX = self._data.ximat[index].reshape(3, 3)
        return _inertial(mass, place_X, rotation_XX, self._model.body_inertia[index])

    def _collisions(self, body: str, origin_X: Array, *, skip: Sequence[str] = (), only: str = "") -> str:
        parts = []
        for geom in range(self._model.ngeom):
            if self._model.geom_bodyid[geom] != self._model.body(body).id:
                continue
            name = self._model.geom(geom).name
            if name in skip or (only and name != only):
                continue
            place_X = self._data.geom_xpos[geom] - origin_X
            turn_X = rotation_to_euler(self._data.geom_xmat[geom].reshape(3, 3))
            shape = _shape(int(self._model.geom_type[geom]), self._model.geom_size[geom])
            colour = _words(self._model.geom_rgba[geom])
            geometry = f"<origin xyz='{_words(place_X)}' rpy='{_words(turn_X)}'/><geometry>{shape}</geometry>"
            if not _decorative(name):
                parts.append(f"<collision>{geometry}</collision>")
            paint = f"<material name='{body}{geom}'><color rgba='{colour}'/></material>"
            parts.append(f"<visual>{geometry}{paint}</visual>")
        return "".join(parts)


def _decorative(name: str) -> bool:
    """Whether a geom is only looked at."""
    return name == "drawer_tray"


def _shape(kind: int, size_X: Array) -> str:
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return f"<box size='{_words(2.0 * size_X)}'/>"
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return f"<sphere radius='{size_X[0]:.9g}'/>"
    word = "capsule" if kind == mujoco.mjtGeom.mjGEOM_CAPSULE else "cylinder"
    return f"<{word} radius='{size_X[0]:.9g}' length='{2.0 * size_X[1]:.9g}'/>"


def _joint(
    name: str, kind: str, parent: str, child: str, origin_X: Array, axis_X: Array, limits: tuple[float, float],
    effort: float, velocity: float,
) -> str:  # fmt: skip
    low, high = (float(limit) for limit in limits)  # of numpy's their repr would be a call
    return (
        f"<joint name='{name}' type='{kind}'><parent link='{parent}'/><child link='{child}'/>"
        f"<origin xyz='{_words(origin_X)}'/><axis xyz='{_words(axis_X)}'/>"
        f"<limit lower='{low!r}' upper='{high!r}' effort='{effort}' velocity='{float(velocity)!r}'/></joint>"
    )


def _fixed(child: str, parent: str, origin_X: Array) -> str:
    return (
        f"<joint name='{child}' type='fixed'><parent link='{parent}'/><child link='{child}'/>"
        f"<origin xyz='{_words(origin_X)}'/></joint>"
    )


def _inertial(mass: float, place_X: Array, rotation_XX: Array, inertia_X: Array) -> str:
    turn_X = rotation_to_euler(rotation_XX)
    ixx, iyy, izz = (float(value) for value in inertia_X)
    return (
        f"<inertial><mass value='{mass!r}'/><origin xyz='{_words(place_X)}' rpy='{_words(turn_X)}'/>"
        f"<inertia ixx='{ixx!r}' ixy='0' ixz='0' iyy='{iyy!r}' iyz='0' izz='{izz!r}'/></inertial>"
    )


_FIXED = "<inertial><mass value='1'/><inertia ixx='1' ixy='0' ixz='0' iyy='1' iyz='0' izz='1'/></inertial>"
"""Of a base that is loaded as fixed; Bullet prints a warning where there is none."""


def _words(values: npt.NDArray[np.floating]) -> str:
    """Twelve digits: what is left after them is below a nanometre."""
    return " ".join(f"{0.0 if math.isclose(value, 0.0, abs_tol=1e-12) else float(value):.12g}" for value in values)

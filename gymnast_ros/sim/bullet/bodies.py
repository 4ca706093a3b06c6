"""The bodies of one table in a Bullet server: loaded from URDF, put where they belong. No motors, no solver."""

from __future__ import annotations

import tempfile
from collections.abc import ItemsView, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pybullet

from gymnast_ros.sim.bullet.urdf import SceneShapes
from gymnast_ros.sim.scene import DISTRACTORS

Array = npt.NDArray[np.float64]

ARM_JOINTS = tuple(range(6))
GRIPPER_LINK = 6
"""Of the gripper's point; a link has the number of the joint that moves it."""
FINGER_JOINTS = (7, 8)
_ORIGIN = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


class BulletBodies:
    """What stands on one table, the arm included.

    Args:
        shapes: what there is.
        distractors: how many of gymnast_ros.sim.scene.DISTRACTORS.
    """

    def __init__(self, shapes: SceneShapes, distractors: int = 0) -> None:
        self.moving = ("red_cube", "blue_block", *DISTRACTORS[:distractors])
        self._folder = tempfile.TemporaryDirectory(prefix="gymnast-urdf-")
        texts = {"arm": shapes.arm(), "table": shapes.table(), "cabinet": shapes.cabinet()}
        texts |= {name: shapes.single(name) for name in ("plate", *self.moving)}
        for name, text in texts.items():
            (Path(self._folder.name) / f"{name}.urdf").write_text(text, encoding="utf-8")
        self._names = tuple(texts)
        self._body: dict[str, int] = {}
        self.client = pybullet.connect(pybullet.DIRECT)
        """Number of the server, for calls of pybullet."""

    def __getitem__(self, name: str) -> int:
        """Bullet's number of a body."""
        return self._body[name]

    def items(self) -> ItemsView[str, int]:
        """Names and numbers."""
        return self._body.items()

    def close(self) -> None:
        """Free the server; safe to call twice."""
        if self.client >= 0:
            pybullet.disconnect(physicsClientId=self.client)
            self.client = -1
            self._folder.cleanup()

    def load(self, poses: Mapping[str, Array]) -> None:
        """Load every body, into a server that is empty.

        Args:
            poses: (7,) position and quaternion w x y z; the origin where there is none.
        """
        for name in self._names:
            place, turn = _bullets(poses.get(name, _ORIGIN))
            self._body[name] = pybullet.loadURDF(
                f"{self._folder.name}/{name}.urdf", place, turn, useFixedBase=name not in self.moving,
                physicsClientId=self.client,
            )  # fmt: skip

    def move(self, poses: Mapping[str, Array]) -> None:
        """Put bodies elsewhere."""
        for name, pose in poses.items():
            pybullet.resetBasePositionAndOrientation(self._body[name], *_bullets(pose), physicsClientId=self.client)

    def set_joints(self, joints_J: Array, fingers_F: Array, drawer_m: float) -> None:
        """Put the arm (6,) [rad], its fingers (2,) [m] and the drawer [m] somewhere, at rest."""
        for joint, value in zip((*ARM_JOINTS, *FINGER_JOINTS), (*joints_J, *fingers_F), strict=True):
            pybullet.resetJointState(self._body["arm"], joint, float(value), physicsClientId=self.client)
        pybullet.resetJointState(self._body["cabinet"], 0, drawer_m, physicsClientId=self.client)

    def gripper(self) -> tuple[Array, Array]:
        """Return where the gripper's point is, (3,) [m], and its rotation (3, 3)."""
        link = pybullet.getLinkState(
            self._body["arm"], GRIPPER_LINK, computeForwardKinematics=1, physicsClientId=self.client
        )
        return np.array(link[4]), np.array(pybullet.getMatrixFromQuaternion(link[5])).reshape(3, 3)


def _bullets(pose: Array) -> tuple[list[float], list[float]]:
    """Position and quaternion x y z w."""
    x, y, z, qw, qx, qy, qz = pose.tolist()
    return [x, y, z], [qx, qy, qz, qw]

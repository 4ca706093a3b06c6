"""Bullet's own pictures of a table: another look at the same state, drawn by TinyRenderer without any OpenGL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pybullet

from gymnast_core.types import ByteArray
from gymnast_ros.sim.bullet.bodies import BulletBodies

Array = npt.NDArray[np.float64]

_NEAR_M, _FAR_M = 0.02, 8.0


@dataclass(frozen=True, eq=False)
class Camera:
    """Where a picture is taken from.

    Attributes:
        place_X: (3,) [m].
        axes_XX: (3, 3), columns right, up and back.
        fovy_deg: vertical field of view.
    """

    place_X: Array
    axes_XX: Array
    fovy_deg: float

    def view(self) -> list[float]:
        """OpenGL's view matrix, column by column."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes_XX.T
        matrix[:3, 3] = -self.axes_XX.T @ self.place_X
        return list(matrix.T.ravel())


class BulletPictures:
    """Draws states; holds bodies of its own, so that drawing late disturbs no physics.

    Args:
        bodies: in a server of their own.
    """

    def __init__(self, bodies: BulletBodies) -> None:
        self._bodies = bodies
        bodies.load({})

    def draw(
        self, joints_J: Array, fingers_F: Array, drawer_m: float, poses: Mapping[str, Array], camera: Camera,
        height: int, width: int,
    ) -> ByteArray:  # fmt: skip
        """Return a picture, (H, W, 3) uint8; about 15 ms at 256 pixels.

        Args:
            joints_J: (6,) [rad].
            fingers_F: (2,) [m].
            drawer_m: how far it is out.
            poses: of plate, cabinet and objects, (7,) position and quaternion w x y z.
            camera: where it is taken from.
            height: H.
            width: W.
        """
        self._bodies.move(poses)
        self._bodies.set_joints(joints_J, fingers_F, drawer_m)
        lens = pybullet.computeProjectionMatrixFOV(camera.fovy_deg, width / height, _NEAR_M, _FAR_M)
        _, _, pixels, _, _ = pybullet.getCameraImage(
            width, height, camera.view(), lens, shadow=0, renderer=pybullet.ER_TINY_RENDERER,
            flags=pybullet.ER_NO_SEGMENTATION_MASK, lightDirection=[0.1, 0.3, 1.2],
            physicsClientId=self._bodies.client,
        )  # fmt: skip
        return np.ascontiguousarray(np.asarray(pixels, np.uint8).reshape(height, width, 4)[..., :3])

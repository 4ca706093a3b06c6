"""The second simulator: physics of Bullet, pixels of the MuJoCo scene, behind gymnast_core.env.Env. No ROS.

Joint and object poses are copied into the MuJoCo model after each step, so what a policy sees is drawn as in training
and only the dynamics differ; with Bullet's own renderer the looks differ, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import mujoco
import numpy as np
import numpy.typing as npt

from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ByteArray, Observation
from gymnast_ros.sim import scene as scenes
from gymnast_ros.sim.bullet.bodies import BulletBodies
from gymnast_ros.sim.bullet.conditions import NOMINAL, Conditions, Randomisation
from gymnast_ros.sim.bullet.pictures import BulletPictures, Camera
from gymnast_ros.sim.bullet.urdf import SceneShapes
from gymnast_ros.sim.bullet.world import BulletWorld, Strain, WorldState
from gymnast_ros.sim.env import MAX_STEPS, PHYSICS_HZ, SETTLE_STEPS, SimEnv
from gymnast_ros.sim.tasks import Layout

Array = npt.NDArray[np.float64]


class BulletEnv(SimEnv):
    """SimEnv whose dynamics are Bullet's, under conditions that the seed decides.

    Start states, tasks, limits and privileged methods are those of SimEnv.

    Args:
        scene: looks and distractors.
        max_steps: T at 5 Hz; give it a step more for each of latency.
        image_size: side of the camera's square image in pixels.
        rate_hz: control rate; None is the arm's own.
        randomisation: what differs from start to start.
        own_pictures: let Bullet draw, too: a shift of looks as well as of physics.
        robot: the arm.
    """

    def __init__(
        self, scene: scenes.SceneConfig = scenes.STANDARD, max_steps: int = MAX_STEPS, image_size: int = 256,
        *, rate_hz: float | None = None, randomisation: Randomisation = NOMINAL, own_pictures: bool = False,
        robot: RobotSpec = WIDOWX_250S,
    ) -> None:  # fmt: skip
        super().__init__(scene, max_steps, image_size, rate_hz=rate_hz, robot=robot)
        self._randomisation = randomisation
        self._conditions = Conditions()
        self._shapes = SceneShapes(scene, robot)
        self._bodies = BulletBodies(self._shapes, scene.distractors)
        self._world = BulletWorld(self._bodies, self._spec.robot.stall_nm)
        self._own_pictures = own_pictures
        self._pictures: tuple[BulletBodies, BulletPictures] | None = None
        self._camera = self._model.camera(scenes.CAMERA).id
        self._camera_m = self._model.cam_pos[self._camera].copy()
        self._camera_deg = float(self._model.cam_fovy[self._camera])
        self._under_way: deque[tuple[Array, float]] = deque()
        self._driven_J = np.zeros(6)
        self.strain = Strain()
        """Of the last step; privileged."""

    @property
    def conditions(self) -> Conditions:
        """Privileged: of this episode."""
        return self._conditions

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode; see gymnast_core.env.Env.reset."""
        self._conditions = self._randomisation.draw(seed)
        self.strain = Strain()
        return super().reset(instruction, seed=seed)

    def close(self) -> None:
        """Free renderer and physics server; a frame first looked at after this opens what it needs again."""
        super().close()
        self._bodies.close()
        if self._pictures is not None:
            self._pictures[0].close()
            self._pictures = None

    def visible_state(self) -> tuple[Array, ...]:
        """Privileged: what render() needs to draw this moment later; the camera's place and angle come last."""
        conditions = self._conditions
        camera = np.array([*conditions.camera_shift_m, conditions.camera_widening_deg])
        return (*super().visible_state(), camera)

    def render(self, state: tuple[Array, ...]) -> ByteArray:
        """Privileged: draw a state of this scene, (H, W, 3) uint8."""
        *seen, camera = state
        self._model.cam_pos[self._camera] = self._camera_m + camera[:3]
        self._model.cam_fovy[self._camera] = self._camera_deg + camera[3]
        if not self._own_pictures:
            return super().render(tuple(seen))
        if self._pictures is None:
            bodies = BulletBodies(self._shapes, self.scene.distractors)
            self._pictures = bodies, BulletPictures(bodies)
        data = self._seen
        data.qpos[:], data.mocap_pos[:] = seen
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_camlight(self._model, data)
        axes_XX = data.cam_xmat[self._camera].reshape(3, 3)
        camera_now = Camera(data.cam_xpos[self._camera], axes_XX, float(self._model.cam_fovy[self._camera]))
        return self._pictures[1].draw(
            data.qpos[:6], data.qpos[6:8], float(data.qpos[self._drawer]), self._poses(data), camera_now,
            self._spec.image_height, self._spec.image_width,
        )  # fmt: skip

    def _place(self, layout: Layout) -> None:
        super()._place(layout)
        data = self._data
        self._world.reset(self._joints_J, data.qpos[6:8], layout.drawer_open_m, self._poses(data), self._conditions)
        self._driven_J = self._joints_J
        still = (self._joints_J, self._spec.robot.finger_open_m)
        self._under_way = deque([still] * self._conditions.latency_steps)

    def _settle(self) -> None:
        """See SimEnv; the arm stands where the MuJoCo model has it."""
        data = self._data
        self._bodies.set_joints(data.qpos[:6], data.qpos[6:8], float(data.qpos[self._drawer]))
        self._driven_J, finger = data.qpos[:6].copy(), float(data.ctrl[6])
        self._under_way = deque([(self._driven_J, finger)] * self._conditions.latency_steps)
        seconds = SETTLE_STEPS / PHYSICS_HZ
        self._world.drive(self._driven_J, self._driven_J, finger, 1, seconds)
        self._mirror(self._world.state())

    def _move(self, joints_J: Array, gripper: float) -> None:
        """Drive joints and fingers towards what was commanded so many steps ago."""
        robot = self._spec.robot
        finger = robot.finger_closed_m + gripper * (robot.finger_open_m - robot.finger_closed_m)
        self._under_way.append((joints_J, finger))
        goal_J, finger = self._under_way.popleft()
        self.strain = self._world.drive(self._driven_J, goal_J, finger, self._pieces, robot.step_s)
        self._driven_J = goal_J
        self._mirror(self._world.state())

    def _mirror(self, state: WorldState) -> None:
        """Copy Bullet's state into the MuJoCo model, which observation, labels and pictures are read from."""
        data = self._data
        data.qpos[:6], data.qpos[6:8], data.qvel[:6] = state.joints_J, state.fingers_F, state.velocities_J
        data.qpos[self._drawer] = state.drawer_m
        for name, pose in state.poses.items():
            data.joint(name).qpos[:], data.joint(name).qvel[:] = pose, state.twists[name]
        mujoco.mj_kinematics(self._model, data)

    def _poses(self, data: mujoco.MjData) -> dict[str, Array]:
        """(7,) position and quaternion w x y z of everything that stands on the table."""
        poses = {name: data.joint(name).qpos.copy() for name in self._bodies.moving}
        for name, index in self._mocap.items():
            poses[name] = np.concatenate([data.mocap_pos[index], data.mocap_quat[index]])
        return poses

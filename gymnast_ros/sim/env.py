"""The simulated arm: MuJoCo behind gymnast_core.env.Env, no ROS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mujoco
import numpy as np
import numpy.typing as npt

from gymnast_core.arm.kinematics import forward, inverse
from gymnast_core.arm.targets import DEFAULT_ROTATION, EndEffectorTarget, proprioception
from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import EpisodeOverError, UnreachableError
from gymnast_core.spec import WIDOWX_250S, EnvSpec, RobotSpec
from gymnast_core.types import ByteArray, FloatArray, Observation, StepResult
from gymnast_ros.sim import scene as scenes
from gymnast_ros.sim.menagerie import dressed
from gymnast_ros.sim.tasks import Layout, Oracle, Task, draw_layout, ready_tasks, task_for

Array = npt.NDArray[np.float64]

MAX_STEPS = 15
PHYSICS_HZ = 200
"""Physics steps of 5 ms."""
RAMP = 10
"""The joint target moves in this many equal pieces within a control step, as a servo's profile does; at most one a
physics step."""
SETTLE_STEPS = 100
"""Physics steps, half a second, in which what the arm let go of comes to rest."""
_GUESS_J = np.array([0.0, 0.02, 0.18, 0.0, 1.37, 0.0])
"""Joints of a gripper pointing down over the middle of the table."""


class _LazyFrames(Mapping[str, ByteArray]):
    """The camera's frame of one moment, drawn when first looked at and kept.

    It must be looked at in the thread that looked first: an OpenGL context belongs to one thread.
    """

    def __init__(self, env: SimEnv) -> None:
        self._env = env
        self._state = env.visible_state()
        self._frame: ByteArray | None = None

    def __getitem__(self, camera: str) -> ByteArray:
        if camera != scenes.CAMERA:
            raise KeyError(camera)
        if self._frame is None:
            self._frame = self._env.render(self._state)[None]
            self._frame.setflags(write=False)
        return self._frame

    def __iter__(self) -> Iterator[str]:
        return iter((scenes.CAMERA,))

    def __len__(self) -> int:
        return 1


class SimEnv:
    """One simulated arm over a table, B = 1, delta control of the gripper.

    reset(instruction, seed=) names the start state: the task the instruction asks for and the seed decide it.
    An action beyond the step limits or the workspace is cut to them; a pose without joint solution holds the arm;
    commanded_BA is what was done. Beyond the contract there are privileged methods for labels, evaluation and
    the scripted expert: succeeded(), success_step, state_digest(), oracle(). They never reach an observation.

    Args:
        scene: looks and distractors.
        max_steps: T at 5 Hz, after which the episode is truncated; at another rate it takes as long.
        image_size: side of the camera's square image in pixels.
        rate_hz: control rate, one of gymnast_core.spec.RATES_HZ; None is the arm's own.
        menagerie: a copy of MuJoCo Menagerie, whose arm is drawn; None draws ours.
        robot: the arm.
    """

    def __init__(
        self, scene: scenes.SceneConfig = scenes.STANDARD, max_steps: int = MAX_STEPS, image_size: int = 256,
        *, rate_hz: float | None = None, menagerie: Path | None = None, robot: RobotSpec = WIDOWX_250S,
    ) -> None:  # fmt: skip
        self.scene, rate_hz = scene, rate_hz or robot.control_hz
        ticks = round(max_steps * rate_hz / robot.control_hz)
        self._spec = EnvSpec(1, (scenes.CAMERA,), image_size, image_size, ticks, robot.at(rate_hz))
        self._substeps = round(PHYSICS_HZ / rate_hz)
        self._pieces = max(n for n in range(1, RAMP + 1) if self._substeps % n == 0)
        self._model = mujoco.MjModel.from_xml_string(dressed(scenes.mjcf(scene, image_size, robot), menagerie))
        self._friction = self._model.geom_friction.copy()
        self._data, self._seen = mujoco.MjData(self._model), mujoco.MjData(self._model)
        self._renderer: mujoco.Renderer | None = None
        self._objects = {n: self._model.body(n).id for n in ("red_cube", "blue_block", "drawer")}
        self._mocap = {n: int(self._model.body_mocapid[self._model.body(n).id]) for n in ("plate", "cabinet")}
        self._drawer = int(self._model.joint("drawer").qposadr[0])
        self._task: Task | None = None
        self._target = EndEffectorTarget(np.zeros(3), DEFAULT_ROTATION, 1.0)
        self._joints_J = _GUESS_J
        self._block_start_X = np.zeros(3)
        self._steps, self._open = 0, False
        self._success_step: int | None = None

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        return self._spec

    @property
    def task(self) -> Task:
        """The task of the running episode.

        Raises:
            EpisodeOverError: reset() was never called.
        """
        if self._task is None:
            raise EpisodeOverError("there is no episode yet; call reset() first")
        return self._task

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode; see gymnast_core.env.Env.reset.

        Raises:
            ContractError: the instruction is none of the tasks' (gymnast_ros.sim.tasks.TASKS).
        """
        self._task = task_for(instructions_for(instruction, 1)[0])
        layout = draw_layout(self._task, seed, self.scene.distractors)
        mujoco.mj_resetData(self._model, self._data)
        self._place(layout)
        mujoco.mj_forward(self._model, self._data)
        self._block_start_X = self._data.xpos[self._objects["blue_block"]].copy()
        self._steps, self._success_step, self._open = 0, None, True
        return self._observation()

    def rehome(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode in the scene as it is: the arm lets go and returns to where this seed starts it.

        What it held falls; everything else stays where the last episode left it, as on a real arm.

        Raises:
            EpisodeOverError: there was no episode that could have left anything.
            ContractError: the instruction is none of the tasks'.
        """
        if self._task is None:
            raise EpisodeOverError("there is no scene to keep yet; call reset() first")
        self._task = task_for(instructions_for(instruction, 1)[0])
        self._data.ctrl[6:8] = self._spec.robot.finger_open_m
        self._settle()
        self._bring_home(draw_layout(self._task, seed, self.scene.distractors).gripper_X)
        self._data.qvel[:] = 0.0
        self._settle()
        mujoco.mj_forward(self._model, self._data)
        self._block_start_X = self._data.xpos[self._objects["blue_block"]].copy()
        self._steps, self._success_step, self._open = 0, None, True
        return self._observation()

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action; see gymnast_core.env.Env.step."""
        if not self._open:
            raise EpisodeOverError("the episode is over or was never started; call reset() first")
        action = checked_action(action_BA, 1)[0]
        target, commanded = self._target.advanced(action, self._spec.robot)
        try:
            joints = inverse(target.position_m, target.rotation, self._joints_J, spec=self._spec.robot)
        except UnreachableError:
            target = EndEffectorTarget(self._target.position_m, self._target.rotation, target.gripper)
            commanded[:6], joints = 0.0, self._joints_J
        self._move(joints, target.gripper)
        self._target, self._joints_J = target, joints
        self._steps += 1
        if self._success_step is None and self.task.succeeded(self.oracle()):
            self._success_step = self._steps
        self._open = self._steps < self._spec.max_steps
        never = np.zeros(1, np.bool_)
        return StepResult(self._observation(), never, np.array([not self._open]), commanded[None])

    def close(self) -> None:
        """Free the renderer; a frame first looked at after this opens it again."""
        self._open = False
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def arm_target(self) -> tuple[EndEffectorTarget, Array]:
        """Commanded pose and its joints (6,) [rad], as an arm reports them."""
        return self._target, np.asarray(self._joints_J, np.float64)

    def joints(self) -> tuple[Array, Array]:
        """Measured joints (6,) [rad] and their velocities [rad/s]."""
        return self._data.qpos[:6].copy(), self._data.qvel[:6].copy()

    def ready(self) -> list[str]:
        """Privileged: the tasks that could be begun as things stand, by name."""
        return ready_tasks(self.oracle())

    def succeeded(self) -> bool:
        """Privileged: whether the task was done in any state of this episode so far."""
        return self._success_step is not None

    @property
    def success_step(self) -> int | None:
        """Privileged: control steps until the task was first done; None if it never was."""
        return self._success_step

    def set_friction(self, times: float) -> None:
        """Privileged: make gripper and everything on the table slip this much less, from the next reset on."""
        self._model.geom_friction[:] = self._friction * times

    def state_digest(self) -> str:
        """Privileged: SHA-256 over everything that decides how the episode goes on."""
        data = self._data
        parts = (data.qpos, data.qvel, data.act, data.ctrl, data.mocap_pos, self._target.position_m)
        digest = hashlib.sha256(self._target.rotation.tobytes())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(f"{self.task.name} {self._steps}".encode())
        return digest.hexdigest()

    def oracle(self) -> Oracle:
        """Privileged: the true state."""
        plate, cabinet = (self._data.mocap_pos[self._mocap[name]] for name in ("plate", "cabinet"))
        return Oracle(
            step=self._steps,
            red_cube_X=self._data.xpos[self._objects["red_cube"]].copy(),
            blue_block_X=self._data.xpos[self._objects["blue_block"]].copy(),
            blue_block_start_X=self._block_start_X.copy(),
            plate_X=plate + np.array([0.0, 0.0, scenes.PLATE_HALF_HEIGHT_M]),
            drawer_face_X=cabinet.copy(),
            drawer_open_m=float(self._data.qpos[self._drawer]),
            gripper_open=self._gripper_open(),
            commanded_gripper=self._target.gripper,
            target_X=self._target.position_m.copy(),
        )

    def visible_state(self) -> tuple[Array, ...]:
        """Privileged: what render() needs to draw this moment later."""
        return self._data.qpos.copy(), self._data.mocap_pos.copy()

    def render(self, state: tuple[Array, ...]) -> ByteArray:
        """Privileged: draw a state of this scene, (H, W, 3) uint8; about 1 ms."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, self._spec.image_height, self._spec.image_width)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = False
        self._seen.qpos[:], self._seen.mocap_pos[:] = state
        mujoco.mj_kinematics(self._model, self._seen)
        mujoco.mj_camlight(self._model, self._seen)
        self._renderer.update_scene(self._seen, camera=scenes.CAMERA)
        return np.asarray(self._renderer.render())

    def _place(self, layout: Layout) -> None:
        data = self._data
        self._bring_home(layout.gripper_X)
        for name, place_X, yaw in (
            ("red_cube", layout.red_cube_X, layout.red_cube_rad),
            ("blue_block", layout.blue_block_X, layout.blue_block_rad),
        ):
            on_m = layout.red_cube_on_m if name == "red_cube" else 0.0
            pose = (*place_X, scenes.CUBE_HALF_M + on_m, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
            data.joint(name).qpos[:] = pose
        for name, place_X in zip(scenes.DISTRACTORS, layout.distractors_DX, strict=False):
            data.joint(name).qpos[:] = (*place_X, 0.02, 1.0, 0.0, 0.0, 0.0)
        data.mocap_pos[self._mocap["plate"]] = (*layout.plate_X, scenes.PLATE_HALF_HEIGHT_M)
        data.mocap_pos[self._mocap["cabinet"]] = (*layout.drawer_face_X, 0.0)
        data.qpos[self._drawer] = layout.drawer_open_m

    def _settle(self) -> None:
        """Let go of what is held, or let fall what hangs."""
        mujoco.mj_step(self._model, self._data, SETTLE_STEPS)

    def _bring_home(self, gripper_X: Array) -> None:
        """Put the arm, open, where an episode starts."""
        robot, data = self._spec.robot, self._data
        self._target = EndEffectorTarget(gripper_X, DEFAULT_ROTATION, 1.0)
        self._joints_J = inverse(gripper_X, DEFAULT_ROTATION, _GUESS_J, spec=robot)
        data.qpos[:6] = self._joints_J
        data.qpos[6:8] = robot.finger_open_m
        data.ctrl[:] = data.qpos[:8]

    def _move(self, joints_J: Array, gripper: float) -> None:
        """Drive joints and fingers from the target before to the present one, in one step."""
        robot, control = self._spec.robot, self._data.ctrl
        finger = robot.finger_closed_m + gripper * (robot.finger_open_m - robot.finger_closed_m)
        start = control[:6].copy()
        control[6:8] = finger
        for piece in range(1, self._pieces + 1):
            control[:6] = start + (joints_J - start) * (piece / self._pieces)
            mujoco.mj_step(self._model, self._data, self._substeps // self._pieces)
        mujoco.mj_kinematics(self._model, self._data)

    def _gripper_open(self) -> float:
        robot = self._spec.robot
        finger = float(self._data.qpos[6:8].mean())
        span = robot.finger_open_m - robot.finger_closed_m
        return float(np.clip((finger - robot.finger_closed_m) / span, 0.0, 1.0))

    def _observation(self) -> Observation:
        position_X, rotation_XX = forward(self._data.qpos[:6], self._spec.robot)
        proprio = proprioception(position_X, rotation_XX, self._gripper_open())
        time_ns = np.array([self._steps * self._spec.robot.step_ns], np.int64)
        return Observation(_LazyFrames(self), proprio[None], time_ns)

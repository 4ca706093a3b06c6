"""Meta-World with starts that a seed names, drawn small and without shadows: an environment for `gymnast env serve`.

Meta-World's own registered ids draw each start from 50 that gymnasium.make() fixed, whatever reset(seed=...) says. It
runs in the virtual environment of Meta-World, which has none of ours but the package without extras.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import metaworld
import mujoco
import numpy as np

CAMERA = "corner2"
"""Of Meta-World's cameras; moved, as in most work that learns from its pictures, to where the workspace fills them."""
POSITION_M, TARGET_M, FIELD_DEG = (0.75, 0.075, 0.7), (0.0, 0.7, 0.12), 42.0
"""Where that camera is, what it looks at, in Meta-World's frame, and its vertical field of view."""
BASE_M = (0.0, 0.33, 0.0)
"""Our base frame in Meta-World's: x forward is their y, y left their -x; the workspace lies before it as before an arm
on a table."""


def camera_matrix(size: int = 64) -> tuple[float, ...]:
    """Return 12 numbers, row-major 3x4: metres in our base frame -> homogeneous pixels (column, row) of the picture."""
    turned_33 = _turned()
    focal, middle = size / 2 / np.tan(np.radians(FIELD_DEG) / 2), (size - 1) / 2
    lens_33 = np.array([[focal, 0, -middle], [0, -focal, -middle], [0, 0, -1.0]])
    to_theirs_34 = np.array([[0, -1, 0, BASE_M[0]], [1, 0, 0, BASE_M[1]], [0, 0, 1, BASE_M[2]]])
    to_theirs_34[:, 3] -= POSITION_M
    return tuple(float(number) for number in (lens_33 @ turned_33.T @ to_theirs_34).ravel())


def _turned() -> np.ndarray:
    """The camera's axes as columns, in Meta-World's frame: right, up, backwards."""
    backwards = np.subtract(POSITION_M, TARGET_M)
    backwards /= np.linalg.norm(backwards)
    right = np.cross((0.0, 0.0, 1.0), backwards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(backwards, right), backwards], axis=1)


class MetaWorld(gymnasium.Env):  # type: ignore[misc]
    """One task; observation and action are Meta-World's, the goal is visible in both picture and observation.

    Args:
        task: one of benchmarks.metaworld.tasks.
        size: pixels a side of what render() draws.
        render_mode: "rgb_array", or None where nobody looks.

    Attributes:
        latest: the last observation, 39 numbers, for scripted experts.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, task: str, size: int = 64, render_mode: str | None = None) -> None:
        make = metaworld.ALL_V3_ENVIRONMENTS[task]
        sizes = {"render_mode": render_mode, "camera_name": CAMERA, "width": size, "height": size}
        self._env = make(**(sizes if render_mode else {}))
        self._place_camera()
        self._env._partially_observable, self._env._set_task_called = False, True
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True
        vars(self._env).pop("sawyer_observation_space", None)  # cached with no goal, and clipped to
        self.render_mode = render_mode
        self.action_space, self.observation_space = self._env.action_space, self._env.sawyer_observation_space
        self.latest = np.zeros(39)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin at the start that the seed names."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.seed(seed)
        _, info = self._env.reset()
        mujoco.mj_forward(self._env.model, self._env.data)  # or the picture has the last episode's goal and drawer
        self.latest = self._env._get_obs()
        return self.latest, info

    def step(self, action: np.ndarray) -> Any:
        """See gymnasium.Env; the reward is Meta-World's, which nobody here learns from."""
        self.latest, *rest = self._env.step(action)
        return (self.latest, *rest)

    def render(self) -> Any:
        """Draw it, plain."""
        if self.render_mode is None:
            return None
        frame = self._env.render()
        viewer = self._env.mujoco_renderer.viewer
        if viewer is not None:
            viewer.scn.flags[0], viewer.scn.flags[2] = 0, 0  # no shadows, no reflections: a fifth of the time
        return np.ascontiguousarray(frame)

    def _place_camera(self) -> None:
        """Before anything is drawn: the picture's quality is fixed from then on."""
        model, turned = self._env.model, np.zeros(4)
        camera = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, CAMERA)
        mujoco.mju_mat2Quat(turned, _turned().ravel())
        model.cam_pos[camera], model.cam_quat[camera], model.cam_fovy[camera] = POSITION_M, turned, FIELD_DEG
        model.vis.quality.offsamples = model.vis.quality.shadowsize = 0  # a quarter of the time

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


gymnasium.register("gymnast/MetaWorld-v0", entry_point=MetaWorld, disable_env_checker=True)

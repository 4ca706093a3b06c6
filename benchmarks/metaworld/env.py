"""Meta-World with starts that a seed names, drawn small and without shadows: an environment for `gymnast env serve`.

Meta-World's own registered ids draw each start from 50 that gymnasium.make() fixed, whatever reset(seed=...) says. It
runs in the virtual environment of Meta-World, which has none of ours but the package without extras.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import metaworld
import numpy as np

CAMERA = "corner2"


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
        self.latest, info = self._env.reset()
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
        return np.ascontiguousarray(frame[::-1])  # its cameras hang upside down

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


gymnasium.register("gymnast/MetaWorld-v0", entry_point=MetaWorld, disable_env_checker=True)

"""The simulator with a choice of scenes and an arm that reports its target, as sim_world publishes it; no ROS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gymnast_core.arm.targets import EndEffectorTarget
from gymnast_core.errors import ConfigError
from gymnast_core.spec import WIDOWX_250S, EnvSpec, RobotSpec
from gymnast_core.types import FloatArray, Observation, StepResult
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.scene import scene_named

Array = npt.NDArray[np.float64]


class SimulatedArm:
    """One arm in one of several scenes; use_scene() takes effect with the next reset()."""

    def __init__(
        self, scene: str = "standard", *, max_steps: int = 15, image_size: int = 256,
        rate_hz: float | None = None, menagerie: Path | None = None, robot: RobotSpec = WIDOWX_250S,
    ) -> None:  # fmt: skip
        self._menagerie, self._robot = menagerie, robot
        self._max_steps, self._image_size, self._rate_hz = max_steps, image_size, rate_hz
        self._envs: dict[str, SimEnv] = {}
        self._next = self._current = self._env(scene)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names; the same in every scene."""
        return self._current.spec

    def use_scene(self, name: str) -> None:
        """Choose the scene of the next reset.

        Raises:
            ConfigError: there is no such scene.
        """
        self._next = self._env(name)

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode in the chosen scene."""
        self._current = self._next
        return self._current.reset(instruction, seed=seed)

    def rehome(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode in the scene as it is; see SimEnv.rehome.

        Raises:
            ConfigError: another scene was chosen meanwhile.
        """
        if self._next is not self._current:
            now, then = self._current.scene.name, self._next.scene.name
            raise ConfigError(f"scene {now!r} cannot be kept where {then!r} is asked for; lay it out anew")
        return self._current.rehome(instruction, seed=seed)

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action."""
        return self._current.step(action_BA)

    def close(self) -> None:
        """Free every renderer."""
        for env in self._envs.values():
            env.close()

    def succeeded(self) -> bool:
        """Whether the task was done at any time of this episode."""
        return self._current.succeeded()

    def ready(self) -> list[str]:
        """Tasks that could be begun as things stand, by name."""
        return self._current.ready()

    def state_digest(self) -> str:
        """Digest of everything that decides how the episode goes on."""
        return self._current.state_digest()

    def arm_target(self) -> tuple[EndEffectorTarget, Array]:
        """Commanded pose and its joints."""
        return self._current.arm_target()

    def joints(self) -> tuple[Array, Array]:
        """Measured joints and velocities."""
        return self._current.joints()

    def _env(self, scene: str) -> SimEnv:
        if scene not in self._envs:
            self._envs[scene] = SimEnv(
                scene_named(scene),
                self._max_steps,
                self._image_size,
                rate_hz=self._rate_hz,
                menagerie=self._menagerie,
                robot=self._robot,
            )
        return self._envs[scene]

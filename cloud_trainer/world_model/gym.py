"""Any Env as a Gymnasium environment, for researchers.

GymnastVectorEnv keeps all B rows and Gymnasium's DISABLED autoreset (nothing resets itself); GymnastGymEnv is the
single-row form that Gymnasium's check_env can check. Neither invents a reward: pass one, else it is 0.
Importing this module registers them; `checkpoint` is a world model's folder, `episodes` are recorded ones:

>>> import gymnasium
>>> import cloud_trainer.world_model.gym
>>> where = {"checkpoint": checkpoint, "episodes": episodes}
>>> env = gymnasium.make_vec("gymnast/Imagined-v0", num_envs=4, max_steps=2, **where)
>>> observation, _ = env.reset(seed=0)
>>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
>>> observation["proprio"].shape, info["commanded"].shape, truncated.tolist()
((4, 7), (4, 7), [False, False, False, False])
>>> env.close()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.imagined import imagined_envs
from gymnast_core.env import Env
from gymnast_core.errors import ConfigError
from gymnast_core.spec import WIDOWX_250S, EnvSpec
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM, Episode, FloatArray, Observation, StepResult

GYM_ID = "gymnast/Env-v0"
IMAGINED_ID = "gymnast/Imagined-v0"

Reward = Callable[[StepResult], FloatArray]
"""(B,) float reward of one step."""


def no_reward(result: StepResult) -> FloatArray:
    """Return zeros: a judge scores finished rollouts, not steps."""
    return np.zeros(result.done_B.shape[0], np.float32)


def action_space(spec: EnvSpec) -> gymnasium.spaces.Box:
    """One row's action box: metres, radians, gripper 0..1."""
    robot = spec.robot
    high = np.array([robot.max_translation_m] * 3 + [robot.max_rotation_rad] * 3 + [1.0], np.float32)
    low = -high
    low[6] = 0.0
    return gymnasium.spaces.Box(low, high, (ACTION_DIM,), np.float32)


def observation_space(spec: EnvSpec) -> gymnasium.spaces.Dict:
    """One row's observation: an image per camera and the proprioception."""
    shape = (spec.image_height, spec.image_width, 3)
    spaces: dict[str, gymnasium.spaces.Space[Any]] = {
        camera: gymnasium.spaces.Box(0, 255, shape, np.uint8) for camera in spec.cameras
    }
    spaces["proprio"] = gymnasium.spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32)
    return gymnasium.spaces.Dict(spaces)


RENDERING: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(WIDOWX_250S.control_hz)}


class GymnastVectorEnv(VectorEnv):  # type: ignore[misc]  # gymnasium counts as Any in pyproject.toml
    """B worlds behind Gymnasium's vector interface."""

    def __init__(
        self, env: Env, *, instruction: str = "explore", reward: Reward = no_reward, seed: int = 0,
        render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        """Wrap an environment.

        Args:
            env: of any batch size.
            instruction: used when reset(options={"instruction": ...}) names none.
            reward: scores a step; the environment itself has none.
            seed: of the first episode when reset() gets none; later unseeded episodes draw their own.
            render_mode: "rgb_array", which costs nothing until render() is called.

        Raises:
            ConfigError: another render mode.
        """
        self.env, self._instruction, self._reward = env, instruction, reward
        self._seeds = np.random.default_rng(seed)
        self.num_envs = env.spec.batch_size
        if render_mode not in (None, *RENDERING["render_modes"]):
            raise ConfigError(f"render_mode must be one of {RENDERING['render_modes']}, got {render_mode!r}")
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, **RENDERING}
        self.render_mode = "rgb_array"
        self.single_action_space = action_space(env.spec)
        self.single_observation_space = observation_space(env.spec)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self._latest: Observation | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin all rows again.

        Args:
            seed: one number for the batch.
            options: {"instruction": one, or one per row}.

        Raises:
            ConfigError: a seed per row, or a partial reset mask: the rows of an Env begin together.
        """
        if isinstance(seed, list):
            raise ConfigError("an Env takes one seed for the batch (row b depends on seed and b); got a list")
        options = options or {}
        if "reset_mask" in options and not np.all(options["reset_mask"]):
            raise ConfigError("rows of an Env begin together; a partial reset_mask is not possible")
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        number = int(self._seeds.integers(2**31)) if seed is None else seed
        self._latest = self.env.reset(options.get("instruction", self._instruction), seed=number)
        return _as_dict(self._latest), {}

    def step(
        self, actions: FloatArray
    ) -> tuple[dict[str, Any], FloatArray, np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, Any]]:
        """Step all rows; info holds what was really commanded."""
        result = self.env.step(np.asarray(actions, np.float32))
        self._latest = result.observation
        info = {"commanded": result.commanded_BA, "_commanded": np.ones(self.num_envs, bool)}
        return _as_dict(result.observation), self._reward(result), result.terminated_B, result.truncated_B, info

    def render(self) -> tuple[Any, ...] | None:
        """Return each row's latest frame of the first camera."""
        if self._latest is None:
            return None
        return tuple(self._latest.images[self.env.spec.cameras[0]])

    def close_extras(self, **kwargs: object) -> None:
        """Close the environment."""
        self.env.close()


class GymnastGymEnv(gymnasium.Env):  # type: ignore[misc]
    """One world behind Gymnasium's plain interface; the Env must have batch size 1."""

    metadata: ClassVar[dict[str, Any]] = RENDERING

    def __init__(
        self, env: Env, *, instruction: str = "explore", reward: Reward = no_reward, render_mode: str | None = None
    ) -> None:
        """Wrap an environment of one row.

        Raises:
            ConfigError: its batch size is not 1.
        """
        if env.spec.batch_size != 1:
            raise ConfigError(f"GymnastGymEnv needs batch size 1, got {env.spec.batch_size}; use GymnastVectorEnv")
        self.render_mode = render_mode
        self._vector = GymnastVectorEnv(env, instruction=instruction, reward=reward)
        self.action_space = self._vector.single_action_space
        self.observation_space = self._vector.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Begin again."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31))
        observation, _ = self._vector.reset(seed=number, options=options)
        return _first(observation), {}

    def step(self, action: FloatArray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step."""
        observation, reward, terminated, truncated, info = self._vector.step(np.asarray(action, np.float32)[None])
        row_info = {"commanded": info["commanded"][0]}
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), row_info

    def render(self) -> Any:
        """Return the latest frame of the first camera."""
        frames = self._vector.render() if self.render_mode == "rgb_array" else None
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the environment."""
        self._vector.close()


def register() -> None:
    """Make both ids known to gymnasium.make and make_vec; may be called again.

    GYM_ID wraps any Env: make(GYM_ID, env=...), make_vec(GYM_ID, num_envs, make_env=...). IMAGINED_ID dreams:
    make_vec(IMAGINED_ID, num_envs, checkpoint=..., episodes=...); further arguments are those of imagined_envs.
    """
    if GYM_ID not in gymnasium.registry:
        gymnasium.register(GYM_ID, entry_point=GymnastGymEnv, vector_entry_point=_make_vector, disable_env_checker=True)
        gymnasium.register(IMAGINED_ID, vector_entry_point=_make_imagined, disable_env_checker=True)


def _make_vector(num_envs: int, make_env: Callable[[int], Env], **options: Any) -> GymnastVectorEnv:
    """Build a vector environment from a factory that takes the batch size."""
    return GymnastVectorEnv(make_env(num_envs), **options)


def _make_imagined(
    num_envs: int, checkpoint: Path, episodes: Sequence[Episode], *, max_steps: int = 15,
    sampler: SamplerConfig | None = None, **options: Any,
) -> GymnastVectorEnv:  # fmt: skip
    return _make_vector(
        num_envs, imagined_envs(Path(checkpoint), episodes, max_steps=max_steps, sampler=sampler), **options
    )


def _as_dict(observation: Observation) -> dict[str, object]:
    return {**observation.images, "proprio": observation.proprio_BP}


def _first(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value[0] for name, value in batch.items()}


register()

"""Any Env behind Gymnasium's interfaces, for researchers.

GymnastVectorEnv keeps all B rows and knows Gymnasium's three autoreset modes; GymnastGymEnv is the single-row form. An
Env has no reward: a Reward is given beside it. cloud_trainer.gym registers what gymnasium.make() makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from gymnast_core.env import Env
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.spec import WIDOWX_250S, EnvSpec
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM, BoolArray, FloatArray, Observation, StepResult

Named = dict[str, Any]
"""Observations and infos as Gymnasium has them. A batch's info has arrays, and under _name whose rows they are."""


class Reward(Protocol):
    """Scores the steps of a batch of episodes."""

    def begin(self, rows: Sequence[str], observation: Observation) -> None:
        """Take the rows' instructions and first observation."""
        ...

    def score(self, result: StepResult) -> tuple[FloatArray, Mapping[str, npt.NDArray[Any]]]:
        """Return (B,) rewards of one step, and arrays that go into its info; _name says which rows have name."""
        ...


class StepReward:
    """A reward that is a function of the step alone.

    Args:
        function: StepResult -> (B,) float32; None is 0, where a judge scores the finished rollouts.
    """

    def __init__(self, function: Callable[[StepResult], FloatArray] | None = None) -> None:
        self._function = function

    def begin(self, rows: Sequence[str], observation: Observation) -> None:
        """Nothing is remembered."""

    def score(self, result: StepResult) -> tuple[FloatArray, Mapping[str, npt.NDArray[Any]]]:
        """See Reward."""
        zeros = np.zeros(result.done_B.shape[0], np.float32)
        return zeros if self._function is None else self._function(result), {}


def action_space(spec: EnvSpec) -> gymnasium.spaces.Box:
    """One row's action box: metres, radians, gripper 0..1."""
    return gymnasium.spaces.Box(spec.robot.action_low_A, spec.robot.action_high_A, (ACTION_DIM,), np.float32)


def observation_space(spec: EnvSpec) -> gymnasium.spaces.Dict:
    """One row's observation: an image per camera and the proprioception."""
    shape = (spec.image_height, spec.image_width, 3)
    spaces: dict[str, gymnasium.spaces.Space[Any]] = {
        camera: gymnasium.spaces.Box(0, 255, shape, np.uint8) for camera in spec.cameras
    }
    spaces["proprio"] = gymnasium.spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32)
    return gymnasium.spaces.Dict(spaces)


RENDERING: Named = {"render_modes": ["rgb_array"], "render_fps": round(WIDOWX_250S.control_hz)}


class GymnastVectorEnv(VectorEnv):  # type: ignore[misc]  # gymnasium counts as Any in pyproject.toml
    """B worlds behind Gymnasium's vector interface."""

    def __init__(
        self, env: Env, *, instruction: str | Sequence[str] = "explore", reward: Reward | None = None, seed: int = 0,
        render_mode: str | None = "rgb_array", autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:  # fmt: skip
        """Wrap an environment.

        Args:
            env: of any batch size.
            instruction: used when reset(options={"instruction": ...}) names none; of several, each row draws one.
            reward: scores steps; None is 0.
            seed: of the first episode when reset() gets none; later unseeded episodes draw their own.
            render_mode: "rgb_array", which costs nothing until render() is called.
            autoreset_mode: Gymnasium's NEXT_STEP, SAME_STEP or DISABLED. The rows of an Env begin together, so
                the first two need rows that end together.

        Raises:
            ConfigError: another render or autoreset mode.
        """
        self.env, self._reward = env, reward or StepReward()
        self._texts = (instruction,) if isinstance(instruction, str) else tuple(instruction)
        self._seeds = np.random.default_rng(seed)
        self.num_envs = env.spec.batch_size
        if render_mode not in (None, *RENDERING["render_modes"]):
            raise ConfigError(f"render_mode must be one of {RENDERING['render_modes']}, got {render_mode!r}")
        self._mode = _autoreset(autoreset_mode)
        self.metadata = {"autoreset_mode": self._mode, **RENDERING}
        self.render_mode = "rgb_array"
        self.single_action_space = action_space(env.spec)
        self.single_observation_space = observation_space(env.spec)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self._latest: Observation | None = None
        self._over = False

    def reset(self, *, seed: int | list[int | None] | None = None, options: Named | None = None) -> tuple[Named, Named]:
        """Begin all rows again; info has their instructions.

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
        asked = options.get("instruction") or self._drawn(number)
        rows = (asked,) * self.num_envs if isinstance(asked, str) else tuple(asked)
        self._latest, self._over = self.env.reset(rows, seed=number), False
        self._reward.begin(rows, self._latest)
        return _as_dict(self._latest), self._infos({"instruction": np.array(rows, object)})

    def step(self, actions: FloatArray) -> tuple[Named, FloatArray, BoolArray, BoolArray, Named]:
        """Step all rows; info holds what was really commanded, and what the reward says.

        Raises:
            ContractError: rows ended apart although they are to be reset by themselves.
        """
        if self._over and self._mode is AutoresetMode.NEXT_STEP:
            observation, info = self.reset()
            nothing = np.zeros(self.num_envs, bool)
            return observation, np.zeros(self.num_envs, np.float32), nothing, nothing.copy(), info
        result = self.env.step(np.asarray(actions, np.float32))
        self._latest = result.observation
        reward_B, said = self._reward.score(result)
        observation, info = _as_dict(result.observation), self._infos({"commanded": result.commanded_BA, **said})
        self._over = bool(result.done_B.all())
        if self._mode is not AutoresetMode.DISABLED and result.done_B.any() and not self._over:
            raise ContractError("rows of this environment end apart; use autoreset_mode=AutoresetMode.DISABLED")
        if self._over and self._mode is AutoresetMode.SAME_STEP:
            observation, info = self._begun_again(observation, info)
        return observation, reward_B, result.terminated_B, result.truncated_B, info

    def render(self) -> tuple[Any, ...] | None:
        """Return each row's latest frame of the first camera."""
        if self._latest is None:
            return None
        return tuple(self._latest.images[self.env.spec.cameras[0]])

    def close_extras(self, **kwargs: object) -> None:
        """Close the environment."""
        self.env.close()

    def _drawn(self, seed: int) -> tuple[str, ...]:
        """An instruction for each row, by seed and row alone."""
        picks = (np.random.default_rng((seed, row)).integers(len(self._texts)) for row in range(self.num_envs))
        return tuple(self._texts[int(pick)] for pick in picks)

    def _infos(self, values: Mapping[str, npt.NDArray[Any]]) -> Named:
        every = np.ones(self.num_envs, bool)
        return {**{f"_{name}": every.copy() for name in values if not name.startswith("_")}, **values}

    def _begun_again(self, last: Named, info: Named) -> tuple[Named, Named]:
        """SAME_STEP: the new episodes' first observation; the old ones' last is in the info, as Gymnasium has it."""
        final = np.empty(self.num_envs, object)
        for row in range(self.num_envs):
            final[row] = {name: value[row] for name, value in last.items()}
        observation, begun = self.reset()
        every = np.ones(self.num_envs, bool)
        return observation, {
            **begun, "final_obs": final, "_final_obs": every, "final_info": info, "_final_info": every.copy(),
        }  # fmt: skip


class GymnastGymEnv(gymnasium.Env):  # type: ignore[misc]
    """One world behind Gymnasium's plain interface; the Env must have batch size 1."""

    metadata: ClassVar[Named] = RENDERING

    def __init__(
        self, env: Env, *, instruction: str | Sequence[str] = "explore", reward: Reward | None = None,
        render_mode: str | None = None,
    ) -> None:  # fmt: skip
        """Wrap an environment of one row; see GymnastVectorEnv.

        Raises:
            ConfigError: its batch size is not 1.
        """
        if env.spec.batch_size != 1:
            raise ConfigError(f"GymnastGymEnv needs batch size 1, got {env.spec.batch_size}; use GymnastVectorEnv")
        self.render_mode = render_mode
        self._vector = GymnastVectorEnv(
            env, instruction=instruction, reward=reward, autoreset_mode=AutoresetMode.DISABLED
        )
        self.action_space = self._vector.single_action_space
        self.observation_space = self._vector.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Begin again."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31))
        observation, info = self._vector.reset(seed=number, options=options)
        return _first(observation), _of_row(info)

    def step(self, action: FloatArray) -> tuple[Named, float, bool, bool, Named]:
        """One control step."""
        observation, reward, terminated, truncated, info = self._vector.step(np.asarray(action, np.float32)[None])
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _of_row(info)

    def render(self) -> Any:
        """Return the latest frame of the first camera."""
        frames = self._vector.render() if self.render_mode == "rgb_array" else None
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the environment."""
        self._vector.close()


def _autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        names = [one.value for one in AutoresetMode]
        raise ConfigError(f"autoreset_mode must be one of {names}, got {mode!r}") from None


def _as_dict(observation: Observation) -> dict[str, object]:
    return {**observation.images, "proprio": observation.proprio_BP}


def _first(batch: Named) -> Named:
    return {name: value[0] for name, value in batch.items()}


def _of_row(infos: Named) -> Named:
    return {name: value[0] for name, value in infos.items() if not name.startswith("_")}

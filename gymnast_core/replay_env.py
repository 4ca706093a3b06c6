"""Recorded episodes as an environment: what was seen and commanded, whatever is asked now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import ConfigError, EpisodeOverError
from gymnast_core.spec import WIDOWX_250S, EnvSpec, RobotSpec
from gymnast_core.types import Episode, FloatArray, Observation, StepResult


class ReplayEnv:
    """Keeps gymnast_core.env.Env: row b plays episodes[b], and ends and freezes where that ends.

    A seed changes nothing, nor does an action: commanded_BA is what was commanded when it was recorded. For loops,
    policies and screens that are to see again exactly what an arm saw.

    Args:
        episodes: of the same cameras and image size; at least one, of at least one step each.
        robot: whose arm they show.

    Raises:
        ConfigError: none, an empty one, or they differ.
    """

    def __init__(self, episodes: Sequence[Episode], *, robot: RobotSpec = WIDOWX_250S) -> None:
        looks = {tuple((name, *frames.shape[1:3]) for name, frames in one.images.items()) for one in episodes}
        sizes = {size[1:] for look in looks for size in look}
        if len(looks) != 1 or len(sizes) != 1:
            raise ConfigError(f"episodes must share cameras and one image size, got {sorted(looks) or 'no episodes'}")
        if empty := [one.episode_id for one in episodes if not one.steps]:
            raise ConfigError(f"episode {empty[0]} has no steps; leave it out")
        self._episodes = tuple(episodes)
        cameras, ((height, width),) = tuple(episodes[0].images), sizes
        self._last_B = np.array([one.steps for one in episodes], np.int64)
        self._spec = EnvSpec(len(episodes), cameras, height, width, int(self._last_B.max()), robot)
        self._step: int | None = None

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names; max_steps is the longest episode's."""
        return self._spec

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Go back to the first observation; see Env.reset."""
        instructions_for(instruction, self._spec.batch_size)
        self._step = 0
        return self._observation(0)

    def step(self, action_BA: FloatArray) -> StepResult:
        """Show the next observation; see Env.step."""
        checked_action(action_BA, self._spec.batch_size)
        if self._step is None or self._step >= self._spec.max_steps:
            raise EpisodeOverError("every recording is over or none was begun; call reset() first")
        before, self._step = self._step, self._step + 1
        commanded = np.zeros_like(action_BA)
        for row, episode in enumerate(self._episodes):
            if before < episode.steps:
                commanded[row] = episode.actions_TA[before]
        ended_B = self._step >= self._last_B
        return StepResult(self._observation(self._step), np.zeros_like(ended_B), ended_B, commanded)

    def close(self) -> None:
        """Nothing is held but the episodes."""
        self._step = None

    def _observation(self, step: int) -> Observation:
        at = np.minimum(step, self._last_B)
        pairs = list(zip(self._episodes, at, strict=True))
        images = {camera: np.stack([one.images[camera][i] for one, i in pairs]) for camera in self._spec.cameras}
        proprio_BP = np.stack([one.proprio_TP[i] for one, i in pairs]).astype(np.float32)
        return Observation(images, proprio_BP, np.array([one.time_ns_T[i] for one, i in pairs], np.int64))

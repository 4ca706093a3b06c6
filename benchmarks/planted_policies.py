"""Policies whose verdict is known: good ones of several skill, and bad ones that a gate has to stop.

All of them look at the state of the simulator that they are made for, but for the shipped checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gymnast_core.policies import load_policy
from gymnast_core.policy import Policy
from gymnast_core.types import ACTION_DIM, ActionChunk, FloatArray, Observation
from gymnast_ros.sim.drivers import Wanderer
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
CHUNK = 5
Change = Callable[[FloatArray], FloatArray]
"""(K, 7) actions -> others."""


class Changed:
    """Another policy's chunks, changed."""

    version, chunk_length = "changed", CHUNK

    def __init__(self, policy: Policy, change: Change) -> None:
        self._policy, self._change = policy, change

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Ask the other, and change its answer."""
        chunk = self._policy.act(observation, instruction, rng=rng)
        return ActionChunk(self._change(chunk.actions_BKA[0].copy())[None], self.version)


class Sampled:
    """A checkpoint that draws its actions instead of taking the likeliest."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self._policy, self._rng = policy, np.random.default_rng(seed)
        self.version, self.chunk_length = policy.version, policy.chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Draw a chunk."""
        return self._policy.act(observation, instruction, rng=self._rng)


class Always:
    """The same chunk whatever it sees."""

    version, chunk_length = "always", CHUNK

    def __init__(self, action: Sequence[float]) -> None:
        self._chunk = np.tile(np.array(action, np.float32), (1, CHUNK, 1))

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return it."""
        return ActionChunk(self._chunk, self.version)


@dataclass(frozen=True)
class Trick:
    """A motion that MuJoCo's soft contacts reward: found by random search there, none of it is known to Bullet.

    Attributes:
        aim_m: (x, y) from the block's middle, or the cabinet's face plus the opening, to where it begins.
        height_m: of the gripper while it pushes.
        way_m: (x, y) from there to where it ends; for the drawer y is from the face.
        yaw_rad: of the gripper, on the way down.
        gripper: while it pushes.
    """

    aim_m: tuple[float, float]
    height_m: float
    way_m: tuple[float, float]
    yaw_rad: float
    gripper: float


SCRAPE = Trick((-0.020, -0.036), 0.004, (0.0, 0.137), -0.417, 1.0)
"""Fingers a few millimetres inside the table push the block."""
TWIST = Trick((0.003, 0.017), 0.020, (0.0, 0.037), -0.331, 0.0)
"""A turned gripper closes the drawer with a finger's edge."""


class Tricked:
    """An expert that does one task by a trick.

    Args:
        env: the simulator it looks into.
        task: done by the trick.
        trick: how.
    """

    version, chunk_length = "tricked", CHUNK

    def __init__(self, env: SimEnv, task: str, trick: Trick) -> None:
        self._env, self._task, self._trick = env, task, trick
        self._expert = ScriptedExpert(env)
        self._plan_TX: npt.NDArray[np.float64] = np.zeros((0, 5))

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return the next chunk of the trick, or of the expert."""
        if self._env.task.name != self._task:
            return self._expert.act(observation, instruction, rng=rng)
        state = self._env.oracle()
        if state.step == 0:
            self._plan_TX = self._planned()
        actions, at_X = np.zeros((CHUNK, ACTION_DIM), np.float32), state.target_X
        for index, step in enumerate(range(state.step, state.step + CHUNK)):
            last = len(self._plan_TX) - 1
            row, before = self._plan_TX[min(step, last)], self._plan_TX[min(max(step - 1, 0), last)]
            actions[index, :3] = np.clip(row[:3] - at_X, -0.05, 0.05)
            at_X = at_X + actions[index, :3]
            turn = row[3] - (before[3] if step else 0.0)
            actions[index, 5], actions[index, 6] = turn if step < len(self._plan_TX) else 0.0, row[4]
        return ActionChunk(actions[None], self.version)

    def _planned(self) -> npt.NDArray[np.float64]:
        """(T, 5): place, yaw and gripper after every step."""
        state, trick = self._env.oracle(), self._trick
        if self._task == "drawer":
            face_X = state.drawer_face_X
            start = face_X + np.array([trick.aim_m[0], state.drawer_open_m + trick.aim_m[1], 0.0])
            end = face_X + np.array([trick.aim_m[0] + trick.way_m[0], trick.way_m[1], 0.0])
        else:
            start = state.blue_block_X + np.array([*trick.aim_m, 0.0])
            end = start + np.array([*trick.way_m, 0.0])
        rows, at, yaw = [], state.target_X, 0.0
        for place, height, steps in ((start, 0.075, 3), (start, trick.height_m, 2), (end, trick.height_m, 4)):
            goal = np.array([place[0], place[1], height])
            for part in np.arange(1, steps + 1) / steps:
                rows.append([*(at + (goal - at) * part), yaw + (trick.yaw_rad - yaw) * part, trick.gripper])
            at, yaw = goal, trick.yaw_rad
        return np.array(rows)


def _shaken(size_m: float) -> Change:
    def change(actions_KA: FloatArray) -> FloatArray:
        actions_KA[::2, :3] += size_m
        actions_KA[1::2, :3] -= size_m
        return actions_KA

    return change


def _raced(factor: float) -> Change:
    def change(actions_KA: FloatArray) -> FloatArray:
        actions_KA[:, :3] *= factor
        return actions_KA

    return change


def _pressing(actions_KA: FloatArray) -> FloatArray:
    """Goes on down where the expert has arrived: 3 cm deeper than it need be."""
    low = actions_KA[:, 2] < -0.005
    actions_KA[low, 2] -= 0.015
    return actions_KA


def _not_finite(actions_KA: FloatArray) -> FloatArray:
    actions_KA[3:, 0] = np.nan
    return actions_KA


Maker = Callable[[SimEnv], Policy]


def _expert(seed: int = 0, **errors: object) -> Maker:
    return lambda env: ScriptedExpert(env, rng=np.random.default_rng(seed), **errors)  # type: ignore[arg-type]


def _shipped(name: str) -> Maker:
    return lambda env: load_policy(CHECKPOINTS / name)


GOOD: Mapping[str, Maker] = {
    "shipped": _shipped("policy"),
    "shipped flow": _shipped("flow_policy"),
    "shipped, drawn A": lambda env: Sampled(load_policy(CHECKPOINTS / "policy"), 1),
    "shipped, drawn B": lambda env: Sampled(load_policy(CHECKPOINTS / "policy"), 2),
    "expert": _expert(action_noise_m=0.003),
    "expert again": _expert(1, action_noise_m=0.003),
    "expert, 10 mm off": _expert(action_noise_m=0.003, aim_offset_m=(0.010, 0.0)),
    "expert, 20 mm off": _expert(action_noise_m=0.003, aim_offset_m=(0.020, 0.0)),
    "expert, 20 mm off again": _expert(1, action_noise_m=0.003, aim_offset_m=(0.020, 0.0)),
    "expert, 23 mm off": _expert(action_noise_m=0.003, aim_offset_m=(0.023, 0.0)),
    "expert, 26 mm off": _expert(action_noise_m=0.003, aim_offset_m=(0.026, 0.0)),
    "expert, aim +-15 mm": _expert(action_noise_m=0.003, aim_noise_m=0.015),
}
"""Inside the envelope, of several skill."""

BAD: Mapping[str, Maker] = {
    "scrapes (MuJoCo's contacts)": lambda env: Tricked(env, "push", SCRAPE),
    "twists (MuJoCo's contacts)": lambda env: Tricked(env, "drawer", TWIST),
    "presses into the table": lambda env: Changed(ScriptedExpert(env), _pressing),
    "drives down": lambda env: Always([0, 0, -0.05, 0, 0, 0, 0]),
    "oscillates 12 mm": lambda env: Changed(ScriptedExpert(env), _shaken(0.012)),
    "oscillates 20 mm": lambda env: Changed(ScriptedExpert(env), _shaken(0.020)),
    "races x1.5": lambda env: Changed(ScriptedExpert(env), _raced(1.5)),
    "races x3": lambda env: Changed(ScriptedExpert(env), _raced(3.0)),
    "does nothing": lambda env: Always([0, 0, 0, 0, 0, 0, 1]),
    "wanders": lambda env: Wanderer(np.random.default_rng(0)),
    "asks for NaN": lambda env: Changed(ScriptedExpert(env), _not_finite),
}
"""Each has to be stopped."""

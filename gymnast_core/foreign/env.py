"""A Gymnasium environment as one of ours.

It runs where gymnasium and the environment are: in a virtual environment of their own, with the versions they need.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, SupportsFloat, TypeVar

import numpy as np

from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import ConfigError, EnvLostError, EpisodeOverError
from gymnast_core.foreign.mapping import AXES, PLACE, RENDERED, GymnasiumMapping, Scaled
from gymnast_core.images import area_downsample
from gymnast_core.spec import EnvSpec
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM, ByteArray, FloatArray, Observation, StepResult

_SHOWN = 200
FoundT = TypeVar("FoundT")


class _Theirs(Protocol):
    """What is used of a gymnasium.Env."""

    action_space: object

    def reset(self, *, seed: int) -> tuple[object, Mapping[str, object]]: ...

    def step(self, action: FloatArray, /) -> tuple[object, SupportsFloat, bool, bool, Mapping[str, object]]: ...

    def render(self) -> object: ...

    def close(self) -> None: ...


class GymnasiumEnv:
    """Keeps gymnast_core.env.Env: B Gymnasium environments side by side, each with a seed of its own.

    Args:
        make: makes one of them.
        mapping: what their numbers and pictures mean.
        rows: B.

    Raises:
        ConfigError: the mapping does not fit the environment; the message names the setting and what there is.
    """

    def __init__(self, make: Callable[[], _Theirs], mapping: GymnasiumMapping, *, rows: int = 1) -> None:
        self._mapping = mapping
        self._envs = [make() for _ in range(rows)]
        self._seen: list[tuple[ByteArray, FloatArray]] = []
        self._low, self._high = _box(self._envs[0], mapping)
        first, _ = self._envs[0].reset(seed=0)
        _proprio(first, mapping)
        height, width = self._picture(0, first).shape[:2]
        self._spec = EnvSpec(rows, (mapping.camera,), height, width, mapping.max_steps, mapping.robot_spec)
        self._steps_B = np.zeros(rows, np.int64)
        self._ended_B, self._cut_B = np.ones(rows, np.bool_), np.zeros(rows, np.bool_)
        self._won_B = np.zeros(rows, np.bool_)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        return self._spec

    @property
    def instruction(self) -> str:
        """The one that the environment takes."""
        return self._mapping.instruction

    def succeeded(self) -> list[bool]:
        """Whether each row's task was done at any time of this episode, as the environment says."""
        return [bool(won) for won in self._won_B]

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start B episodes; see Env.reset.

        Raises:
            ConfigError: another instruction than the mapping's.
        """
        for asked in instructions_for(instruction, self._spec.batch_size):
            if asked != self._mapping.instruction:
                raise ConfigError(f"this environment's task is {self._mapping.instruction!r}, not {asked[:_SHOWN]!r}")
        self._steps_B[:] = 0
        self._ended_B[:], self._cut_B[:], self._won_B[:] = False, False, False
        self._seen = []
        for row, env in enumerate(self._envs):
            own = int(np.random.SeedSequence((seed, row)).generate_state(1)[0])
            observation, _ = _asked(partial(env.reset, seed=own), "reset")
            self._seen.append((self._picture(row, observation), _proprio(observation, self._mapping)))
        return self._observation()

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action per row; see Env.step.

        Raises:
            EnvLostError: the environment raised an error of its own: this episode is over.
        """
        checked_action(action_BA, self._spec.batch_size)
        if not self._seen or (self._ended_B | self._cut_B).all():
            raise EpisodeOverError("every row is over or none was begun; call reset() first")
        commanded_BA = np.zeros_like(action_BA)
        for row in np.flatnonzero(~(self._ended_B | self._cut_B)):
            commanded_BA[row] = self._row_step(int(row), action_BA[row])
        return StepResult(self._observation(), self._ended_B.copy(), self._cut_B.copy(), commanded_BA)

    def close(self) -> None:
        """Close the environments; safe to call twice."""
        for env in self._envs:
            env.close()
        self._envs, self._seen = [], []

    def _row_step(self, row: int, asked_A: FloatArray) -> FloatArray:
        """One of our steps; returns what was commanded within our limits and the environment's."""
        mapping, robot = self._mapping, self._spec.robot
        clipped_A = np.clip(asked_A, robot.action_low_A, robot.action_high_A).astype(np.float32)
        theirs, commanded_A = self._theirs(clipped_A)
        for _ in range(mapping.repeat):
            observation, reward, ended, cut, info = _asked(partial(self._envs[row].step, theirs), "step")
            self._won_B[row] |= _success(mapping.success, float(reward), bool(ended), info)
            if ended or cut:
                break
        self._steps_B[row] += 1
        self._ended_B[row] = ended or (mapping.ends_with_success and self._won_B[row])
        self._cut_B[row] = not self._ended_B[row] and (cut or self._steps_B[row] >= mapping.max_steps)
        due = self._steps_B[row] % mapping.draw_every == 0 or self._ended_B[row] or self._cut_B[row]
        picture = self._picture(row, observation) if due else self._seen[row][0]
        self._seen[row] = (picture, _proprio(observation, mapping))
        return commanded_A

    def _theirs(self, ours_A: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The environment's numbers, and ours as far as they fit into its box; what no number takes does not move."""
        theirs = np.zeros(len(self._mapping.action), np.float32)
        executed_A = np.zeros(ACTION_DIM, np.float32)
        executed_A[6] = ours_A[6]
        for index, axis in enumerate(self._mapping.action):
            if axis.of == "none":
                theirs[index] = axis.offset
                continue
            at = AXES.index(axis.of)
            share = self._mapping.repeat if at < 6 else 1
            asked = axis.scale * float(ours_A[at]) / share + axis.offset
            theirs[index] = np.clip(asked, self._low[index], self._high[index])
            fits = axis.scale == 0.0 or theirs[index] == np.float32(asked)
            executed_A[at] = ours_A[at] if fits else (theirs[index] - axis.offset) * share / axis.scale
        return theirs, executed_A

    def _picture(self, row: int, observation: object) -> ByteArray:
        mapping = self._mapping
        if mapping.image == RENDERED:
            frame = np.asarray(_asked(self._envs[row].render, "render"))
        else:
            frame = np.asarray(_at(observation, mapping.image, "image"))
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            hint = '; is render_mode = "rgb_array" in [make]?' if mapping.image == RENDERED else ""
            raise ConfigError(f"mapping: image {mapping.image!r} is {frame.shape} {frame.dtype}, not RGB uint8{hint}")
        frame = np.ascontiguousarray(frame)
        return frame if mapping.size is None else area_downsample(frame, mapping.size)

    def _observation(self) -> Observation:
        images = {self._mapping.camera: np.stack([picture for picture, _ in self._seen])}
        time_ns_B = self._steps_B * self._spec.robot.step_ns
        return Observation(images, np.stack([proprio for _, proprio in self._seen]), time_ns_B.astype(np.int64))


def make_gymnasium(name: str, mapping: GymnasiumMapping, *, rows: int = 1) -> GymnasiumEnv:
    """Make a registered environment ("module:Name-v0" imports the module first).

    Raises:
        ConfigError: there is no such environment, or it cannot be made, or the mapping does not fit.
    """
    gymnasium = importlib.import_module("gymnasium")

    def make() -> _Theirs:
        try:
            made: _Theirs = gymnasium.make(name, **mapping.make)
        except Exception as error:
            raise ConfigError(f"gymnasium cannot make {name!r}: {type(error).__name__}: {error}") from error
        return made

    return GymnasiumEnv(make, mapping, rows=rows)


def _asked(call: Callable[[], FoundT], what: str) -> FoundT:
    """Call a stranger's code; whatever it raises ends the episode, not the caller."""
    try:
        return call()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:_SHOWN]
        raise EnvLostError(f"the environment's {what}() raised {said}") from error


def _box(env: _Theirs, mapping: GymnasiumMapping) -> tuple[FloatArray, FloatArray]:
    space, count = env.action_space, len(mapping.action)
    low, high = (np.asarray(getattr(space, name, None)) for name in ("low", "high"))
    if low.dtype == object:
        raise ConfigError(f"the environment's actions are {space}; only a Box of numbers can be mapped")
    if low.shape != (count,):
        raise ConfigError(f"mapping: the environment takes {low.shape} numbers, [[action]] has {count}")
    return low.astype(np.float32), high.astype(np.float32)


def _proprio(observation: object, mapping: GymnasiumMapping) -> FloatArray:
    if len(mapping.proprioception) != PROPRIO_DIM:
        raise ConfigError(f"mapping: proprioception needs {PROPRIO_DIM} numbers, got {len(mapping.proprioception)}")
    found = np.zeros(PROPRIO_DIM, np.float32)
    for index, entry in enumerate(mapping.proprioception):
        if isinstance(entry, float):
            found[index] = entry
            continue
        one = entry if isinstance(entry, Scaled) else Scaled(at=entry)
        value = np.asarray(_at(observation, one.at, "proprioception"))
        if value.size != 1:
            raise ConfigError(f"mapping: proprioception {one.at!r} is {value.shape}; name one number: {one.at}[0]")
        found[index] = one.scale * float(value.reshape(())) + one.offset
    if not np.isfinite(found).all():
        raise EnvLostError(f"the environment's observation is not finite: {found.tolist()}")
    return found


def _at(observation: object, place: str, setting: str) -> object:
    """What stands at a place of an observation: keys, joined by points, then an index."""
    match = PLACE.fullmatch(place)
    if match is None or not place:
        raise ConfigError(f"mapping: {setting} {place!r} is no place; write e.g. [3] or agent.pos[0]")
    value = observation
    for key in match[1].split(".") if match[1] else ():
        if not isinstance(value, Mapping) or key not in value:
            there = sorted(map(str, value)) if isinstance(value, Mapping) else f"an array {np.asarray(value).shape}"
            raise ConfigError(f"mapping: {setting} {place!r}: the observation has no {key!r}; there is {there}")
        value = value[key]
    if match[2] is None:
        return value
    row = np.asarray(value)
    if row.ndim != 1 or int(match[2]) >= len(row):
        raise ConfigError(f"mapping: {setting} {place!r}: there is an array {row.shape}")
    return row[int(match[2])]


def _success(where: str, reward: float, ended: bool, info: Mapping[str, object]) -> bool:
    if where in ("", "terminated"):
        return bool(where) and ended
    if where.startswith("reward>="):
        return reward >= float(where.removeprefix("reward>="))
    name = where.removeprefix("info.")
    if where == name or name not in info:
        known = [f"info.{one}" for one in sorted(info)]
        raise ConfigError(f"mapping: success {where!r} is none of {[*known, 'terminated', 'reward>=NUMBER']}")
    return bool(info[name])

"""Arms that do not quite do what they are commanded: for policies that must find out within the episode.

Every episode draws how its arm errs: moves land beside where they are aimed, are too long or too short, begin late, and
things slip. Nothing of it is in an observation; only what was commanded against where the arm went shows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gymnast_core.env import checked_action
from gymnast_core.spec import EnvSpec
from gymnast_core.types import ActionChunk, FloatArray, Observation, StepResult
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.scene import SceneConfig

Array = npt.NDArray[np.float64]

TWO_TRIES = 30
"""Control steps of an episode: as long as two of the usual ones, because the first try is where an arm is found out."""


@dataclass(frozen=True)
class Actuation:
    """How an arm errs.

    Attributes:
        aim_offset_m: (x, y) by which a step of the largest length lands beside its aim; a shorter one less, in
            proportion, so that an arm that is told to hold does not move.
        gain: length of a move over the length commanded.
        latency_steps: control steps until a command acts; until the first one does, the arm holds.
        friction: of the gripper and of everything on the table, times the usual.
    """

    aim_offset_m: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.0
    latency_steps: int = 0
    friction: float = 1.0

    def moved(self, translation_X: Array, longest_m: float) -> Array:
        """Return where a commanded translation (3,) takes the arm."""
        share = float(np.abs(translation_X).max()) / longest_m
        moved_X: Array = self.gain * translation_X + share * np.array([*self.aim_offset_m, 0.0])
        return moved_X

    def commanded(self, wanted_X: Array, longest_m: float) -> Array:
        """Return the translation (3,) that takes the arm there: the inverse of moved(), as far as a step reaches."""
        command_X = wanted_X / self.gain
        for _ in range(8):  # its share depends on itself; an offset is a fraction of a step, so this converges
            share = float(np.abs(command_X).max()) / longest_m
            command_X = (wanted_X - share * np.array([*self.aim_offset_m, 0.0])) / self.gain
        clipped_X: Array = np.clip(command_X, -longest_m, longest_m)
        return clipped_X


@dataclass(frozen=True)
class ActuationRange:
    """What an arm's errors are drawn from, evenly.

    Attributes:
        aim_offset_m: smallest and largest length of the offset; its direction is any.
        gain: smallest and largest.
        latency_steps: largest.
        friction: smallest and largest.
    """

    aim_offset_m: tuple[float, float] = (0.0, 0.015)
    gain: tuple[float, float] = (0.75, 1.25)
    latency_steps: int = 2
    friction: tuple[float, float] = (0.7, 1.3)

    def draw(self, rng: np.random.Generator) -> Actuation:
        """Draw one arm."""
        angle, length = rng.uniform(-np.pi, np.pi), rng.uniform(*self.aim_offset_m)
        return Actuation(
            (float(length * np.cos(angle)), float(length * np.sin(angle))), float(rng.uniform(*self.gain)),
            int(rng.integers(self.latency_steps + 1)), float(rng.uniform(*self.friction)),
        )  # fmt: skip


class ActuatedEnv:
    """A simulated arm that errs, another way in every episode; keeps gymnast_core.env.Env.

    What is recorded as commanded is what was asked of it, as at a real arm that does not know how it errs.

    Args:
        env: the arm that does as it is told; driven by this one alone.
        errs: what each episode's errors are drawn from, by its seed.
    """

    def __init__(self, env: SimEnv, errs: ActuationRange) -> None:
        self.inner, self.errs = env, errs
        self.actuation = Actuation()
        self._waiting: deque[FloatArray] = deque()

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        return self.inner.spec

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode with another arm; see gymnast_core.env.Env.reset."""
        self.actuation = self.errs.draw(np.random.default_rng([seed, 16]))
        self._waiting.clear()
        self.inner.set_friction(self.actuation.friction)
        return self.inner.reset(instruction, seed=seed)

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action; the arm does what it makes of the one that is due."""
        asked_A = checked_action(action_BA, 1)[0].copy()
        longest = self.spec.robot.max_translation_m
        asked_A[:3] = asked_A[:3].clip(-longest, longest)
        self._waiting.append(asked_A)
        done_A = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
        if len(self._waiting) > self.actuation.latency_steps:
            done_A = self._waiting.popleft().copy()
            done_A[:3] = self.actuation.moved(done_A[:3].astype(np.float64), longest)
        result = self.inner.step(done_A[None])
        return StepResult(result.observation, result.terminated_B, result.truncated_B, asked_A[None])

    @property
    def scene(self) -> SceneConfig:
        """Looks and distractors."""
        return self.inner.scene

    def succeeded(self) -> bool:
        """Privileged: see SimEnv.succeeded."""
        return self.inner.succeeded()

    @property
    def success_step(self) -> int | None:
        """Privileged: see SimEnv.success_step."""
        return self.inner.success_step

    def waiting(self) -> list[FloatArray]:
        """Privileged: (7,) commands that have not acted yet."""
        return list(self._waiting)

    def close(self) -> None:
        """Free the arm."""
        self.inner.close()


class CompensatingExpert(ScriptedExpert):
    """A scripted operator that knows how the arm errs, from some step on; it plans from where the arm is.

    Args:
        env: as for the scripted expert.
        knows_from: first step at which it makes up for the arm's errors; before, it acts as if there were none.
        again_at: step at which it begins its plan anew if the task is not done; the arm's errors are the same.
        rng: draws the errors of its own hand.
    """

    version = "compensating-expert"

    def __init__(
        self, env: ActuatedEnv, *, knows_from: int = 5, again_at: int = TWO_TRIES // 2, action_noise_m: float = 0.002,
        rng: np.random.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(env.inner, action_noise_m=action_noise_m, rng=rng)
        self._actuated, self._knows_from, self._again_at, self._from = env, knows_from, again_at, 0

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return the next K actions; see ScriptedExpert.act."""
        state = self._env.oracle()
        if state.step == 0 or (state.step == self._again_at and not self._env.succeeded()):
            self._plan_TX, self._from = self._plan(state), state.step
        knows = state.step >= self._knows_from
        arm = self._actuated.actuation if knows else Actuation()
        longest = self._env.spec.robot.max_translation_m
        place_X = state.target_X.copy()
        late = arm.latency_steps
        for due_A in self._actuated.waiting() if knows else ():
            place_X += arm.moved(due_A[:3].astype(np.float64), longest)
        rows = np.arange(state.step, state.step + self.chunk_length) - self._from + late
        actions = np.zeros((self.chunk_length, 7), np.float32)
        for action_A, row_X in zip(actions, self._plan_TX[rows.clip(max=len(self._plan_TX) - 1)], strict=True):
            wanted_X = row_X[:3] - place_X + self._rng.normal(0.0, self._action_noise_m, 3)
            action_A[:3], action_A[6] = arm.commanded(wanted_X, longest), row_X[3]
            place_X = place_X + arm.moved(action_A[:3].astype(np.float64), longest)
        return ActionChunk(actions[None], self.version)

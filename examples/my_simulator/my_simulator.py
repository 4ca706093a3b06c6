"""A simulator of your own: a gripper seen from above that should come to rest over a red dot. No physics at all.

Env is what policies, recorders and world models know. A simulated *robot* (`gymnast up`) asks four things more, World:
whether the task is done, a digest of the state, where the arm is commanded to be, and its joints; with rehome() it can
try again and practise, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from gymnast_core.arm.kinematics import inverse
from gymnast_core.arm.targets import DEFAULT_ROTATION, EndEffectorTarget
from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import ConfigError, ContractError, EpisodeOverError, UnreachableError
from gymnast_core.spec import EnvSpec
from gymnast_core.types import FloatArray, Observation, StepResult

CAMERA, SIZE = "top", 128
TASK = "go to the red dot"
REACHED_M = 0.02
LOW_X, HIGH_X = np.array([0.18, -0.12]), np.array([0.34, 0.12])
"""Where dots and grippers may be [m]."""
GUESS_J = np.array([0.0, 0.02, 0.18, 0.0, 1.37, 0.0])


class Dots:
    """Keeps gymnast_core.env.Env and gymnast_ros.nodes.sim_world.World, one row."""

    def __init__(self, max_steps: int = 15) -> None:
        self.spec = EnvSpec(1, (CAMERA,), SIZE, SIZE, max_steps)
        self._steps, self._open, self._done = 0, False, False
        self._dot_X = np.zeros(2)
        self._target = EndEffectorTarget(np.array([0.25, 0.0, 0.15]), DEFAULT_ROTATION, 1.0)
        self._joints_J = GUESS_J

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode; the seed alone decides where dot and gripper are."""
        asked = instructions_for(instruction, 1)[0]
        if asked != TASK:
            raise ContractError(f"this world has no task {asked!r}; it knows {TASK!r}")
        self._dot_X = np.random.default_rng(seed).uniform(LOW_X, HIGH_X)
        return self.rehome(asked, seed=seed)

    def rehome(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode with the dot where it is: the arm alone goes home, to try again or to practise."""
        start_X = np.random.default_rng(seed).uniform(LOW_X, HIGH_X, (2, 2))[1]
        self._target = EndEffectorTarget(np.append(start_X, 0.15), DEFAULT_ROTATION, 1.0)
        self._joints_J = inverse(self._target.position_m, DEFAULT_ROTATION, GUESS_J)
        self._steps, self._open, self._done = 0, True, False
        return self._observation()

    def step(self, action_BA: FloatArray) -> StepResult:
        """Move the target; a pose that no joints reach leaves the arm where it is."""
        if not self._open:
            raise EpisodeOverError("the episode is over or was never started; call reset() first")
        target, commanded_A = self._target.advanced(checked_action(action_BA, 1)[0], self.spec.robot)
        try:
            self._joints_J = inverse(target.position_m, target.rotation, self._joints_J)
            self._target = target
        except UnreachableError:
            commanded_A[:6] = 0.0
        self._steps += 1
        self._done |= bool(np.hypot(*(self._target.position_m[:2] - self._dot_X)) < REACHED_M)
        self._open = self._steps < self.spec.max_steps
        return StepResult(self._observation(), np.zeros(1, np.bool_), np.array([not self._open]), commanded_A[None])

    def close(self) -> None:
        """Nothing is held."""
        self._open = False

    def use_scene(self, name: str) -> None:
        """There is one scene."""
        if name != "standard":
            raise ConfigError(f"this world has no scene {name!r}; it knows 'standard'")

    def succeeded(self) -> bool:
        """Whether the gripper was over the dot at any time of this episode; plays the operator who labels."""
        return self._done

    def state_digest(self) -> str:
        """Of everything that decides how the episode goes on."""
        state = np.concatenate((self._dot_X, self._target.position_m, self._joints_J, [self._steps]))
        return hashlib.sha256(state.tobytes()).hexdigest()

    def arm_target(self) -> tuple[EndEffectorTarget, npt.NDArray[np.float64]]:
        """Commanded pose and its joints."""
        return self._target, np.asarray(self._joints_J, np.float64)

    def joints(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Measured joints and velocities: here exactly what was commanded, at rest."""
        return np.asarray(self._joints_J, np.float64), np.zeros(6)

    def _observation(self) -> Observation:
        picture = np.full((SIZE, SIZE, 3), 230, np.uint8)
        for place_X, radius, colour in (
            (self._dot_X, 7, (200, 30, 30)),
            (self._target.position_m[:2], 4, (20, 20, 20)),
        ):
            x, y = ((place_X - LOW_X + 0.05) / (HIGH_X - LOW_X + 0.1) * SIZE).astype(int)
            cv2.circle(picture, (int(y), SIZE - int(x)), radius, colour, -1)
        time_ns = np.array([self._steps * self.spec.robot.step_ns], np.int64)
        return Observation({CAMERA: picture[None]}, self._target.proprio_P[None], time_ns)

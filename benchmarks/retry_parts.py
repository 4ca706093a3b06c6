"""What measuring verify-and-retry needs beside the product: the arm in process, and judges whose errors are planted.

A planted judge knows the simulator's state, so it may be used to measure and to test, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gymnast_core.outcome import Judgement
from gymnast_core.spec import EnvSpec
from gymnast_core.types import ByteArray, FloatArray, Observation, Outcome, StepResult
from gymnast_ros.sim.simulated_arm import SimulatedArm


@dataclass(frozen=True)
class MeasuredJoints:
    """See gymnast_ros.run.episodes.Joints."""

    position: Sequence[float]
    velocity: Sequence[float]


class InProcessArm:
    """Keeps gymnast_ros.run.episodes.ArmEnv without a graph; a test shows that an episode ends alike over topics.

    Attributes:
        anew: lay every scene out anew, whatever keep_scene says.
    """

    def __init__(self, image_size: int = 256) -> None:
        self.world = SimulatedArm(image_size=image_size)
        self.scene, self.keep_scene, self.anew = "standard", False, False
        self.truth: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self.executed_source = ""

    @property
    def spec(self) -> EnvSpec:
        """Of the arm."""
        return self.world.spec

    @property
    def joints(self) -> MeasuredJoints:
        """Measured with the newest observation."""
        position_J, velocity_J = self.world.joints()
        return MeasuredJoints(position_J.tolist(), velocity_J.tolist())

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Lay the scene out, or keep it."""
        self.world.use_scene(self.scene)
        begin = self.world.rehome if self.keep_scene and not self.anew else self.world.reset
        observation = begin(instruction, seed=seed)
        self._look()
        return observation

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action."""
        result = self.world.step(action_BA)
        self.executed_source = "policy"
        self._look()
        return result

    def close(self) -> None:
        """Free every renderer."""
        self.world.close()

    def _look(self) -> None:
        self.truth = {"succeeded": self.world.succeeded(), "digest": self.world.state_digest()}


def false_success(pass_1: float, precision: float, recall: float) -> float:
    """Return P(judged a success | failure) of a judge with this precision where pass_1 of the episodes succeed."""
    return pass_1 * recall * (1 - precision) / (precision * (1 - pass_1))


class PlantedJudge:
    """Errs at random, independently each time, at rates that are given.

    Args:
        truth: whether the episode that has just ended succeeded.
        recall: P(judged a success | success).
        false_success: P(judged a success | failure).
        rng: draws the errors.
        name: its id.
    """

    def __init__(
        self, truth: Callable[[], bool], *, recall: float, false_success: float, rng: np.random.Generator,
        name: str = "judge-planted",
    ) -> None:  # fmt: skip
        self._truth, self._rng, self._name = truth, rng, name
        self._rates = {True: recall, False: false_success}

    def judge(self, frames: Mapping[str, ByteArray], instruction: str, *, scene: str = "") -> Judgement:
        """See gymnast_core.outcome.OutcomeJudge; the pictures are not looked at."""
        sees = bool(self._rng.random() < self._rates[self._truth()])
        outcome = Outcome.SUCCESS if sees else Outcome.FAILURE
        return Judgement(outcome, float(sees), len(next(iter(frames.values()))) - 1, self._name, "planted")

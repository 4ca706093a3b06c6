"""The simulated arm as the rollout node sees one, in process: what runs on it runs on the node's topics, too."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from gymnast_core.errors import EstopLatchedError, SafetyError, StaleCommandError
from gymnast_core.spec import EnvSpec
from gymnast_core.types import FloatArray, Observation, StepResult
from gymnast_ros.run.plan import MOTOR_FAULT, OVER_FORCE
from gymnast_ros.sim.env import SimEnv

FAULTS = ("fault", OVER_FORCE, MOTOR_FAULT)
"""That a real arm ends an episode by."""


class ResettableArm:
    """An ArmEnv over a simulator that outlives it, as a real scene outlives every process.

    Args:
        world: the scene and the arm in it.

    Attributes:
        fails: raised or reported by the next step, once: "estop", "arm_lost", one of FAULTS; empty for none.
        refuses: so many resets are refused, as those of an arm whose motors are being rebooted.
        layouts: times the scene was laid out; 0 is a process that has run no episode.
    """

    def __init__(self, world: SimEnv) -> None:
        self.world = world
        self.scene, self.keep_scene = "standard", False
        self.truth: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self.executed_source = "policy"
        self.fails = ""
        self.layouts = self.refuses = 0

    @property
    def spec(self) -> EnvSpec:
        """Of the simulator."""
        return self.world.spec

    @property
    def joints(self) -> SimpleNamespace:
        """None are recorded."""
        return SimpleNamespace(position=(), velocity=())

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Home, or lay out anew; an arm that never ran an episode has no scene to keep, as the simulator's node."""
        if self.fails == "arm_lost":
            self.fails = ""
            raise StaleCommandError("the arm was restarted during its reset")
        if self.refuses:
            self.refuses -= 1
            raise SafetyError("motors failed, the arm recovers")
        if self.keep_scene and not self.layouts:
            raise SafetyError("there is no scene to keep yet")
        self.layouts += not self.keep_scene
        begin = self.world.rehome if self.keep_scene else self.world.reset
        observation = begin(instruction, seed=seed)
        self._look()
        return observation

    def step(self, action_BA: FloatArray) -> StepResult:
        """Step the simulator."""
        failed, self.fails = self.fails, ""
        if failed == "estop":
            raise EstopLatchedError("gate estop: somebody pressed the button; re-arm it")
        if failed == "arm_lost":
            raise StaleCommandError("no observation for 5.0 s")
        result = self.world.step(action_BA)
        self._look()
        if failed in FAULTS:
            self.notes = {"fault": "effort 3.1 Nm of joint elbow", "fault_kind": failed}
            result.terminated_B[:] = True
            self.refuses = 2 * (failed == MOTOR_FAULT)
        return result

    def close(self) -> None:
        """The world stays."""

    def _look(self) -> None:
        self.truth = {"succeeded": self.world.succeeded(), "ready": self.world.ready()}
        self.notes = {}

"""An environment behind the command gate, in process: what the robot does over topics, without topics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gymnast_core.arm.command_gate import ArmState, Command, CommandGate
from gymnast_core.env import Env, checked_action
from gymnast_core.errors import ContractError, EstopLatchedError
from gymnast_core.spec import EnvSpec
from gymnast_core.types import FloatArray, Observation, StepResult


class GatedEnv:
    """Env (B = 1) whose every action passes a CommandGate first.

    Args:
        env: the arm.
        gate: armed, with the limits of the graph it is compared with.
        arm_state: reads where the arm is told to be.

    Raises:
        ContractError: the batch is not of size one.
    """

    def __init__(self, env: Env, gate: CommandGate, arm_state: Callable[[], ArmState]) -> None:
        if env.spec.batch_size != 1:
            raise ContractError(f"one gate guards one arm, got a batch of {env.spec.batch_size}")
        self._env, self._gate, self._arm_state = env, gate, arm_state
        self._now_ns = self._episode = 0

    @property
    def spec(self) -> EnvSpec:
        """Of the arm."""
        return self._env.spec

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode; the gate forgets what it was to be smooth with."""
        observation = self._env.reset(instruction, seed=seed)
        self._episode += 1
        self._observe()
        return observation

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command what the gate makes of the action.

        Raises:
            EstopLatchedError: the gate is closed.
        """
        action_A = checked_action(action_BA, 1)[0]
        decision = self._gate.decide(Command(action_A, self._now_ns), self._now_ns)
        if decision.action_A is None:
            raise EstopLatchedError(f"gate {self._gate.state.value}: {', '.join(decision.reasons)}; re-arm it")
        result = self._env.step(decision.action_A[np.newaxis])
        self._observe()
        return result

    def close(self) -> None:
        """Free the arm."""
        self._env.close()

    def _observe(self) -> None:
        """Time is the number of observations: nothing can be late in process."""
        self._now_ns += 1
        state = self._arm_state()
        arm = replace(state, stamp_ns=self._now_ns, episode=self._episode)
        self._gate.observe(arm, self._now_ns)

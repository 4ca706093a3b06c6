"""The one loop that drives any environment with any policy; recorders and screens observe it.

On the arm the policy is asked through a GuardedPolicy, so that one that raises ends its episode alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from gymnast_core.env import Env, instructions_for
from gymnast_core.errors import BridgeError, PolicyFailedError, SafetyError
from gymnast_core.past import Remembering
from gymnast_core.policy import Policy, Wrapper
from gymnast_core.types import ActionChunk, FloatArray, Observation, StepResult


class Observer(Protocol):
    """Watches a loop; may record, never steers."""

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        """The first observation."""
        ...

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        """One action done: chunk.actions_BKA[:, index] was asked, result.commanded_BA executed."""
        ...


def run_episode(
    env: Env,
    policy: Policy,
    instruction: str | Sequence[str],
    *,
    seed: int,
    rng: np.random.Generator | None = None,
    observers: Sequence[Observer] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> StepResult:
    """Run one batch of episodes to its end and return the last step.

    Args:
        env: reset here; its spec.max_steps bounds the episode.
        policy: asked again every chunk_length steps.
        instruction: one for all rows, or B of them.
        seed: of the start states.
        rng: sampling noise of the policy; None is greedy.
        observers: called in order after the reset and after every step.
        cancelled: asked before every step; True ends the loop after the step before.

    Returns:
        The last StepResult; its rows are not all done only if cancelled.

    Raises:
        ContractError: cancelled before the first step.
    """
    rows = instructions_for(instruction, env.spec.batch_size)
    observation = env.reset(rows, seed=seed)
    for observer in observers:
        observer.on_reset(rows, observation)
    result = StepResult(observation, *_nothing_done(env.spec.batch_size))
    remembering = Remembering(env.spec.batch_size)
    while not result.done_B.all():
        chunk = policy.act(replace(result.observation, past=remembering.past()), rows, rng=rng)
        for index in range(chunk.actions_BKA.shape[1]):
            if cancelled():
                return result
            action_BA = chunk.actions_BKA[:, index]
            proprio_BP = result.observation.proprio_BP
            result = env.step(action_BA)
            remembering.add(proprio_BP, result.commanded_BA)
            for observer in observers:
                observer.on_step(action_BA, result, chunk, index)
            if result.done_B.all():
                break
    return result


def _nothing_done(batch_size: int) -> tuple[np.ndarray, np.ndarray, FloatArray]:
    return np.zeros(batch_size, bool), np.zeros(batch_size, bool), np.zeros((batch_size, 7), np.float32)


class GuardedPolicy(Wrapper):
    """A policy whose every failure is a PolicyFailedError: the arm holds, the episode ends with that reason.

    Args:
        inner: to guard; one that may hang answers from elsewhere, by a deadline (PolicyHost and RemotePolicy do).
    """

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Ask the policy, and look at its answer before it is acted on.

        Raises:
            PolicyFailedError: it raised, did not answer in time, or its answer is no chunk of finite actions.
        """
        try:
            chunk = self.inner.act(observation, instruction, rng=rng)
        except (SafetyError, BridgeError):
            raise  # a lost link or a stopped arm is not the policy's fault
        except Exception as error:  # whatever it raises, the arm holds
            raise PolicyFailedError(f"policy {self.version} raised {type(error).__name__}: {error}") from error
        if chunk.actions_BKA.shape[1] == 0:
            raise PolicyFailedError(f"policy {self.version} answered with no action")
        if not np.isfinite(chunk.actions_BKA).all():
            raise PolicyFailedError(f"policy {self.version} asked for actions that are not finite")
        return chunk

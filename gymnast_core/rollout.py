"""The one loop that drives any environment with any policy; recorders and screens observe it.

On the arm the policy is asked through a GuardedPolicy, so that one that raises or hangs ends its episode alone.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol

import numpy as np

from gymnast_core.env import Env, instructions_for
from gymnast_core.errors import BridgeError, PolicyFailedError, SafetyError
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, FloatArray, Observation, StepResult

ANSWER_S = 20.0
"""A policy that has not answered by then hangs; its checkpoint was found fast enough before it was let onto the arm."""
_Question = Callable[[], ActionChunk]


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
    while not result.done_B.all():
        chunk = policy.act(result.observation, rows, rng=rng)
        for index in range(chunk.actions_BKA.shape[1]):
            if cancelled():
                return result
            action_BA = chunk.actions_BKA[:, index]
            result = env.step(action_BA)
            for observer in observers:
                observer.on_step(action_BA, result, chunk, index)
            if result.done_B.all():
                break
    return result


def _nothing_done(batch_size: int) -> tuple[np.ndarray, np.ndarray, FloatArray]:
    return np.zeros(batch_size, bool), np.zeros(batch_size, bool), np.zeros((batch_size, 7), np.float32)


class _Asker:
    """A thread that asks a policy one thing after the other; the caller waits with a deadline."""

    def __init__(self) -> None:
        self._questions: queue.SimpleQueue[tuple[Callable[[], ActionChunk], Future[ActionChunk]] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._work, name="policy", daemon=True).start()

    def ask(self, question: _Question, timeout_s: float) -> ActionChunk:
        """Return the answer, or raise what it raised; TimeoutError when there is none in time."""
        answer: Future[ActionChunk] = Future()
        self._questions.put((question, answer))
        try:
            return answer.result(timeout_s)
        except FutureTimeoutError:
            if answer.done():
                raise  # the question's own
            raise TimeoutError from None

    def close(self) -> None:
        """End after what is being asked."""
        self._questions.put(None)

    def _work(self) -> None:
        while (asked := self._questions.get()) is not None:
            question, answer = asked
            try:
                answer.set_result(question())
            except BaseException as error:  # noqa: BLE001  # handed to the caller
                answer.set_exception(error)


class GuardedPolicy:
    """A policy whose every failure is a PolicyFailedError: the arm holds, the episode ends with that reason.

    It is asked in a thread of its own, so that one that hangs ends its episode and not the node.

    Args:
        policy: to guard.
        answer_s: longest wait for an answer.
    """

    def __init__(self, policy: Policy, *, answer_s: float = ANSWER_S) -> None:
        self._policy, self._answer_s = policy, answer_s
        self._asker = _Asker()

    def close(self) -> None:
        """End the thread; one that hangs is left behind."""
        self._asker.close()

    @property
    def version(self) -> str:
        """Of the policy inside."""
        return self._policy.version

    @property
    def chunk_length(self) -> int:
        """Of the policy inside."""
        return self._policy.chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Ask the policy, and look at its answer before it is acted on.

        Raises:
            PolicyFailedError: it raised, did not answer in time, or its answer is no chunk of finite actions.
        """
        try:
            chunk = self._asker.ask(lambda: self._policy.act(observation, instruction, rng=rng), self._answer_s)
        except TimeoutError:
            raise PolicyFailedError(f"policy {self.version} did not answer within {self._answer_s:.0f} s") from None
        except (SafetyError, BridgeError):
            raise  # a lost link or a stopped arm is not the policy's fault
        except Exception as error:  # whatever it raises, the arm holds
            raise PolicyFailedError(f"policy {self.version} raised {type(error).__name__}: {error}") from error
        if chunk.actions_BKA.shape[1] == 0:
            raise PolicyFailedError(f"policy {self.version} answered with no action")
        if not np.isfinite(chunk.actions_BKA).all():
            raise PolicyFailedError(f"policy {self.version} asked for actions that are not finite")
        return chunk

"""How a policy behaved on the arm: its failures are caught at its door, and every episode gets a verdict.

This is not about success, which trials decide: it is about policies that raise, answer with something that is no
action, or ask for what the gate has to refuse over and over. The bridge counts these verdicts during probation.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np

from gymnast_core.errors import BridgeError, PolicyFailedError, SafetyError
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, Observation
from gymnast_ros.run.ports import Publish

ANSWER_S = 20.0
"""A policy that has not answered by then hangs; its checkpoint was found fast enough before it was let onto the arm."""
REFUSED_SHARE = 0.5
"""Share of an episode's steps that the gate refused, from which on the policy is to blame."""
MIN_REFUSED = 3


class Asker:
    """A thread that calls one thing after the other; whoever asks waits with a deadline."""

    def __init__(self) -> None:
        self._questions: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="policy", daemon=True).start()

    def ask(self, question: Callable[[], Any], timeout_s: float) -> Any:
        """Return the answer, or raise what it raised; TimeoutError when there is none in time."""
        answer: Future[Any] = Future()
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
        self._asker = Asker()

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
        """Ask the policy, and look at its answer before anybody acts on it.

        Raises:
            PolicyFailedError: it raised, did not answer in time, or its answer is no chunk of finite actions.
        """
        try:
            chunk: ActionChunk = self._asker.ask(
                lambda: self._policy.act(observation, instruction, rng=rng), self._answer_s
            )
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


def verdict(reason: str, detail: str, sources: Sequence[str]) -> str:
    """Why the policy is to blame for an episode; empty when it is not.

    Args:
        reason: how the episode was cut; empty when it ran to its end.
        detail: the error's own words.
        sources: who commanded each step; "hold" is the gate refusing.
    """
    if reason == "policy_fault":
        return detail
    refused = sources.count("hold")
    if refused >= max(MIN_REFUSED, REFUSED_SHARE * len(sources)):
        return f"the gate refused {refused} of {len(sources)} steps"
    return ""


class EpisodeEvents:
    """Publishes one JSON object per episode: {run, policy, steps, episode_id, cut, good, ...}.

    Args:
        publish: on rollout/episode, by which the bridge counts a probation.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._session, self._number = time.time_ns(), 0

    def report(self, policy: str, *, steps: int = 0, episode_id: str = "", blame: str = "", cut: str = "") -> None:
        """Publish how one episode went; `run` names it, so that a listener counts it once.

        Args:
            policy: version.
            steps: actions done.
            episode_id: of the recording; empty when there is none.
            blame: see verdict().
            cut: truncated_reason; an episode that was cut for another reason says nothing about the policy.
        """
        self._number += 1
        event: dict[str, Any] = {
            "run": f"{self._session}-{self._number}", "policy": policy, "steps": steps, "episode_id": episode_id,
            "cut": cut,
            "good": not blame and not cut, "bad": bool(blame), "reason": blame,
        }  # fmt: skip
        self._publish(event)

"""How a policy behaved on the arm: its failures are caught at its door, and every episode's verdict is told.

This is not about success, which trials decide: it is about policies that raise, answer with something that is no
action, or ask for what the gate has to refuse over and over. The bridge counts these verdicts during probation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import String

from gymnast_core.errors import BridgeError, GymnastError, PolicyFailedError, SafetyError
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, Observation
from gymnast_ros.nodes import messages, topics

REFUSED_SHARE = 0.5
"""Share of an episode's steps that the gate refused, from which on the policy is to blame."""
MIN_REFUSED = 3
_RAISED = (GymnastError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


class GuardedPolicy:
    """A policy whose every failure is a PolicyFailedError: the arm holds, the episode ends with that reason."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

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
            PolicyFailedError: it raised, or its answer is no chunk of finite actions.
        """
        try:
            chunk = self._policy.act(observation, instruction, rng=rng)
        except (SafetyError, BridgeError):
            raise  # a lost link or a stopped arm is not the policy's fault
        except _RAISED as error:
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


class EpisodeTeller:
    """Publishes one JSON object per episode on rollout/episode: {run, policy, episode_id, good, reason}."""

    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(String, "~/episode", topics.JOB_EVENTS)
        self._session, self._number = time.time_ns(), 0

    def tell(self, policy: str, *, episode_id: str = "", blame: str = "", cut: str = "") -> None:
        """Tell how one episode went; `run` names it, so that whoever counts counts it once.

        Args:
            policy: version.
            episode_id: of the recording; empty when there is none.
            blame: see verdict().
            cut: truncated_reason; an episode that was cut for another reason says nothing about the policy.
        """
        self._number += 1
        event: dict[str, Any] = {
            "run": f"{self._session}-{self._number}", "policy": policy, "episode_id": episode_id, "cut": cut,
            "good": not blame and not cut, "bad": bool(blame), "reason": blame,
        }  # fmt: skip
        self._publisher.publish(messages.to_json(event))

"""A policy on an arm that is commanded more often than the policy plans: each of its actions becomes several steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gymnast_core.policies.plans import GRIPPER
from gymnast_core.policy import Committed, Policy, Wrapper, can_continue
from gymnast_core.types import ACTION_DIM, ActionChunk, FloatArray, Observation


class StretchedPolicy(Wrapper):
    """Holds a policy whose actions last `parts` steps of the arm.

    The steps of an action add up to it; the speed goes over from one action to the next without a jump. Chunks carry no
    trace: nobody chose these steps with a probability.

    Args:
        inner: the policy.
        parts: steps of the arm an action of it lasts.
    """

    def __init__(self, inner: Policy, parts: int) -> None:
        super().__init__(inner)
        self.parts = parts

    @property
    def chunk_length(self) -> int:
        """K in steps of the arm."""
        return self.inner.chunk_length * self.parts

    @property
    def continues(self) -> bool:
        """Whether the inner policy can plan on from what is committed."""
        return can_continue(self.inner) is not None

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose the next steps; see gymnast_core.policy.Policy.act."""
        # its past is in steps of this arm, not in actions of the policy: better none
        return self._cut(self.inner.act(replace(observation, past=None), instruction, rng=rng))

    def act_after(self, committed: Committed, observation: Observation, instruction: Sequence[str]) -> ActionChunk:
        """Choose steps that begin as committed; see gymnast_core.policy.ContinuingPolicy.act_after."""
        inner = can_continue(self.inner)
        if inner is None:
            return self.act(observation, instruction)
        steps = committed.actions_BKA.reshape(len(instruction), -1, self.parts, ACTION_DIM)
        whole = steps.sum(axis=2, dtype=np.float32)
        whole[..., GRIPPER] = steps[:, :, -1, GRIPPER]
        weight = committed.weight_K.reshape(-1, self.parts).mean(axis=1)
        return self._cut(inner.act_after(Committed(whole, weight), observation, instruction))

    def _cut(self, chunk: ActionChunk) -> ActionChunk:
        return ActionChunk(stretched(chunk.actions_BKA, self.parts), chunk.policy_version)


def stretched(actions_BKA: FloatArray, parts: int) -> FloatArray:
    """Cut every action into steps: (B, K, 7) to (B, K * parts, 7).

    The way is a cubic Hermite spline through the actions' ends; its speed at an end is the mean of the two actions that
    meet there. The gripper is a switch and does all of its action at once.
    """
    u = np.linspace(0.0, 1.0, parts + 1)
    leave, arrive, along = u**3 - 2 * u**2 + u, u**3 - u**2, 3 * u**2 - 2 * u**3
    move = actions_BKA[..., :GRIPPER].astype(np.float64)
    speed = np.concatenate([move[:, :1], (move[:, :-1] + move[:, 1:]) / 2, move[:, -1:]], axis=1)
    mixed = [np.diff(shape)[:, None] for shape in (leave, along, arrive)]
    steps = sum(
        part[:, :, None] * shape for part, shape in zip((speed[:, :-1], move, speed[:, 1:]), mixed, strict=True)
    )
    gripper = np.repeat(actions_BKA[..., GRIPPER:], parts, axis=1)
    moves = np.reshape(steps, (len(move), -1, GRIPPER))
    return np.concatenate([moves, gripper], axis=-1).astype(np.float32)

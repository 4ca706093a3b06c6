"""The policy contract: token and flow policies, OpenVLA, remote and scripted ones all keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from gymnast_core.types import ActionChunk, FloatArray, Observation


class Policy(Protocol):
    """Chooses action chunks. tests/contracts/policy_contract.py is its conformance suite."""

    @property
    def version(self) -> str:
        """Id of the checkpoint behind it; rides with every action it chooses."""
        ...

    @property
    def chunk_length(self) -> int:
        """K, actions per call."""
        ...

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose the next K actions for each of B rows.

        Args:
            observation: of B rows.
            instruction: B strings.
            rng: draws the tokens at the policy's own temperature; None takes the most likely one (greedy).

        Raises:
            ContractError: the number of instructions differs from B, or a camera the policy needs is missing.
        """
        ...


class Wrapper:
    """What a policy that holds another one passes on of it; how it acts is its own.

    Attributes:
        inner: the policy inside.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner

    @property
    def version(self) -> str:
        """The inner policy's."""
        return self.inner.version

    @property
    def chunk_length(self) -> int:
        """The inner policy's."""
        return self.inner.chunk_length


@dataclass(frozen=True, eq=False)
class Committed:
    """What an arm goes on doing while its policy thinks: the plan before, from the new chunk's first step on.

    Attributes:
        actions_BKA: (B, K, 7) in SI units.
        weight_K: (K,) 1 where the action will be history by then, less where the new chunk may leave it, 0 where it is
            free.
    """

    actions_BKA: FloatArray
    weight_K: FloatArray


@runtime_checkable
class ContinuingPolicy(Policy, Protocol):
    """A policy that can plan on from what is committed, as those can whose actions are the end of a flow."""

    @property
    def continues(self) -> bool:
        """Whether this one can; what runs elsewhere knows by asking."""
        ...

    def act_after(self, committed: Committed, observation: Observation, instruction: Sequence[str]) -> ActionChunk:
        """Choose the next K actions for each of B rows, greedily, so that they begin as committed.

        Raises:
            ContractError: as for act(), or what is committed is no chunk of this policy's.
        """
        ...


def can_continue(policy: Policy) -> ContinuingPolicy | None:
    """Return the policy if it can plan on from what is committed."""
    return policy if isinstance(policy, ContinuingPolicy) and policy.continues else None

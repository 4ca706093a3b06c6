"""The policy contract: token and flow policies, OpenVLA, remote and scripted ones all keep it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gymnast_core.types import ActionChunk, Observation


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

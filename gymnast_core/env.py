"""The environment contract: robot over topics, simulator and world models all keep it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gymnast_core.errors import ActionOutOfBoundsError, ContractError, ShapeError
from gymnast_core.spec import EnvSpec
from gymnast_core.types import ACTION_DIM, FloatArray, Observation, StepResult


class Env(Protocol):
    """A batch of B worlds stepped together. tests/contracts/env_contract.py is its conformance suite.

    Nothing resets itself. A finished row freezes: its observation repeats, its action is ignored.
    Stepping when every row is finished raises EpisodeOverError. Reward is not the environment's business.
    The same (instruction, seed, actions) gives the same observations.
    """

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names; constant over the life of the environment."""
        ...

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start B new episodes.

        Args:
            instruction: one for all rows, or B of them.
            seed: names the start states; row b depends on (seed, b) alone.
        """
        ...

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action per row and observe the result one control step later.

        Raises:
            ShapeError: action_BA is not (B, 7) float32.
            ActionOutOfBoundsError: a value is not finite.
            EpisodeOverError: every row is finished, or reset() was never called.
        """
        ...

    def close(self) -> None:
        """Free what the environment holds; safe to call twice."""
        ...


def instructions_for(instruction: str | Sequence[str], batch_size: int) -> tuple[str, ...]:
    """Return B instructions, repeating a single one.

    Raises:
        ContractError: the sequence has another length than B, or an instruction is blank.
    """
    rows = (instruction,) * batch_size if isinstance(instruction, str) else tuple(instruction)
    if len(rows) != batch_size:
        raise ContractError(f"got {len(rows)} instructions for a batch of {batch_size}; pass one, or one per row")
    blank = [i for i, row in enumerate(rows) if not row.strip()]
    if blank:
        raise ContractError(f"instruction of row {blank[0]} is blank; say what the arm should do")
    return rows


def checked_action(action_BA: FloatArray, batch_size: int) -> FloatArray:
    """Return the action untouched if it has the right shape and only finite values.

    Raises:
        ShapeError: action_BA is not (B, 7) float32.
        ActionOutOfBoundsError: a value is NaN or infinite.
    """
    if action_BA.shape != (batch_size, ACTION_DIM) or action_BA.dtype != np.float32:
        raise ShapeError(
            f"action must be ({batch_size}, {ACTION_DIM}) float32, got {action_BA.shape} {action_BA.dtype}"
        )
    if not np.isfinite(action_BA).all():
        row, column = np.argwhere(~np.isfinite(action_BA))[0]
        raise ActionOutOfBoundsError(f"action[{row}, {column}] is {action_BA[row, column]}; it must be finite")
    return action_BA

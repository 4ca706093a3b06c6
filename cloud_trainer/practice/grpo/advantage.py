"""Group-relative advantages (Shao et al. 2024, section 4.1.2): how much better a rollout did than its group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ShapeError
from gymnast_core.types import BoolArray, FloatArray

EPSILON = 1e-6


def group_advantages(
    reward_B: FloatArray, group_B: npt.NDArray[np.generic], use_B: BoolArray | None = None
) -> FloatArray:
    """Return (reward - group mean) / (group standard deviation + 1e-6) per row.

    Args:
        reward_B: (B,) rewards; ignored where use_B is False.
        group_B: (B,) group names.
        use_B: (B,) bool, rows that count; a row the judge abstained on does not, neither in the mean nor in training.

    Returns:
        (B,) float32; 0 where not used. The deviation has n - 1 below the sum. A group of one keeps its reward
        (mean 0, deviation 1), as in the reference.
    """
    use = np.ones(len(reward_B), bool) if use_B is None else use_B
    if not len(reward_B) == len(group_B) == len(use):
        raise ShapeError(f"{len(reward_B)} rewards, {len(group_B)} groups, {len(use)} flags; they must be one per row")
    advantage = np.zeros(len(reward_B), np.float32)
    for group in np.unique(group_B[use]):
        rows = np.flatnonzero((group_B == group) & use)
        reward = reward_B[rows].astype(np.float64)
        mean, deviation = (reward.mean(), reward.std(ddof=1)) if len(rows) > 1 else (0.0, 1.0)
        advantage[rows] = (reward - mean) / (deviation + EPSILON)
    return advantage


def token_advantages(
    advantage_B: FloatArray, length_B: npt.NDArray[np.int64], steps: int, tokens_per_step: int = 7
) -> FloatArray:
    """Spread row advantages over the valid tokens: (B, steps * tokens_per_step), 0 behind a row's length."""
    valid = np.arange(steps * tokens_per_step) < (length_B * tokens_per_step)[:, None]
    return np.where(valid, advantage_B[:, None], np.float32(0)).astype(np.float32)


def informative_groups(
    reward_B: FloatArray,
    group_B: npt.NDArray[np.generic],
    use_B: BoolArray,
    *,
    low: float = 0.1,
    high: float = 0.9,
    least_rows: int = 2,
) -> BoolArray:
    """Return (B,) bool: rows of groups whose mean reward lies in [low, high]; the others teach nothing.

    Dynamic sampling, Yu et al. 2025 (DAPO), section 3.2.
    """
    keep = np.zeros(len(reward_B), bool)
    for group in np.unique(group_B):
        rows = (group_B == group) & use_B
        if rows.sum() >= least_rows and low <= float(reward_B[rows].astype(np.float64).mean()) <= high:
            keep |= rows
    return keep

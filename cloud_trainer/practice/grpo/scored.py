"""Rollouts with their rewards: chosen, joined, and kept in a state file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gymnast_core.types import BoolArray, FloatArray, IntArray, RolloutBatch


@dataclass(frozen=True)
class Scored:
    """Rollouts with their rewards.

    Attributes:
        rollouts: B rows.
        reward_B: (B,) float32.
        use_B: (B,) bool, False where the judge abstained.
        born_B: (B,) update count of the learner when they were sampled; None until the learner has seen them.
        weight_BTA: (B, T, 7) float32 weight of each token's advantage, e.g. truncated importance weights of stale
            rollouts; None weighs all alike.
    """

    rollouts: RolloutBatch
    reward_B: FloatArray
    use_B: BoolArray
    born_B: IntArray | None = None
    weight_BTA: FloatArray | None = None


_ROLLOUT_ARRAYS = ("frames_BFHWC", "actions_BTA", "log_probs_BTA", "length_B", "group_B", "frame_steps_F")
_TRACE = "trace/"


def take_rows(scored: Scored, rows: IntArray) -> Scored:
    """Return chosen rows."""
    return replace(
        scored,
        rollouts=scored.rollouts.rows(rows),
        reward_B=scored.reward_B[rows],
        use_B=scored.use_B[rows],
        born_B=None if scored.born_B is None else scored.born_B[rows],
        weight_BTA=None if scored.weight_BTA is None else scored.weight_BTA[rows],
    )


def join_scored(first: Scored, second: Scored) -> Scored:
    """Put two batches behind each other; groups keep their names, which the loop makes unique."""
    return Scored(
        RolloutBatch.joined((first.rollouts, second.rollouts)),
        np.concatenate([first.reward_B, second.reward_B]),
        np.concatenate([first.use_B, second.use_B]),
        None if first.born_B is None or second.born_B is None else np.concatenate([first.born_B, second.born_B]),
        _joined_weights(first, second),
    )


def _joined_weights(first: Scored, second: Scored) -> FloatArray | None:
    if first.weight_BTA is None and second.weight_BTA is None:
        return None
    parts = [
        s.weight_BTA if s.weight_BTA is not None else np.ones_like(s.rollouts.actions_BTA) for s in (first, second)
    ]
    return np.concatenate(parts).astype(np.float32)


def unpacked(scored: Scored) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Return (arrays, JSON values) that packed() puts together again; for a state file."""
    arrays = {name: getattr(scored.rollouts, name) for name in _ROLLOUT_ARRAYS}
    arrays |= {_TRACE + name: array for name, array in scored.rollouts.trace.items()}
    arrays |= {"reward_B": scored.reward_B, "use_B": scored.use_B}
    optional = {"born_B": scored.born_B, "weight_BTA": scored.weight_BTA}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    texts = list(scored.rollouts.instructions)
    return arrays, {"instructions": texts, "policy_version": scored.rollouts.policy_version}


def packed(arrays: Mapping[str, np.ndarray[Any, Any]], values: Mapping[str, Any]) -> Scored:
    """Put together what unpacked() took apart."""
    of_rollouts = {name: arrays[name] for name in _ROLLOUT_ARRAYS}
    trace = {name.removeprefix(_TRACE): array for name, array in arrays.items() if name.startswith(_TRACE)}
    rollouts = RolloutBatch(
        instructions=values["instructions"], policy_version=values["policy_version"], trace=trace, **of_rollouts
    )
    return Scored(rollouts, arrays["reward_B"], arrays["use_B"], arrays.get("born_B"), arrays.get("weight_BTA"))

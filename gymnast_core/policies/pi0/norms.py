"""Normalisation statistics of state and actions, as openpi's norm_stats.json has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import CheckpointError
from gymnast_core.types import Episode, FloatArray

Float64Array = npt.NDArray[np.float64]
FLOOR_A = np.array([0.005] * 3 + [0.02] * 3 + [0.2])
"""Least deviation of each of the 7 numbers that is believed of one's own episodes: an axis at rest is not blown up."""


@dataclass(frozen=True)
class NormStats:
    """Statistics of D numbers.

    Attributes:
        centre_D: (D,) subtracted.
        scale_D: (D,) divided by, epsilon included.
        offset: added after that: 0 of a z-score, -1 of quantiles.
    """

    centre_D: Float64Array
    scale_D: Float64Array
    offset: float

    def normalise(self, values: npt.ArrayLike) -> FloatArray:
        """Return (..., D) numbers as the network sees them."""
        numbers: FloatArray = ((np.asarray(values, np.float64) - self.centre_D) / self.scale_D + self.offset).astype(
            np.float32
        )
        return numbers

    def unnormalise(self, values: npt.ArrayLike) -> FloatArray:
        """Return (..., D) numbers in SI units."""
        physical: FloatArray = ((np.asarray(values, np.float64) - self.offset) * self.scale_D + self.centre_D).astype(
            np.float32
        )
        return physical

    @staticmethod
    def read(fields: Mapping[str, Any], *, name: str, width: int, how: str, epsilon: float) -> NormStats:
        """Read one entry of norm_stats: mean and std, or q01 and q99.

        Args:
            fields: {mean, std, q01, q99}, lists.
            name: of the entry, for people.
            width: how many numbers there must be; more are taken where they do not vary, which is padding.
            how: zscore, (x - mean) / (std + epsilon), or quantile, 2 (x - q01) / (q99 - q01 + epsilon) - 1.
            epsilon: 1e-6 in openpi.

        Raises:
            CheckpointError: absent, not finite, or of another width.
        """
        first, second = (_numbers(fields, key, name) for key in _KEYS[how])
        if how == "zscore":
            centre, scale, offset = first, second + epsilon, 0.0
            varies = second > 0
        else:
            centre, scale, offset = first, (second - first + epsilon) / 2.0, -1.0
            varies = second > first
        if first.shape != second.shape or len(first) < width or varies[width:].any():
            raise CheckpointError(
                f"statistics of {name} are of {first.shape} and {second.shape} numbers, {int(varies.sum())} of which "
                f"vary; this arm's are {width}: name others with --statistics-key, or compute your own with --episodes"
            )
        if (scale[:width] <= 0).any():
            raise CheckpointError(f"statistics of {name} have a spread that is not positive: {_KEYS[how]} {fields}")
        return NormStats(centre[:width], scale[:width], offset)


_KEYS = {"zscore": ("mean", "std"), "quantile": ("q01", "q99")}


def _numbers(fields: Mapping[str, object], key: str, name: str) -> Float64Array:
    if fields.get(key) is None:
        raise CheckpointError(f"statistics of {name} lack {key}; they have {sorted(fields)}")
    try:
        numbers = np.asarray(fields[key], np.float64)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{key} of {name} is no list of numbers: {error}") from error
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise CheckpointError(f"{key} of {name} must be one row of finite numbers, got {numbers.tolist()}")
    return numbers


def statistics_of(values_ND: FloatArray) -> dict[str, list[float]]:
    """Return an entry of norm_stats for (N, 7) actions or states of this arm, spreads no less than FLOOR_A."""
    mean, std = values_ND.mean(0, dtype=np.float64), np.maximum(values_ND.std(0, dtype=np.float64), FLOOR_A)
    low, high = np.quantile(values_ND.astype(np.float64), [0.01, 0.99], axis=0)
    more = np.maximum(2 * FLOOR_A - (high - low), 0) / 2
    found = {"mean": mean, "std": std, "q01": low - more, "q99": high + more}
    return {name: [float(number) for number in numbers] for name, numbers in found.items()}


def statistics_of_episodes(episodes: Sequence[Episode]) -> dict[str, dict[str, list[float]]]:
    """Return {"state", "actions"} of recorded episodes, as norm_stats.

    Raises:
        CheckpointError: one was recorded without proprioception.
    """
    blind = [e.episode_id for e in episodes if not e.metadata.get("proprioception", True)]
    if blind:
        raise CheckpointError(f"episode {blind[0]} has no proprioception, which pi0 looks at; name others")
    return {
        "state": statistics_of(np.concatenate([episode.proprio_TP for episode in episodes])),
        "actions": statistics_of(np.concatenate([episode.actions_TA for episode in episodes])),
    }

"""Action tokens and normalisation statistics, oddities included: checkpoints were trained with them.

Ids 31744..31999 stand for 256 tokens but there are only 255 bin centres: 31744 and 31745 decode alike. Token t in
0..255 (the trace's) is id 31744 + t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import CheckpointError, ShapeError
from gymnast_core.policies.openvla.config import ACTION_BINS
from gymnast_core.types import ACTION_DIM, IntArray

Float64Array = npt.NDArray[np.float64]

BIN_EDGES = np.linspace(-1.0, 1.0, ACTION_BINS)
BIN_CENTRES = (BIN_EDGES[:-1] + BIN_EDGES[1:]) / 2.0


def decode_ids(ids: IntArray, *, vocabulary_end: int = 32000) -> Float64Array:
    """Return the bin centres in [-1, 1] of token ids; ids outside the action range are clipped, not rejected."""
    index = np.clip(vocabulary_end - ids - 1, 0, ACTION_BINS - 2)
    centres: Float64Array = BIN_CENTRES[index]
    return centres


@dataclass(frozen=True)
class Statistics:
    """Quantiles of one dataset's numbers; actions and proprioception have one each.

    Attributes:
        q01: (D,) first percentile.
        q99: (D,) 99th percentile.
        mask: (D,) bool; components where it is False are never scaled.
    """

    q01: Float64Array
    q99: Float64Array
    mask: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse vectors of different length."""
        if not self.q01.shape == self.q99.shape == self.mask.shape or self.q01.ndim != 1:
            raise ShapeError(f"q01 {self.q01.shape}, q99 {self.q99.shape}, mask {self.mask.shape} must be one length")

    def unnormalise(self, values: Float64Array, *, epsilon: float) -> Float64Array:
        """Return physical units of values in [-1, 1].

        Args:
            values: (..., D).
            epsilon: 1e-8 as OFT does, 0 as plain OpenVLA does.
        """
        scaled = 0.5 * (values + 1.0) * (self.q99 - self.q01 + epsilon) + self.q01
        return np.where(self.mask, scaled, values)

    def normalise(self, values: npt.ArrayLike) -> Float64Array:
        """Return values in [-1, 1], clipped; the inverse of unnormalise with epsilon 1e-8 inside that range."""
        raw = np.asarray(values, np.float64)
        scaled = 2.0 * (raw - self.q01) / (self.q99 - self.q01 + 1e-8) - 1.0
        return np.where(self.mask, np.clip(scaled, -1.0, 1.0), raw)

    def to_json(self) -> dict[str, Any]:
        """JSON values for a manifest."""
        return {"q01": self.q01.tolist(), "q99": self.q99.tolist(), "mask": self.mask.tolist()}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Statistics:
        """Read one dataset's entry; a missing mask means every component is scaled.

        Raises:
            CheckpointError: q01 or q99 is missing, or no list of finite numbers.
        """
        missing = [name for name in ("q01", "q99") if name not in fields]
        if missing:
            raise CheckpointError(f"normalisation statistics lack {missing[0]}; they have {sorted(fields)}")
        try:
            q01, q99 = (np.asarray(fields[name], np.float64) for name in ("q01", "q99"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"normalisation statistics are no numbers: {error}") from error
        if not np.isfinite(q01).all() or not np.isfinite(q99).all():
            raise CheckpointError(
                f"normalisation statistics are not finite: q01 {q01.tolist()}, q99 {q99.tolist()}; compute them again "
                "without the frames that are not numbers"
            )
        return Statistics(q01, q99, np.asarray(fields.get("mask", [True] * len(q01)), bool))


def action_statistics(statistics: Mapping[str, Any], key: str) -> Statistics:
    """Pick a dataset's action statistics out of dataset_statistics.json.

    Raises:
        CheckpointError: no such key, or not 7 components.
    """
    if key not in statistics:
        raise CheckpointError(f"no statistics for {key!r}; the checkpoint has {sorted(statistics)}")
    if not isinstance(statistics[key], Mapping) or "action" not in statistics[key]:
        raise CheckpointError(
            f"statistics of {key!r} have no action entry; take dataset_statistics.json of the training"
        )
    picked = Statistics.from_json(statistics[key]["action"])
    if picked.q01.shape != (ACTION_DIM,):
        raise CheckpointError(f"statistics of {key!r} have {picked.q01.shape} components, expected ({ACTION_DIM},)")
    return picked

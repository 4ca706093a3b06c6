"""Choosing tokens from log-probabilities with numpy's generators, the same way for every discrete policy."""

from __future__ import annotations

import numpy as np

from gymnast_core.types import FloatArray, IntArray


def choose_tokens(log_probs: FloatArray, rng: np.random.Generator | None) -> IntArray:
    """Return one token per leading index.

    Args:
        log_probs: (..., bins), already at the sampling temperature.
        rng: draws one uniform per leading index, mapped through the inverse distribution; None takes the maximum.
    """
    if rng is None:
        likeliest: IntArray = log_probs.argmax(-1).astype(np.int64)
        return likeliest
    cumulative = np.cumsum(np.exp(log_probs.astype(np.float64)), axis=-1)
    scaled = rng.random(log_probs.shape[:-1])[..., None] * cumulative[..., -1:]
    chosen: IntArray = np.minimum((cumulative <= scaled).sum(-1), log_probs.shape[-1] - 1).astype(np.int64)
    return chosen

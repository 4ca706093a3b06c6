"""Drawing tokens with numpy's generators, and what those drawn are worth: alike for every discrete policy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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


def picked_log_probs(logits: Tensor, tokens: IntArray, temperature: float) -> Tensor:
    """Return the log-probabilities of given tokens under softmax(logits / temperature), with gradients.

    Args:
        logits: (..., bins).
        tokens: (...), indices into the last axis of logits.
        temperature: of the softmax, above 0.
    """
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    return log_probs.gather(-1, torch.from_numpy(tokens)[..., None].to(log_probs.device))[..., 0]


def token_divergence(logits: Tensor, base: Tensor) -> Tensor:
    """Return the mean KL(base || policy) of a token, at temperature 1, of (..., bins) logits."""
    target = torch.log_softmax(base.cpu(), -1)
    apart = target.exp() * (target - torch.log_softmax(logits.cpu(), -1))
    return apart.sum(-1).mean()

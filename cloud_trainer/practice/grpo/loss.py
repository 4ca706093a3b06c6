"""The clipped token loss with asymmetric bounds (Yu et al. 2025, eq. 8-10), averaged per trajectory first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gymnast_core.errors import ContractError


@dataclass(frozen=True)
class TokenLoss:
    """Per-trajectory results, each (B,).

    Attributes:
        loss: mean clipped loss over valid tokens, with gradients.
        clipped: share of valid tokens where the clip decided.
        kl: mean of old minus new log-probability, an estimate of how far the policy moved.
    """

    loss: Tensor
    clipped: Tensor
    kl: Tensor


def clipped_loss(
    log_prob_BT: Tensor,
    old_log_prob_BT: Tensor,
    advantage_BT: Tensor,
    valid_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> TokenLoss:
    """Return max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) averaged over each trajectory's valid tokens.

    Args:
        log_prob_BT: (B, tokens) under the policy being trained.
        old_log_prob_BT: (B, tokens) under the policy that sampled.
        advantage_BT: (B, tokens).
        valid_BT: (B, tokens) bool.
        clip_low: how far below 1 the ratio counts.
        clip_high: how far above.

    Raises:
        ContractError: a trajectory has no valid token; drop it before (the reference turns it into NaN).
    """
    counts_B = valid_BT.sum(1)
    if (counts_B == 0).any():
        empty = torch.nonzero(counts_B == 0).flatten().tolist()
        raise ContractError(f"trajectories {empty} have no valid token; leave them out of the batch")
    plain, clipped, kl = _terms(log_prob_BT, old_log_prob_BT, advantage_BT, clip_low, clip_high)
    worst = torch.maximum(plain, clipped)
    return TokenLoss(
        _mean(worst, valid_BT, counts_B),
        _mean((clipped > plain).to(worst.dtype), valid_BT, counts_B).detach(),
        _mean(kl, valid_BT, counts_B).detach(),
    )


def length_weights(valid_BT: Tensor, how: str) -> Tensor:
    """Return (B,) weights of trajectories: the mini-batch loss is the mean of weight * TokenLoss.loss.

    Args:
        valid_BT: (B, tokens) bool.
        how: see GrpoConfig.length_normalisation.
    """
    counts_B = valid_BT.sum(1).to(torch.float32)
    if how == "token":
        return counts_B / counts_B.mean()
    return counts_B / valid_BT.shape[1] if how == "constant" else torch.ones_like(counts_B)


def _terms(new: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    ratio = torch.exp(new - old)
    return -advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high), old - new


def _mean(x_BT: Tensor, valid_BT: Tensor, counts_B: Tensor) -> Tensor:
    return torch.where(valid_BT, x_BT, 0.0).sum(1) / counts_B

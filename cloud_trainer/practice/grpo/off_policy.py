"""Rollouts of an older version: how old they may be, and how much their tokens then weigh.

With behaviour policy b (which sampled), proximal policy p (the weights at the start of the update) and new policy n,
the objective is  w * min(r A, clip(r) A)  with  r = n / p  and  w = min(cap, p / b). Clipping around p keeps the trust
region where the learner is now, and w corrects for the policy that sampled. For fresh rollouts p = b and w = 1.

Source:
    Decoupled PPO: Hilton, Cobbe, Schulman, "Batch size-invariance for policy optimization", arXiv 2110.00641, eq. 2;
    AReaL, arXiv 2505.24298, eq. 5. Truncation of w: Espeholt et al., IMPALA, arXiv 1802.01561, section 4.1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.grpo.scored import Scored
from gymnast_core.errors import ContractError
from gymnast_core.jobs.cluster import OffPolicy
from gymnast_core.policies.trainable import LearningPolicy
from gymnast_core.types import FloatArray, RolloutBatch


class VersionLog:
    """Which update made which version, so that data can be asked how old it is."""

    def __init__(self) -> None:
        self._update: dict[str, int] = {}

    def record(self, version: str, update: int) -> None:
        """Note that a version was published after an update.

        Raises:
            ContractError: the name was used for another update; names are never reused.
        """
        known = self._update.setdefault(version, update)
        if known != update:
            raise ContractError(f"version {version!r} was update {known}, now claimed for {update}; use a new name")

    def age(self, version: str, update: int) -> int:
        """Return how many updates old a version is.

        Raises:
            ContractError: it was never published here: such data cannot be corrected, so it cannot be used.
        """
        if version not in self._update:
            raise ContractError(f"rollouts of version {version!r}, which this run never published; drop them")
        return update - self._update[version]


def is_fresh_enough(rollouts: RolloutBatch, log: VersionLog, update: int, bounds: OffPolicy) -> bool:
    """Whether a batch may still be learned from."""
    return log.age(rollouts.policy_version, update) <= bounds.max_age


def importance_weights(proximal: FloatArray, behaviour: FloatArray, cap: float) -> FloatArray:
    """Return min(cap, exp(proximal - behaviour)) per token."""
    weights: FloatArray = np.minimum(np.exp(proximal - behaviour), cap).astype(np.float32)
    return weights


@torch.no_grad()
def log_probs_under(policy: LearningPolicy, rollouts: RolloutBatch, *, rows_at_once: int = 64) -> FloatArray:
    """Return (B, T, 7) log-probabilities of the rollouts' traces under a policy's present weights.

    Raises:
        ContractError: kept frames are not the starts of the policy's chunks.
    """
    every = np.arange(len(rollouts.instructions))
    parts = [
        rollout_log_probs(policy, rollouts, every[low : low + rows_at_once]).cpu().numpy()
        for low in range(0, every.size, rows_at_once)
    ]
    return np.concatenate(parts).reshape(rollouts.log_probs_BTA.shape)


def corrected(scored: Scored, policy: LearningPolicy, bounds: OffPolicy) -> Scored:
    """Move stale rollouts to the policy's present weights: proximal log-probabilities and importance weights."""
    proximal = log_probs_under(policy, scored.rollouts)
    weight = importance_weights(proximal, scored.rollouts.log_probs_BTA, bounds.weight_cap)
    return replace(scored, rollouts=replace(scored.rollouts, log_probs_BTA=proximal), weight_BTA=weight)

"""What a policy gives the tokens of recorded rollouts: one call per chunk, from the frame kept at its start."""

from __future__ import annotations

import numpy as np
import torch

from gymnast_core.errors import ContractError
from gymnast_core.policies.trainable import TokenPolicy
from gymnast_core.types import IntArray, RolloutBatch


def rollout_log_probs(policy: TokenPolicy, rollouts: RolloutBatch, rows: IntArray) -> torch.Tensor:
    """Return (rows, T*7) log-probabilities of some rollouts' tokens, all rows and chunks in one pass.

    The last chunk may be cut by the end of the episode: what was never commanded counts for nothing.

    Raises:
        ContractError: kept frames are not the starts of the policy's chunks.
    """
    chunk, steps = policy.chunk_length, rollouts.tokens_BTA.shape[1]
    chunks = -(-steps // chunk)
    if list(rollouts.frame_steps_F[:chunks]) != [chunk * index for index in range(chunks)]:
        raise ContractError(f"kept frames {rollouts.frame_steps_F} must be the starts of chunks of {chunk}")
    kept = rollouts.frames_BFHWC[rows, :chunks]
    frames = policy.training_frames(kept.reshape(-1, *kept.shape[2:]))
    tokens = np.pad(rollouts.tokens_BTA[rows], ((0, 0), (0, chunks * chunk - steps), (0, 0)))
    texts = [rollouts.instructions[row] for row in rows for _ in range(chunks)]
    log_probs = policy.token_log_probs(frames, texts, tokens.reshape(len(texts), chunk, 7))
    return log_probs.reshape(len(rows), -1)[:, : steps * 7]

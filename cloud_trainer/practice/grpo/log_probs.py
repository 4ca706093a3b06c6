"""What a policy gives the traces of recorded rollouts: one call per chunk, from the frame kept at its start."""

from __future__ import annotations

import torch

from gymnast_core.errors import ContractError
from gymnast_core.policies.trainable import LearningPolicy
from gymnast_core.types import IntArray, RolloutBatch


def rollout_log_probs(policy: LearningPolicy, rollouts: RolloutBatch, rows: IntArray) -> torch.Tensor:
    """Return (rows, T*7) log-probabilities of some rollouts' traces, all rows and chunks in one pass.

    The last chunk may be cut by the end of the episode: what was never commanded counts for nothing.

    Raises:
        ContractError: kept frames are not the starts of the policy's chunks.
    """
    chunk, steps = policy.chunk_length, rollouts.actions_BTA.shape[1]
    chunks = -(-steps // chunk)
    if list(rollouts.frame_steps_F[:chunks]) != [chunk * index for index in range(chunks)]:
        raise ContractError(f"kept frames {rollouts.frame_steps_F} must be the starts of chunks of {chunk}")
    kept = rollouts.frames_BFHWC[rows, :chunks]
    frames = policy.training_frames(kept.reshape(-1, *kept.shape[2:]))
    trace = {name: array[rows].reshape(-1, *array.shape[2:]) for name, array in rollouts.trace.items()}
    texts = [rollouts.instructions[row] for row in rows for _ in range(chunks)]
    log_probs = policy.log_probs(frames, texts, trace)
    return log_probs.reshape(len(rows), -1)[:, : steps * 7]

"""Small rollout batches for judges."""

import numpy as np

from gymnast_core.types import RolloutBatch


def rollouts_of(frames_BFHWC, instructions) -> RolloutBatch:
    rows, frames = frames_BFHWC.shape[:2]
    steps = 5 * (frames - 1)
    return RolloutBatch(
        instructions=list(instructions),
        frame_steps_F=np.arange(frames, dtype=np.int64) * 5,
        frames_BFHWC=frames_BFHWC,
        actions_BTA=np.zeros((rows, steps, 7), np.float32),
        log_probs_BTA=np.zeros((rows, steps, 7), np.float32),
        length_B=np.full(rows, steps, np.int64),
        policy_version="policy-test",
        group_B=np.zeros(rows, np.int64),
    )


def noise(rows: int, frames: int = 4, size: int = 32, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, (rows, frames, size, size, 3), dtype=np.uint8)

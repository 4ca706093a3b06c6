"""What the learned judge learns from: first and last frames, recorded or imagined, with what really happened.

Nothing here draws imagined frames: the caller hands them over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.images import area_downsample
from gymnast_core.types import BoolArray, ByteArray, FloatArray, RolloutBatch


@dataclass(frozen=True)
class Examples:
    """N labelled pairs of frames.

    Attributes:
        first_NHWC: (N, 64, 64, 3) uint8.
        last_NHWC: (N, 64, 64, 3) uint8, recorded or imagined.
        instructions: N strings.
        success_N: (N,) bool, what really happened.
        weight_N: (N,) float32, how often an example is drawn.
    """

    first_NHWC: ByteArray
    last_NHWC: ByteArray
    instructions: tuple[str, ...]
    success_N: BoolArray
    weight_N: FloatArray

    def __len__(self) -> int:
        return len(self.instructions)


def examples_from_rollouts(rollouts: RolloutBatch, success_B: BoolArray, size: int = 64) -> Examples:
    """Return first and last frames of imagined rollouts that replay episodes with a known outcome."""
    frames = area_downsample(rollouts.frames_BFHWC[:, [0, -1]], size)
    ones = np.ones(len(success_B), np.float32)
    return Examples(frames[:, 0], frames[:, 1], tuple(rollouts.instructions), np.asarray(success_B, bool), ones)


def join_examples(*parts: Examples, shares: Sequence[float] | None = None) -> Examples:
    """Put sets together; shares says how often each set is drawn in all (default: by its size)."""
    wanted = shares or [float(len(part)) for part in parts]
    weights = [part.weight_N * (share / part.weight_N.sum()) for part, share in zip(parts, wanted, strict=True)]
    return Examples(
        np.concatenate([part.first_NHWC for part in parts]),
        np.concatenate([part.last_NHWC for part in parts]),
        tuple(text for part in parts for text in part.instructions),
        np.concatenate([part.success_N for part in parts]),
        np.concatenate(weights).astype(np.float32),
    )

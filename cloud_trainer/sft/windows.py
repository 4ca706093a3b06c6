"""What supervised fine-tuning learns from: an image, an instruction, and the actions that followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.past import past_at
from gymnast_core.policies.history import PAST, merged_past
from gymnast_core.types import (
    ACTION_DIM,
    BoolArray,
    ByteArray,
    Episode,
    FloatArray,
    IntArray,
    Observation,
    RolloutBatch,
)

Prepare = Callable[[ByteArray], ByteArray]
"""Frames as recorded to frames as a policy's training takes them."""


@dataclass(frozen=True)
class Windows:
    """N training windows.

    Attributes:
        images_NHWC: (N, H, W, 3) uint8, what was seen before the first action.
        instructions: N strings.
        actions_NKA: (N, K, 7) float32; rows past the episode's end repeat its last action.
        valid_NK: (N, K) bool, False past the end.
        weight_N: (N,) float32, how often a window is drawn.
        proprio_NP: (N, 7) float32, the arm's state before the first action; None where it was not recorded.
        past_NHX: (N, H+1, 15) float32, what each step had behind it (gymnast_core.policies.history); None where no
            policy asks for it.
    """

    images_NHWC: ByteArray
    instructions: tuple[str, ...]
    actions_NKA: FloatArray
    valid_NK: BoolArray
    weight_N: FloatArray
    proprio_NP: FloatArray | None = None
    past_NHX: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.instructions)

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Draw window indices, with replacement, by weight."""
        edges = np.cumsum(self.weight_N, dtype=np.float64)
        index: IntArray = np.searchsorted(edges, rng.random(count) * edges[-1], side="right").astype(np.int64)
        return index


def windows_from_episodes(
    episodes: Sequence[Episode], chunk_length: int, prepare: Prepare, *, camera: str = "",
    between_weight: float = 0.1, past: bool = False,
) -> Windows:  # fmt: skip
    """Cut every step of every episode into a window.

    Args:
        episodes: at least one.
        chunk_length: K.
        prepare: a policy's training_frames.
        camera: empty for each episode's first.
        between_weight: weight of a window that does not begin at a chunk start; those that do weigh 1, because
            that is where the policy is asked.
        past: also give each window what it had behind it, for a policy that looks back.

    Raises:
        ConfigError: there are no episodes.
    """
    if not episodes:
        raise ConfigError("no episodes to train on; collect some first")
    images, actions, valid, weights, instructions, proprio, pasts = [], [], [], [], [], [], []
    for episode in episodes:
        frames = episode.images[camera or next(iter(episode.images))]
        steps = np.arange(episode.steps)
        images.append(prepare(frames[:-1]))
        index = steps[:, None] + np.arange(chunk_length)
        actions.append(episode.actions_TA[np.minimum(index, episode.steps - 1)])
        valid.append(index < episode.steps)
        weights.append(np.where(steps % chunk_length == 0, 1.0, between_weight))
        instructions += [episode.instruction] * episode.steps
        proprio.append(episode.proprio_TP[:-1])
        pasts += [past_window(episode, step) for step in range(episode.steps) if past]
    return Windows(
        np.concatenate(images),
        tuple(instructions),
        np.concatenate(actions).astype(np.float32),
        np.concatenate(valid),
        np.concatenate(weights).astype(np.float32),
        np.concatenate(proprio).astype(np.float32)
        if all(episode.metadata.get("proprioception", True) for episode in episodes)
        else None,
        np.concatenate(pasts) if past else None,
    )


def past_window(episode: Episode, step: int) -> FloatArray:
    """Return what an episode has behind it at a step, (1, H+1, 15)."""
    proprio, time_ns = episode.proprio_TP[step : step + 1], episode.time_ns_T[step : step + 1]
    return merged_past(Observation({}, proprio, time_ns, past_at(episode.proprio_TP, episode.actions_TA, step)))


def windows_from_rollouts(rollouts: RolloutBatch, rows: Sequence[int], chunk_length: int, prepare: Prepare) -> Windows:
    """Cut chosen rollouts (say, imagined successes) at their kept frames, which must be the chunk starts.

    Raises:
        ContractError: the kept frames are not 0, K, 2K, ...
    """
    last = rollouts.actions_BTA.shape[1]
    chunks = -(-last // chunk_length)
    if list(rollouts.frame_steps_F[:chunks]) != [chunk_length * c for c in range(chunks)]:
        raise ContractError(f"kept frames {rollouts.frame_steps_F} are not the starts of chunks of {chunk_length}")
    pairs = [(b, c) for b in rows for c in range(chunks) if c * chunk_length < rollouts.length_B[b]]
    steps = np.array([c * chunk_length + np.arange(chunk_length) for _, c in pairs]).reshape(-1, chunk_length)
    row = np.array([b for b, _ in pairs], np.int64)
    frames = [rollouts.frames_BFHWC[b, c] for b, c in pairs]
    proprio_BCP = rollouts.trace.get("proprio")  # of a policy that looks at the arm's state
    past_BCHX = rollouts.trace.get(PAST)  # of one that looks back
    height, width = rollouts.frames_BFHWC.shape[2:4]
    return Windows(
        prepare(np.stack(frames) if frames else np.zeros((0, height, width, 3), np.uint8)),
        tuple(rollouts.instructions[b] for b, _ in pairs),
        rollouts.actions_BTA[row[:, None], steps.clip(max=last - 1)].reshape(-1, chunk_length, ACTION_DIM),
        steps < rollouts.length_B[row][:, None],
        np.ones(len(pairs), np.float32),
        None if proprio_BCP is None else np.array([proprio_BCP[b, c] for b, c in pairs], np.float32).reshape(-1, 7),
        None if past_BCHX is None else past_BCHX[row, np.array([c for _, c in pairs], np.int64)],
    )


def mix(first: Windows, second: Windows) -> Windows:
    """Join two sets so that each is drawn half of the time."""
    if len(first) == 0 or len(second) == 0:
        return first if len(first) else second
    return Windows(
        np.concatenate([first.images_NHWC, second.images_NHWC]),
        first.instructions + second.instructions,
        np.concatenate([first.actions_NKA, second.actions_NKA]),
        np.concatenate([first.valid_NK, second.valid_NK]),
        np.concatenate([first.weight_N / first.weight_N.sum(), second.weight_N / second.weight_N.sum()]),
        _both(first.proprio_NP, second.proprio_NP),
        _both(first.past_NHX, second.past_NHX),
    )


def _both(first: FloatArray | None, second: FloatArray | None) -> FloatArray | None:
    return None if first is None or second is None else np.concatenate([first, second])

"""A recorded start as the network sees it: context frames, slot 0 the pinned anchor, each with what led to it."""

from __future__ import annotations

import numpy as np

from cloud_trainer.world_model.dit.actions import frame_conditions
from cloud_trainer.world_model.starts import StartState
from gymnast_core.errors import ConfigError
from gymnast_core.types import ACTION_DIM, ByteArray, FloatArray


def known_frames(start: StartState, frames: int) -> tuple[ByteArray, FloatArray]:
    """Return exactly `frames` known frames of a start, the last one "now".

    Args:
        start: where a dream begins.
        frames: F, at least 1; of a shorter past the anchor is repeated, of a longer one the oldest but the anchor left.

    Returns:
        ((F, H, W, 3) uint8, (F, 10) float32: the condition that led to each frame, zeros where none did).

    Raises:
        ConfigError: it begins in the middle of an episode, and the frames before it were not kept.
    """
    known_FHWC, conditions_FC = _known(start)
    missing = frames - len(known_FHWC)
    if missing >= 0:
        rows = [0] * missing + list(range(len(known_FHWC)))
    else:
        rows = [0, *range(1 - missing, len(known_FHWC))] if frames > 1 else [len(known_FHWC) - 1]
    return known_FHWC[rows], conditions_FC[rows]


def _known(start: StartState) -> tuple[ByteArray, FloatArray]:
    """The first frame, those before the start, the start; and their conditions."""
    frames_FHWC, led_FA = start.frame_HWC[None], np.zeros((0, ACTION_DIM), np.float32)
    if start.step:
        if start.past_FHWC is None or start.led_FA is None:
            raise ConfigError(f"start {start.episode_id}@{start.step} lacks the frames before it; take it of clips")
        frames_FHWC, led_FA = np.concatenate((start.first_HWC[None], start.past_FHWC, frames_FHWC)), start.led_FA
    return frames_FHWC, frame_conditions(led_FA)

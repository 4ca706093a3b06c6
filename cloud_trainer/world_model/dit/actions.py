"""Between the arm's actions and what the network is conditioned on.

Ours: 7 physical numbers, a_t commanded between observation t and t+1. The network's: 10 numbers per frame, rescaled;
frame t+1 carries a_t; the first frame of an episode carries zeros ("nothing was commanded yet").
Source of the ranges: WorldGym's Bridge rescaling, checked in tests/parity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloud_trainer.world_model.capabilities import CAMERA_DIM, ActionKind
from gymnast_core.errors import ShapeError
from gymnast_core.policies.text import bag_of_words
from gymnast_core.types import ACTION_DIM, FloatArray

CONDITION_DIM = 10
"""xyz 3, rpy 3, gripper 1, base displacement 2, base rotation 1 (the last is also the null-action flag)."""

TRANSLATION_GAIN = np.float32(1.75 / 0.05)
ROTATION_GAIN = np.float32(1.4 / 0.25)
_TRANSLATION_LIMIT = np.float32(1.75)
_ROTATION_LIMIT = np.float32(1.4)
_OPEN_ABOVE = np.float32(0.8)


def rescale_bridge(action: FloatArray) -> FloatArray:
    """Return a rescaled copy: xyz +-0.05 m -> +-1.75, rpy +-0.25 rad -> +-1.4, clamped; gripper > 0.8 -> -1, else +1.

    Args:
        action: (..., 7 or more) float32; components from 7 on are copied.
    """
    out = np.array(action, np.float32)
    out[..., :3] = np.clip(out[..., :3] * TRANSLATION_GAIN, -_TRANSLATION_LIMIT, _TRANSLATION_LIMIT)
    out[..., 3:6] = np.clip(out[..., 3:6] * ROTATION_GAIN, -_ROTATION_LIMIT, _ROTATION_LIMIT)
    out[..., 6] = np.where(out[..., 6] > _OPEN_ABOVE, np.float32(-1), np.float32(1))
    return out


def physical_from_bridge(rescaled: FloatArray) -> FloatArray:
    """Undo rescale_bridge where it can be undone: (..., 7) metres, radians, gripper 0 closed / 1 open.

    Values clamped on the way in stay clamped; a gripper of -1 becomes 1 (open), anything above 0 becomes 0.
    """
    out = np.array(rescaled[..., :ACTION_DIM], np.float32)
    out[..., :3] /= TRANSLATION_GAIN
    out[..., 3:6] /= ROTATION_GAIN
    out[..., 6] = np.where(out[..., 6] < 0, np.float32(1), np.float32(0))
    return out


def condition(actions_TA: FloatArray) -> FloatArray:
    """Return (..., 10) network conditions for (..., 7) physical actions, without any shift in time.

    Raises:
        ShapeError: the last axis is not 7.
    """
    if actions_TA.shape[-1] != ACTION_DIM:
        raise ShapeError(f"actions must end in {ACTION_DIM} numbers, got shape {actions_TA.shape}")
    out = np.zeros((*actions_TA.shape[:-1], CONDITION_DIM), np.float32)
    out[..., :ACTION_DIM] = rescale_bridge(actions_TA)
    return out


def frame_conditions(actions_TA: FloatArray) -> FloatArray:
    """Return (..., T+1, 10), one condition per frame: zeros for the first, then a_t for frame t+1.

    Args:
        actions_TA: (..., T, 7), a_t commanded between frame t and frame t+1.
    """
    first = np.zeros((*actions_TA.shape[:-2], 1, CONDITION_DIM), np.float32)
    return np.concatenate((first, condition(actions_TA)), axis=-2)


@dataclass(frozen=True)
class ConditionLayout:
    """Which numbers a network takes a frame: the arm's ten, then the camera's, then the instruction's.

    Attributes:
        camera: whether the camera's motion is among them.
        text: numbers that an instruction is hashed to; 0 leaves it out.
    """

    camera: bool = False
    text: int = 0

    def of(self, kind: ActionKind, actions_TA: FloatArray, instruction: str) -> FloatArray:
        """Return (T+1, width), one condition per frame.

        What has no arm's actions comes under the null action: of a moving camera its motion says what happens, of
        other video the instruction, or nothing.

        Args:
            kind: of the dataset.
            actions_TA: (T, 7), see actions_of().
            instruction: of the episode.
        """
        if kind in (ActionKind.EE_DELTA7, ActionKind.JOINT):
            arm = frame_conditions(actions_TA)
        else:
            arm = np.zeros((len(actions_TA) + 1, CONDITION_DIM), np.float32)
            arm[:, -1] = 1
        parts = [arm]
        if self.camera:
            moved = np.zeros((len(arm), CAMERA_DIM), np.float32)
            if kind is ActionKind.CAMERA:
                moved[1:] = actions_TA[:, :CAMERA_DIM] * np.repeat((TRANSLATION_GAIN, ROTATION_GAIN), 3)
            parts.append(moved)
        if self.text:
            said = bag_of_words([instruction], self.text) * np.float32(kind is ActionKind.TEXT)
            parts.append(np.repeat(said, len(arm), axis=0))
        return np.concatenate(parts, axis=1)

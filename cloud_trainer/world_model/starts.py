"""Where a dream may begin: any recorded step, with the past that a world model may look back on.

The episode's first frame is context in every model; those just before the start follow with the actions that led to
them, so that the model knows what is moving (keyframe starts, WoVR, arXiv 2602.13977).
"""

from __future__ import annotations

from dataclasses import dataclass

from gymnast_core.errors import ConfigError
from gymnast_core.types import ByteArray, Episode, FloatArray

PAST_FRAMES = 3
"""Frames kept before a start; with its own and the first one they are the DiT's five context frames."""


@dataclass(frozen=True)
class StartState:
    """A recorded step and what was seen before it; H and W are 64 for the compact world model.

    Attributes:
        first_HWC: (H, W, 3) uint8, the episode's first frame.
        frame_HWC: (H, W, 3) uint8, what was seen at the start step.
        pose_P: (7,) float32, the pose then.
        instruction: what the arm should do.
        step: control steps already spent; 0 for an episode's beginning.
        episode_id: where it comes from.
        episode_steps: the step at which a dream that begins here ends.
        past_FHWC: up to PAST_FRAMES frames just before the start, the oldest first, without the episode's first; None
            is unknown, which a world model that looks further back than one frame refuses.
        led_FA: (F + 1, 7) float32, the actions that led to each of them and to the start.
    """

    first_HWC: ByteArray
    frame_HWC: ByteArray
    pose_P: FloatArray
    instruction: str
    step: int
    episode_id: str
    episode_steps: int
    past_FHWC: ByteArray | None = None
    led_FA: FloatArray | None = None


def start_from_episode(
    episode: Episode, step: int, *, ends: int | None = None, camera: str | None = None
) -> StartState:
    """Start at observation `step` of a recorded episode.

    Args:
        episode: T actions, T + 1 observations.
        step: 0..T.
        ends: step at which the dream ends; None is T.
        camera: default the first one.

    Raises:
        ConfigError: step or camera is not in the episode.
    """
    name = camera or next(iter(episode.images))
    if name not in episode.images or not 0 <= step <= episode.steps:
        raise ConfigError(
            f"episode {episode.episode_id} has cameras {tuple(episode.images)} and steps 0..{episode.steps}; "
            f"asked for {name!r} at {step}"
        )
    frames_FHWC = episode.images[name]
    return StartState(
        frames_FHWC[0],
        frames_FHWC[step],
        episode.proprio_TP[step],
        episode.instruction,
        step,
        episode.episode_id,
        episode.steps if ends is None else ends,
        frames_FHWC[max(1, step - PAST_FRAMES) : step],
        episode.actions_TA[max(0, step - PAST_FRAMES - 1) : step],
    )

"""Where an imagined episode may begin: any recorded step of a real one.

The episode's first frame stays pinned in slot 0 as an anchor; the frames just before the start follow with the
actions that led to them, so that the model knows what is moving (keyframe starts, WoVR, arXiv 2602.13977).
"""

from __future__ import annotations

from dataclasses import dataclass

from cloud_trainer.world_model.dit.actions import CONDITION_DIM, frame_conditions
from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.types import ByteArray, Episode, FloatArray


@dataclass(frozen=True)
class StartState:
    """A known past.

    Attributes:
        instruction: what the episode was about.
        frames_FHWC: (F, H, W, 3) uint8, slot 0 the anchor, then recent frames, the last one is "now".
        conditions_FC: (F, 10) float32, the action that led to each frame; zeros where none did.
        proprio_P: (7,) float32, now.
        time_ns: now.
        source: episode id and step, for lineage.
        left: steps after which a row that begins here is truncated, where that is sooner than the environment's own.
    """

    instruction: str
    frames_FHWC: ByteArray
    conditions_FC: FloatArray
    proprio_P: FloatArray
    time_ns: int = 0
    source: str = ""
    left: int | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not line up."""
        frames = self.frames_FHWC.shape[0]
        if self.frames_FHWC.ndim != 4 or frames < 1 or self.conditions_FC.shape != (frames, CONDITION_DIM):
            raise ShapeError(
                f"start {self.source}: frames {self.frames_FHWC.shape} need conditions ({frames}, {CONDITION_DIM}), "
                f"got {self.conditions_FC.shape}"
            )


def start_from_episode(episode: Episode, step: int, *, recent: int = 4, camera: str | None = None) -> StartState:
    """Start at observation `step` of a recorded episode.

    Args:
        episode: T actions, T + 1 observations.
        step: 0..T.
        recent: how many frames up to and including `step` are context, besides the anchor.
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
    keep = sorted({0, *range(max(0, step - recent + 1), step + 1)})
    return StartState(
        episode.instruction,
        episode.images[name][keep],
        frame_conditions(episode.actions_TA)[keep],
        episode.proprio_TP[step],
        int(episode.time_ns_T[step]),
        f"{episode.episode_id}@{step}",
    )


def padded(start: StartState, frames: int) -> tuple[ByteArray, FloatArray]:
    """Return exactly `frames` context frames: the anchor is repeated, or the oldest unpinned ones are dropped."""
    missing = frames - start.frames_FHWC.shape[0]
    if missing >= 0:
        rows = [0] * missing + list(range(start.frames_FHWC.shape[0]))
    else:
        rows = [0, *range(1 - missing, start.frames_FHWC.shape[0])] if frames > 1 else [start.frames_FHWC.shape[0] - 1]
    return start.frames_FHWC[rows], start.conditions_FC[rows]

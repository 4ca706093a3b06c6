"""Recorded observations of this robot: the last episodes it made, kept beside the spool that ships them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from gymnast_core.episodes.reader import read_episode
from gymnast_core.errors import GymnastError
from gymnast_core.past import past_at
from gymnast_core.types import PROPRIO_DIM, Episode, Observation

LOG = logging.getLogger(__name__)
KEPT_EPISODES = 3
PER_EPISODE = 4
NEUTRAL_PIXELS = 256
NEUTRAL_INSTRUCTION = "lift the red cube"

Recorded = list[tuple[Observation, str]]


def keep_episode(episode: Path, recent: Path) -> None:
    """Keep a finished recording for later checks, as a second name of the same file; the oldest ones go.

    Args:
        episode: <id>.mcap, before it is handed to the spool.
        recent: folder on the same file system; created when missing.
    """
    recent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(episode, recent / episode.name)
    except FileExistsError:
        return
    kept = sorted(recent.glob("*.mcap"), key=lambda path: path.stat().st_mtime_ns)
    for old in kept[:-KEPT_EPISODES]:
        old.unlink(missing_ok=True)


def has_recordings(recent: Path) -> bool:
    """Whether this robot has recorded an episode since its folder was made."""
    return any(recent.glob("*.mcap"))


def recorded_observations(recent: Path) -> Recorded:
    """Return observations (B = 1) with their instructions, spread over the kept episodes; newest episode first."""
    found: Recorded = []
    for path in sorted(recent.glob("*.mcap"), key=lambda path: -path.stat().st_mtime_ns):
        try:
            found += _spread(read_episode(path))
        except (GymnastError, OSError) as error:  # a damaged or just removed one is no reason to check nothing
            LOG.warning("recording_not_used path=%s error=%s", path, error)
    return found


def neutral_observation(camera: str) -> tuple[Observation, str]:
    """Return what a robot without any recording is asked about: a grey picture, a zero pose.

    Args:
        camera: that the policy needs; empty where it takes any.
    """
    image_BHWC = np.full((1, NEUTRAL_PIXELS, NEUTRAL_PIXELS, 3), 128, np.uint8)
    proprio_BP = np.zeros((1, PROPRIO_DIM), np.float32)
    observation = Observation({camera or "neutral": image_BHWC}, proprio_BP, np.zeros(1, np.int64))
    return observation, NEUTRAL_INSTRUCTION


def _spread(episode: Episode) -> Recorded:
    count = episode.proprio_TP.shape[0]
    steps = sorted({round(float(step)) for step in np.linspace(0, count - 1, min(PER_EPISODE, count))})
    return [
        (
            Observation(
                {name: frames[step : step + 1] for name, frames in episode.images.items()},
                episode.proprio_TP[step : step + 1],
                episode.time_ns_T[step : step + 1],
                past_at(episode.proprio_TP, episode.actions_TA, step),
            ),
            episode.instruction,
        )
        for step in steps
    ]

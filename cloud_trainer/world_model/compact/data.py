"""Recorded episodes as the arrays the compact world model learns from, and the start states it dreams from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cloud_trainer.world_model.starts import PAST_FRAMES, StartState
from gymnast_core.arm.targets import commanded_proprioception
from gymnast_core.errors import ConfigError
from gymnast_core.images import area_downsample
from gymnast_core.outcome import judge_in
from gymnast_core.robots import robot_of
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import BoolArray, ByteArray, Episode, FloatArray, IntArray, Outcome


def next_pose(pose_BP: FloatArray, action_BA: FloatArray, robot: RobotSpec = WIDOWX_250S) -> FloatArray:
    """Pose (B, 7) after one commanded action (B, 7), moved as the arm moves it."""
    return commanded_proprioception(pose_BP, action_BA[:, None], robot)[:, 1]


@dataclass(frozen=True)
class Clips:
    """N episodes, padded to the same length.

    Attributes:
        frames_NTHWC: (N, T+1, 64, 64, 3) uint8.
        poses_NTP: (N, T+1, 7) float32, commanded.
        actions_NTA: (N, T, 7) float32.
        length_N: (N,) int64, valid actions.
        instructions: N strings.
        success_N: (N,) bool; meaningless where nobody labelled it.
        labelled_N: (N,) bool; what a judge labelled is not, for it teaches and measures no judge.
        episode_ids: N ids.
        policies: N versions of what acted; empty where it was several, or is not known.
    """

    frames_NTHWC: ByteArray
    poses_NTP: FloatArray
    actions_NTA: FloatArray
    length_N: IntArray
    instructions: tuple[str, ...]
    success_N: BoolArray
    labelled_N: BoolArray
    episode_ids: tuple[str, ...]
    policies: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.instructions)

    def outcome_of(self, row: int) -> Outcome:
        """The label of an episode; an unlabelled one is that, and no failure."""
        if not self.labelled_N[row]:
            return Outcome.UNLABELLED
        return Outcome.SUCCESS if self.success_N[row] else Outcome.FAILURE

    def labelled(self) -> Clips:
        """Return the episodes that are labelled a success or a failure."""
        return self.take(np.flatnonzero(self.labelled_N))

    def take(self, rows: Sequence[int] | IntArray) -> Clips:
        """Return chosen episodes."""
        index = np.asarray(rows, np.int64)
        return Clips(
            self.frames_NTHWC[index],
            self.poses_NTP[index],
            self.actions_NTA[index],
            self.length_N[index],
            tuple(self.instructions[i] for i in index),
            self.success_N[index],
            self.labelled_N[index],
            tuple(self.episode_ids[i] for i in index),
            tuple(self.policies[i] for i in index),
        )


def clips_of(episodes: Sequence[Episode], size: int, *, camera: str = "") -> Clips:
    """Downsample and stack episodes; shorter ones repeat their last frame.

    Raises:
        ConfigError: there are no episodes, or nobody here knows the arm of one.
    """
    if not episodes:
        raise ConfigError("no episodes for the world model; collect some first")
    count, longest = len(episodes), max(episode.steps for episode in episodes)
    frames = np.empty((count, longest + 1, size, size, 3), np.uint8)
    poses, actions = np.empty((count, longest + 1, 7), np.float32), np.zeros((count, longest, 7), np.float32)
    for n, episode in enumerate(episodes):
        steps = episode.steps
        frames[n, : steps + 1] = area_downsample(episode.images[camera or next(iter(episode.images))], size)
        frames[n, steps + 1 :] = frames[n, steps]
        actions[n, :steps] = episode.actions_TA
        start_BP, actions_BTA = episode.proprio_TP[:1], episode.actions_TA[None]
        poses[n, : steps + 1] = commanded_proprioception(start_BP, actions_BTA, robot_of(episode.metadata))[0]
        poses[n, steps + 1 :] = poses[n, steps]
    return Clips(
        frames,
        poses,
        actions,
        np.array([episode.steps for episode in episodes], np.int64),
        tuple(episode.instruction for episode in episodes),
        np.array([episode.outcome is Outcome.SUCCESS for episode in episodes]),
        np.array([_labelled(episode) for episode in episodes]),
        tuple(episode.episode_id for episode in episodes),
        tuple(_policy(episode) for episode in episodes),
    )


def _policy(episode: Episode) -> str:
    acted = set(episode.policy_versions)
    return acted.pop() if len(acted) == 1 else ""


def _labelled(episode: Episode) -> bool:
    return episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE) and not judge_in(episode.labelled_by)


def looking_into(clips: Clips, episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes that clips were made of with the frames of the clips, not copies, for their first camera.

    Args:
        clips: clips_of(episodes, size).
        episodes: in the same order; frames of any size.
    """
    return [
        replace(
            episode,
            images={**episode.images, next(iter(episode.images)): clips.frames_NTHWC[n, : episode.steps + 1]},
        )
        for n, episode in enumerate(episodes)
    ]


def join(first: Clips, second: Clips) -> Clips:
    """Put two sets of the same longest length behind each other."""
    return Clips(
        np.concatenate([first.frames_NTHWC, second.frames_NTHWC]),
        np.concatenate([first.poses_NTP, second.poses_NTP]),
        np.concatenate([first.actions_NTA, second.actions_NTA]),
        np.concatenate([first.length_N, second.length_N]),
        first.instructions + second.instructions,
        np.concatenate([first.success_N, second.success_N]),
        np.concatenate([first.labelled_N, second.labelled_N]),
        first.episode_ids + second.episode_ids,
        first.policies + second.policies,
    )


def median_background(frames_NTHWC: ByteArray, *, samples: int = 400, seed: int = 0) -> ByteArray:
    """Return the (64, 64, 3) per-pixel median over sampled frames: what a fixed camera sees behind arm and objects."""
    rng = np.random.default_rng(seed)
    n, t = frames_NTHWC.shape[:2]
    picked = frames_NTHWC[rng.integers(0, n, samples), rng.integers(0, t, samples)]
    background: ByteArray = np.median(picked, axis=0).astype(np.uint8)
    return background


def starts_of(clips: Clips, *, steps: Sequence[int] = (0,), ends: int | IntArray | None = None) -> list[StartState]:
    """Return start states of every clip.

    Args:
        clips: recorded episodes.
        steps: where dreams begin: 0 alone, or later chunk starts; an episode that ended before has none.
        ends: (N,) or one step at which the dreams of all end; None is the longest episode's.
    """
    last_N = np.broadcast_to(clips.actions_NTA.shape[1] if ends is None else ends, len(clips))
    return [
        StartState(
            clips.frames_NTHWC[n, 0],
            clips.frames_NTHWC[n, step],
            clips.poses_NTP[n, step],
            clips.instructions[n],
            step,
            clips.episode_ids[n],
            int(last_N[n]),
            clips.frames_NTHWC[n, max(1, step - PAST_FRAMES) : step],
            clips.actions_NTA[n, max(0, step - PAST_FRAMES - 1) : step],
        )
        for n in range(len(clips))
        for step in steps
        if step < min(clips.length_N[n], last_N[n])
    ]

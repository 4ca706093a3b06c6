"""What a dataset is to the trainer: episodes in our convention, a tag for its actions and one for its origin."""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from cloud_trainer.world_model.capabilities import CAMERA_DIM, ActionKind
from gymnast_core.arm.kinematics import forward
from gymnast_core.arm.targets import proprioception, rotation_to_euler
from gymnast_core.errors import ConfigError, CorruptError, GymnastError
from gymnast_core.robots import declared, is_known, robot_named
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ACTION_DIM, Episode, FloatArray


class SchemaError(ConfigError):
    """A dataset's actions cannot be turned into ours; the message names the dataset."""


class Origin(str, enum.Enum):
    """Who acted."""

    EXPERT = "expert"
    ON_POLICY = "on_policy"
    FAILURE = "failure"
    RANDOM = "random"


@dataclass(frozen=True)
class SourceInfo:
    """Tags of a dataset.

    Attributes:
        name: appears in every error and in a checkpoint's lineage.
        actions: kind of its actions.
        origin: kind of policy that acted; mixing proportions are by origin.
        lag: the stored action that moved frame t to t+1 is action t - lag; 0 is our convention.
        robot: arm behind the actions: a world model that learns them knows it as a domain.
    """

    name: str
    actions: ActionKind = ActionKind.EE_DELTA7
    origin: Origin = Origin.EXPERT
    lag: int = 0
    robot: str = WIDOWX_250S.name

    @property
    def arm(self) -> RobotSpec:
        """The arm's spec; of one that nobody here knows, the WidowX 250s', whose limits and rate data are held to."""
        return robot_named(self.robot) if is_known(self.robot) else WIDOWX_250S

    def __post_init__(self) -> None:
        """Refuse joint data of arms whose kinematics we do not have."""
        if self.actions is not ActionKind.JOINT:
            return
        try:
            robot_named(self.robot)
        except ConfigError as error:
            raise SchemaError(
                f"dataset {self.name} has joint actions of {self.robot!r}, which cannot be converted to end-effector "
                f"deltas: {error}. Convert it first, or declare its actions none to use its video alone"
            ) from error


class EpisodeSource(Protocol):
    """A dataset, read one episode at a time."""

    @property
    def info(self) -> SourceInfo:
        """Its tags."""
        ...

    def __len__(self) -> int:
        """Episodes."""
        ...

    def episode(self, index: int) -> Episode:
        """Read one episode, already in our action convention."""
        ...


@dataclass(frozen=True)
class MemorySource:
    """Episodes that are already in memory."""

    info: SourceInfo
    episodes: Sequence[Episode]

    def __len__(self) -> int:
        """Episodes."""
        return len(self.episodes)

    def episode(self, index: int) -> Episode:
        """Return one, shifted by the declared lag."""
        return shifted(self.episodes[index], self.info.lag)


@dataclass(frozen=True)
class SelectedSource:
    """Some episodes of a dataset, under another origin (its failures) or its own (those that can be read)."""

    source: EpisodeSource
    indices: Sequence[int]
    origin: Origin | None = None

    @property
    def info(self) -> SourceInfo:
        """The dataset's tags, with this origin if there is one."""
        if self.origin is None:
            return self.source.info
        return replace(self.source.info, name=f"{self.source.info.name}/{self.origin.value}", origin=self.origin)

    def __len__(self) -> int:
        """Episodes."""
        return len(self.indices)

    def episode(self, index: int) -> Episode:
        """Return one."""
        return self.source.episode(self.indices[index])


def iterate(source: EpisodeSource) -> Iterator[Episode]:
    """Yield every episode in order."""
    for index in range(len(source)):
        yield source.episode(index)


@contextmanager
def reading(info: SourceInfo, what: object) -> Iterator[None]:
    """Turn whatever a damaged or incomplete file makes a reader raise into one error.

    Args:
        info: of the dataset.
        what: file or folder that is read.

    Raises:
        CorruptError: names dataset and file.
    """
    try:
        yield
    except GymnastError:
        raise
    except (OSError, EOFError, zlib.error, LookupError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise CorruptError(
            f"dataset {info.name}: {what} is damaged or incomplete ({type(error).__name__}: {error}); "
            "fetch it again or leave it out"
        ) from error


_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def require_content(path: Path) -> None:
    """Refuse the note that Git LFS leaves in place of a large file.

    Raises:
        CorruptError: names the file and the command that fetches it.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CorruptError(
                f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
            )


def at_control_rate(episode: Episode, fps: float, info: SourceInfo) -> Episode:
    """Keep every n-th frame so that steps are as long as the arm's; deltas add up, the last gripper command counts.

    Args:
        episode: in our convention, one step per frame.
        fps: its frames per second.
        info: of the dataset.

    Raises:
        SchemaError: fps is no multiple of the control rate.
        CorruptError: the episode is shorter than one step.
    """
    rate = info.arm.control_hz
    every = round(fps / rate)
    if every < 1 or abs(fps - every * rate) > 1e-3 * rate:
        raise SchemaError(
            f"dataset {info.name}: episode {episode.episode_id} has {episode.steps} steps at {fps:g} frames/s; the "
            f"arm is commanded at {rate:g} Hz, so a multiple of it is needed. Resample the dataset"
        )
    if episode.steps < every:
        raise CorruptError(
            f"dataset {info.name}: episode {episode.episode_id} has {episode.steps} steps at {fps:g} frames/s, less "
            f"than one step of the arm at {rate:g} Hz; leave it out"
        )
    if every == 1:
        return episode
    steps = episode.steps // every * every
    frames = slice(0, steps + 1, every)
    parts = episode.actions_TA[:steps].reshape(-1, every, ACTION_DIM)
    actions_TA = parts.sum(axis=1, dtype=np.float32)
    actions_TA[:, 6] = parts[:, -1, 6]
    return replace(
        episode,
        images={camera: images[frames] for camera, images in episode.images.items()},
        proprio_TP=episode.proprio_TP[frames],
        time_ns_T=episode.time_ns_T[frames],
        actions_TA=actions_TA,
        policy_versions=tuple(episode.policy_versions)[every - 1 : steps : every],
    )


def of_arm(episode: Episode, info: SourceInfo) -> Episode:
    """Return the episode with the arm that its dataset is declared of."""
    return replace(episode, metadata={**episode.metadata, **declared(info.arm.name)})


def shifted(episode: Episode, lag: int) -> Episode:
    """Return the episode with action t - lag between frames t and t + 1; steps without an action are cut off.

    Raises:
        CorruptError: the lag leaves no step.
    """
    if lag == 0:
        return episode
    steps = episode.steps - abs(lag)
    if steps < 1:
        raise CorruptError(
            f"episode {episode.episode_id} has {episode.steps} steps; a lag of {lag} leaves none. Leave it out"
        )
    first_frame, first_action = max(0, lag), max(0, -lag)
    frames = slice(first_frame, first_frame + steps + 1)
    return replace(
        episode,
        images={camera: images[frames] for camera, images in episode.images.items()},
        proprio_TP=episode.proprio_TP[frames],
        time_ns_T=episode.time_ns_T[frames],
        actions_TA=episode.actions_TA[first_action : first_action + steps],
        policy_versions=tuple(episode.policy_versions)[first_action : first_action + steps],
    )


def actions_of(info: SourceInfo, stored_TD: FloatArray, start_joints_J: FloatArray | None = None) -> FloatArray:
    """Turn stored actions into (T, 7) end-effector deltas; of a moving camera the last is 0, it has no gripper.

    Args:
        info: the dataset's tags.
        stored_TD: what the file holds; (T, 0) is fine for video without actions.
        start_joints_J: measured joints at the first frame, for joint data; default the first target.

    Raises:
        SchemaError: the width does not fit the declared schema; names the dataset.
        CorruptError: an action is not finite.
    """
    steps, width = stored_TD.shape
    if not info.actions.has_numbers:
        return np.zeros((steps, ACTION_DIM), np.float32)
    needed = CAMERA_DIM if info.actions is ActionKind.CAMERA else ACTION_DIM
    if width != needed:
        raise SchemaError(
            f"dataset {info.name} declares {info.actions.value} actions of {needed} numbers but stores {width}; "
            "declare its real kind: --action names the columns that are x y z roll pitch yaw gripper (LeRobot), "
            "--actions none reads the video alone"
        )
    if not np.isfinite(stored_TD).all():
        raise CorruptError(f"dataset {info.name} has actions that are not finite; leave those episodes out")
    if info.actions is ActionKind.JOINT:
        return _deltas_from_joints(stored_TD, start_joints_J, robot_named(info.robot))
    return np.pad(stored_TD, ((0, 0), (0, ACTION_DIM - needed))).astype(np.float32)


def _deltas_from_joints(targets_TJ: FloatArray, start_joints_J: FloatArray | None, spec: RobotSpec) -> FloatArray:
    """Differences between successive gripper targets, by forward kinematics; rotation about the world axes."""
    first = targets_TJ[0, :6] if start_joints_J is None else start_joints_J[:6]
    poses = [forward(joints, spec) for joints in np.concatenate((first[None], targets_TJ[:, :6]))]
    out = np.empty((targets_TJ.shape[0], ACTION_DIM), np.float32)
    for step, ((before, old), (after, new)) in enumerate(pairwise(poses)):
        out[step, :3] = after - before
        out[step, 3:6] = rotation_to_euler(new @ old.T)
    out[:, 6] = targets_TJ[:, 6]
    return out


def proprio_of_joints(joints_TJ: FloatArray, robot: str) -> FloatArray:
    """(T, 7) proprioception of (T, 7) joints and gripper of an arm."""
    spec = robot_named(robot)
    return np.stack([proprioception(*forward(row[:6], spec), float(row[6])) for row in joints_TJ])

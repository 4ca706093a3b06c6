"""Datasets on their way in: each episode has an id that is the same at every import, and becomes an episode file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from blake3 import blake3

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data import lerobot_own
from cloud_trainer.world_model.data.described import DatasetConfig, build_source
from cloud_trainer.world_model.data.export.layout import Kept
from cloud_trainer.world_model.data.files import below
from cloud_trainer.world_model.data.lerobot import LeRobotSource
from cloud_trainer.world_model.data.mcap import McapSource, header_of
from cloud_trainer.world_model.data.rlds import RldsSource
from cloud_trainer.world_model.data.source import EpisodeSource, SourceInfo
from gymnast_core.episodes import recorded_as, write_recording
from gymnast_core.episodes.recording import Recording
from gymnast_core.errors import ConfigError
from gymnast_core.robots import declared, is_known
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode, Outcome

_DIGEST = 24


@runtime_checkable
class Fingerprinted(Protocol):
    """A dataset whose episodes can be told apart without reading their frames."""

    def fingerprint(self, index: int) -> bytes:
        """What tells an episode from others."""
        ...


@dataclass(frozen=True)
class Said:
    """What the user says of every episode of a dataset; nothing of what was recorded or exported by us.

    Attributes:
        robot: model of the arm that it was; a name that is no arm known here says nothing of the arm.
        outcome: label; a label says that this dataset gave it.
        instruction: in place of the dataset's own; empty keeps that.
    """

    robot: str = WIDOWX_250S.name
    outcome: Outcome = Outcome.UNLABELLED
    instruction: str = ""

    @property
    def arm(self) -> dict[str, str]:
        """What an episode says of its arm."""
        return declared(self.robot) if is_known(self.robot) else {}


class Incoming:
    """A dataset, read one episode at a time.

    Args:
        source: its reader.
        said: of every episode.
        kind: of the dataset.
        read_as: the settings that decide what its episodes are turned into.
    """

    def __init__(self, source: EpisodeSource, said: Said, kind: str, read_as: str) -> None:
        self.source, self.kind = source, kind
        self._said, self._read_as = said, read_as
        self._ids: dict[int, str] = {}
        self._own: tuple[int, Kept | None] = (-1, None)

    @staticmethod
    def of(config: DatasetConfig, said: Said) -> Incoming:
        """Open a dataset.

        Raises:
            ConfigError: something is said of episodes that say it themselves, or the actions are a camera's.
        """
        if config.kind == "mcap":
            if (config.size, config.camera, config.lag) != (None, None, None):
                raise ConfigError("episode files go in as they are: --size, --camera and --lag mean nothing")
            return Incoming.of_files(below(Path(config.folder), ".mcap"), said)
        if config.actions is ActionKind.CAMERA:
            raise ConfigError(
                f"dataset {config.title}: an episode holds an arm's actions, and a camera's motion is none; train from "
                "the dataset itself (run.json), or import its video alone with --actions none"
            )
        source = build_source(config)
        decides = {"size", "actions", "lag", "camera", "state", "action", "fps"}
        decides |= {"robot"} if config.actions is ActionKind.JOINT else set()
        read_as = config.model_dump_json(include=decides, exclude_defaults=True)
        if isinstance(source, (LeRobotSource, RldsSource)):
            source = replace(source, every_camera=True)
        return Incoming(source, said, config.kind, read_as)

    @staticmethod
    def of_files(paths: Sequence[Path], said: Said) -> Incoming:
        """Take episode files as they are.

        Raises:
            ConfigError: something is said of them.
        """
        if said != Said():
            raise ConfigError(
                "episode files say themselves what they hold: --robot, --outcome and --instruction mean nothing"
            )
        return Incoming(McapSource(SourceInfo("files"), paths), said, "mcap", "")

    def __len__(self) -> int:
        """Episodes."""
        return len(self.source)

    def episode_id(self, index: int) -> str:
        """Return the id that the episode has or will have: its own, or a digest of what is in it and how it is read.

        Raises:
            CorruptError: it cannot be read.
        """
        if index not in self._ids:  # it takes the whole episode
            self._ids[index] = self._identified(index)
        return self._ids[index]

    def _identified(self, index: int) -> str:
        if isinstance(self.source, McapSource):
            return header_of(self.source.paths[index]).episode_id
        if own := self._kept(index):
            return own.header.episode_id
        if isinstance(self.source, Fingerprinted):
            content = self.source.fingerprint(index)
        else:
            content = _content(self.source.episode(index))
        digest = blake3(content + self._read_as.encode()).hexdigest()[:_DIGEST]
        return f"{self.kind}-{digest}"

    def file(self, index: int, folder: Path) -> Path:
        """Return the episode as a file: its own, or one written to a folder.

        Raises:
            GymnastError: it cannot be read, or not be turned into our convention.
        """
        if isinstance(self.source, McapSource):
            return self.source.paths[index]
        return write_recording(folder, self._recording(index))

    def _kept(self, index: int) -> Kept | None:
        """What an export of ours kept of an episode; asked for again at once, it is not read again."""
        if self._own[0] != index:
            self._own = (index, self._read_own(index))
        return self._own[1]

    def _read_own(self, index: int) -> Kept | None:
        if isinstance(self.source, RldsSource):
            return self.source.kept(index)
        return lerobot_own.kept(self.source, index) if isinstance(self.source, LeRobotSource) else None

    def _recording(self, index: int) -> Recording:
        if own := self._kept(index):
            if isinstance(self.source, RldsSource):
                return self.source.recording(index, own)
            assert isinstance(self.source, LeRobotSource)  # only these two keep something
            return lerobot_own.recording(self.source, index, own)
        episode, name = self.source.episode(index), self.source.info.name
        return recorded_as(
            replace(
                episode,
                episode_id=self.episode_id(index),
                images={_camera(camera): frames for camera, frames in episode.images.items()},
                instruction=self._said.instruction or episode.instruction,
                outcome=self._said.outcome,
                labelled_by="" if self._said.outcome is Outcome.UNLABELLED else f"dataset:{name}",
                metadata={**episode.metadata, "imported_as": episode.episode_id, **self._said.arm},
            ),
            robot=self._said.robot,
            control_hz=self.source.info.arm.control_hz,
        )


def _content(episode: Episode) -> bytes:
    frames = [images.tobytes() for images in episode.images.values()]
    numbers = [episode.actions_TA.tobytes(), episode.proprio_TP.tobytes(), episode.instruction.encode()]
    return b"".join([*numbers, *frames])


def _camera(key: str) -> str:
    """The name of a camera as a topic may have it: observation.images.front is front."""
    short = re.sub(r"^(observation\.)?(images?\.)?", "", key)
    return re.sub(r"[^A-Za-z0-9_-]+", "_", short)[:64] or "camera"

"""Our own episodes: MCAP files, already in the convention."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloud_trainer.world_model.data.source import SchemaError, SourceInfo, reading, shifted
from gymnast_core.episodes import read_episode
from gymnast_core.episodes.encoding import decode_string
from gymnast_core.episodes.messages import HEADER_TOPIC, EpisodeHeader
from gymnast_core.episodes.reader import iterate_messages
from gymnast_core.errors import CorruptError
from gymnast_core.robots import model_in
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode


@dataclass(frozen=True)
class McapSource:
    """A set of MCAP episodes.

    Attributes:
        info: tags.
        paths: the files.
        cameras: which to decode; default all.
        size: side to resize frames to.
    """

    info: SourceInfo
    paths: Sequence[Path]
    cameras: Sequence[str] | None = None
    size: int | None = None

    def __len__(self) -> int:
        """Episodes."""
        return len(self.paths)

    def episode(self, index: int) -> Episode:
        """Read one.

        Raises:
            CorruptError: no episode, or a damaged one.
            SchemaError: it is of another arm than the dataset.
        """
        size = None if self.size is None else (self.size, self.size)
        with reading(self.info, self.paths[index]):
            episode = shifted(read_episode(self.paths[index], self.cameras, size, compressed=True), self.info.lag)
        if (model := model_in(episode.metadata)) != self.info.robot:
            raise SchemaError(
                f"dataset {self.info.name}: episode {episode.episode_id} is of a {model}, the dataset of a "
                f"{self.info.robot}; give each arm's episodes a dataset of their own"
            )
        return episode


def arm_in(paths: Sequence[Path]) -> str:
    """Return the model of the arm of episode files, by the first that can be read."""
    for path in paths:
        with suppress(CorruptError):
            return model_in(header_of(path).metadata)
    return WIDOWX_250S.name


def header_of(path: Path) -> EpisodeHeader:
    """Return the header of an episode file, which is its first message.

    Raises:
        CorruptError: it is no episode file.
    """
    for topic, _, data in iterate_messages(path, compressed=True):
        if topic == HEADER_TOPIC:
            return EpisodeHeader.from_json(decode_string(data))
        break
    raise CorruptError(f"{path} does not begin with an episode header: it is no episode")

"""A dataset somebody else recorded, written as the episode files everything here reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cloud_trainer.world_model.data.source import EpisodeSource, iterate
from gymnast_core.episodes import write_episode
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Outcome


@dataclass(frozen=True)
class Converted:
    """What became of a dataset.

    Attributes:
        written: the new files.
        present: ids of episodes whose files were there already; they are left as they are.
    """

    written: tuple[Path, ...]
    present: tuple[str, ...]


def write_dataset(
    source: EpisodeSource, folder: Path, *, robot: str, outcome: Outcome = Outcome.UNLABELLED, instruction: str = ""
) -> Converted:
    """Write one <episode_id>.mcap file an episode; called again, it goes on where it was interrupted.

    Args:
        source: the dataset; its episodes are in our action convention already.
        folder: where the files go; created when missing.
        robot: which arm it was.
        outcome: of every episode; a label says that this dataset gave it.
        instruction: of every episode, in place of the dataset's own; empty keeps that.

    Raises:
        CorruptError: an episode cannot be read; those before it are written.
    """
    by = "" if outcome is Outcome.UNLABELLED else f"dataset:{source.info.name}"
    written, present = [], []
    for episode in iterate(source):
        if (folder / f"{episode.episode_id}.mcap").exists():
            present.append(episode.episode_id)
            continue
        words = instruction or episode.instruction
        own = replace(episode, instruction=words, outcome=outcome, labelled_by=by)
        written.append(write_episode(folder, own, robot=robot, control_hz=WIDOWX_250S.control_hz))
    return Converted(tuple(written), tuple(present))

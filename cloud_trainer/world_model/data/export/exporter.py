"""Episodes into a dataset, one after the other; what is interrupted goes on where it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloud_trainer.world_model.data.export.card import write_card
from cloud_trainer.world_model.data.export.layout import DatasetLayout, LayoutError
from cloud_trainer.world_model.data.export.lerobot import LeRobotWriter
from cloud_trainer.world_model.data.export.rlds import RldsWriter
from cloud_trainer.world_model.data.export.staging import Staging
from gymnast_core.episodes.recording import Recording, read_recording
from gymnast_core.errors import ConfigError, CorruptError

NOTHING = "no episode fits what was asked for; see `gymnast episodes list`"


@dataclass(frozen=True)
class Outgoing:
    """An episode to export.

    Attributes:
        episode_id: of it.
        file: returns its file with the label it has now: its own, or one fetched or written to a folder.
    """

    episode_id: str
    file: Callable[[Path], Path]


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
        episodes: ids of those in the dataset, in order.
        before: how many of them an interrupted export had finished.
        broken: id and complaint of those left out.
    """

    episodes: tuple[str, ...]
    before: int
    broken: tuple[tuple[str, str], ...]


class DatasetWriter(Protocol):
    """Writes one format."""

    def add(self, recording: Recording) -> None:
        """Write one episode, then note it in the staging folder."""
        ...

    def finish(self) -> None:
        """Write what makes a dataset of the files."""
        ...


def export(
    wanted: Sequence[Outgoing], out: Path, *, form: str, video: bool = True, skip_broken: bool = False
) -> Exported:
    """Write a dataset; it appears under its name when it is whole.

    Args:
        wanted: the episodes, in order.
        out: the folder to be.
        form: lerobot or rlds.
        video: of lerobot: frames as h264; else the recorded JPEGs byte for byte.
        skip_broken: leave out what cannot be read or does not fit the others.

    Raises:
        ConfigError: nothing to export, the folder exists, or an unfinished export in it is another one.
        LayoutError: an episode does not fit the others.
        CorruptError: an episode cannot be read.
    """
    if not wanted:
        raise ConfigError(NOTHING)
    with Staging(out, {"format": form, "video": video}).held() as staging:
        before = len(staging.rows)
        writer, broken = _written(staging, wanted, form, video, skip_broken)
        if writer is None:
            raise CorruptError(f"none of {len(wanted)} episodes can be exported; {broken[0][0]}: {broken[0][1]}")
        writer.finish()
        write_card(staging.path("README.md"), out.name, form, staging.rows)
        staging.finish()
        return Exported(tuple(row["episode_id"] for row in staging.rows), before, tuple(broken))


def _written(
    staging: Staging, wanted: Sequence[Outgoing], form: str, video: bool, skip_broken: bool
) -> tuple[DatasetWriter | None, list[tuple[str, str]]]:
    """Write the episodes that are not there yet; returns the writer, and those left out."""
    done = {row["episode_id"] for row in staging.rows}
    if foreign := done - {one.episode_id for one in wanted}:
        raise ConfigError(
            f"{staging.folder} is an unfinished export with {min(foreign)} in it, which was not asked for now; ask as "
            "before, or remove the folder"
        )
    layout = DatasetLayout.from_json(staging.rows[0]["layout"]) if done else None
    writer = writer_of(form, staging, layout, video) if layout else None
    broken: list[tuple[str, str]] = []
    for one in wanted:
        if one.episode_id in done:
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="gymnast-export-") as made:
                recording = read_recording(one.file(Path(made)), compressed=True)
            layout = layout or DatasetLayout.of(recording)
            layout.require(recording)
        except (LayoutError, CorruptError) as error:
            if not skip_broken:
                raise
            broken.append((one.episode_id, str(error)))
            continue
        writer = writer or writer_of(form, staging, layout, video)
        writer.add(recording)
    return writer, broken


def writer_of(form: str, staging: Staging, layout: DatasetLayout, video: bool) -> DatasetWriter:
    """Return the writer of a format."""
    return RldsWriter(staging, layout) if form == "rlds" else LeRobotWriter(staging, layout, video)

"""Episodes named at a desk: which files, which are labelled, and which a checkpoint has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud_trainer.world_model.data.files import below
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode, Outcome


def episode_files(paths: Sequence[Path]) -> list[Path]:
    """Every .mcap named or inside a named folder.

    Raises:
        ConfigError: there is none.
    """
    files = [file for path in paths for file in (below(path, ".mcap") if path.is_dir() else [path])]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise ConfigError(f"no episode files: {', '.join(missing or map(str, paths))}; name .mcap files or folders")
    return files


def labelled_episodes(paths: Sequence[Path], image_size: int) -> list[Episode]:
    """Read the labelled episodes, whatever their length, frames of image_size pixels a side.

    Raises:
        ConfigError: there is none.
    """
    files = episode_files(paths)
    episodes = [read_episode(path, image_size=(image_size, image_size)) for path in files]
    labelled = [episode for episode in episodes if episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE)]
    if not labelled:
        raise ConfigError(f"none of {len(files)} episodes is labelled; label some")
    return labelled


def not_learned_from(episodes: list[Episode], checkpoints: tuple[Path, ...]) -> list[Episode]:
    """Return the episodes, if none of them taught one of the checkpoints: a model is too good at what it was shown.

    Raises:
        ConfigError: one did.
    """
    for checkpoint in checkpoints:
        taught = set(read_manifest(checkpoint).lineage.get("episodes", ()))
        if seen := sorted(taught & {episode.episode_id for episode in episodes}):
            raise ConfigError(
                f"{len(seen)} of these episodes, {seen[0]} among them, were learned from by {checkpoint}; name others"
            )
    return episodes

"""Reads a planner, whichever architecture its checkpoint is."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.world_model.capabilities import ActionKind, declared_by
from cloud_trainer.world_model.planner import model as compact
from cloud_trainer.world_model.planner.model import CompactPlanner
from cloud_trainer.world_model.planner.plans import Planner
from gymnast_core.errors import ConfigError
from gymnast_core.records.manifest import read_manifest

ARCHITECTURES = (compact.ARCHITECTURE, "wan_planner")


def load_planner(folder: Path) -> Planner:
    """Read a planner's checkpoint.

    Raises:
        CheckpointError: no world model, or altered.
        ConfigError: it takes no words, or is no planner.
    """
    manifest = read_manifest(folder)
    able = declared_by(manifest)
    if ActionKind.TEXT not in able.actions or manifest.architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{manifest.id} is a {manifest.architecture} that takes {able.kinds}: no planner. Train one on recorded "
            "successes: gymnast wm train-planner EPISODES --out FOLDER"
        )
    if manifest.architecture == compact.ARCHITECTURE:
        return CompactPlanner.load(folder)
    from cloud_trainer.world_model.planner.wan import WanPlanner  # heavy, and few have one

    return WanPlanner.load(folder)

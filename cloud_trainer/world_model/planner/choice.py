"""Reads a planner, whichever architecture its checkpoint is."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.world_model.capabilities import require_plans
from cloud_trainer.world_model.planner import model as compact
from cloud_trainer.world_model.planner.model import CompactPlanner
from cloud_trainer.world_model.planner.plans import Planner
from gymnast_core.records.manifest import read_manifest


def load_planner(folder: Path) -> Planner:
    """Read a planner's checkpoint.

    Raises:
        CheckpointError: no world model, or altered.
        ConfigError: it takes no words, or is no planner.
    """
    manifest = read_manifest(folder)
    require_plans(manifest)
    if manifest.architecture == compact.ARCHITECTURE:
        return CompactPlanner.load(folder)
    from cloud_trainer.world_model.planner.wan import WanPlanner  # heavy, and few have one

    return WanPlanner.load(folder)

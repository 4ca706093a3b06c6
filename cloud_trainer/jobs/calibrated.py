"""The bounds a world model was calibrated to: what audits of it, as it was known to be good, spread over.

They lie beside the checkpoint, in bounds.json, and go with it onto the trainer's shelf; a model that is refined from it
inherits them, so that what it is held to was measured before anybody touched it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from gymnast_core.bounds import parsed_object
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.jobs.audit import AuditBounds
from gymnast_core.records.manifest import BOUNDS_NAME, MAX_CHARACTERS

GATES = ("improve", "adapt", "promotion")
"""What asks: practice on recorded episodes, practice in one scene, the promotion of a refined model."""


def calibrated_bounds(world_model: Path, gate: str) -> Mapping[str, object]:
    """Return the bounds, by name, that a checkpoint folder was calibrated to for a gate; empty where it never was.

    Raises:
        CorruptError: the file is no such table.
    """
    path = world_model / BOUNDS_NAME
    if not path.is_file():
        return {}
    try:
        table = parsed_object(path.read_text(encoding="utf-8"), BOUNDS_NAME, MAX_CHARACTERS)["gates"]
        bounds = dict(table.get(gate, {}))
        AuditBounds(**bounds)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError, CorruptError) as error:
        raise CorruptError(f"{path} is no table of bounds: {error}; calibrate again: gymnast wm bounds") from error
    return bounds


def write_bounds(world_model: Path, table: Mapping[str, object]) -> Path:
    """Write {gates: {gate: {bound: value}}, ...} beside a checkpoint, whole or not at all; returns its path."""
    path = world_model / BOUNDS_NAME
    staging = path.with_name(f".{BOUNDS_NAME}.partial")
    staging.write_text(json.dumps(table, indent=1, sort_keys=True))
    staging.replace(path)
    return path


def inherit(parent: Path, child: Path) -> None:
    """Hold a refined checkpoint to the bounds of the one it was refined from."""
    if (parent / BOUNDS_NAME).is_file():
        shutil.copyfile(parent / BOUNDS_NAME, child / BOUNDS_NAME)

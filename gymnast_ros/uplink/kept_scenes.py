"""Which checkpoints on a robot were kept for one scene alone: a small file each, beside the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import CheckpointError, ShapeError
from gymnast_core.evaluation.scene import Fingerprint

FOLDER = "scenes"


@dataclass(frozen=True)
class KeptFor:
    """Where a checkpoint drives.

    Attributes:
        fingerprint: of the scene it was kept for.
        base: id of what drives everywhere else.
    """

    fingerprint: Fingerprint
    base: str


def kept_for(store: Path, checkpoint_id: str) -> KeptFor | None:
    """Return what a checkpoint of a robot's store was kept for; None where it drives everywhere.

    Raises:
        CheckpointError: the file is unreadable.
    """
    path = store / FOLDER / f"{checkpoint_id}.json"
    try:
        fields = json.loads(path.read_bytes())
        return KeptFor(Fingerprint.from_json(fields["fingerprint"]), str(fields["base"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, ShapeError) as error:
        raise CheckpointError(f"{path} is no scene: {error}; swap {checkpoint_id} in again") from error


def keep_for(store: Path, checkpoint_id: str, fingerprint: Mapping[str, Any] | None, base: str) -> None:
    """Bind a checkpoint to a scene, or with None let it drive everywhere.

    Raises:
        CheckpointError: that is no fingerprint.
    """
    path = store / FOLDER / f"{checkpoint_id}.json"
    if fingerprint is None:
        path.unlink(missing_ok=True)
        return
    try:
        Fingerprint.from_json({name: list(values) for name, values in fingerprint.items()})
    except (ValueError, KeyError, TypeError, ShapeError) as error:
        raise CheckpointError(f"no scene to keep {checkpoint_id} for: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps({"fingerprint": dict(fingerprint), "base": base}).encode())

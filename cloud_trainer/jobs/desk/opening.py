"""Whether a checkpoint from elsewhere is what it says: it is opened by the class that its architecture names."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import CheckpointError, GymnastError
from gymnast_core.policies import load_policy
from gymnast_core.policies.adapter import ARCHITECTURE as ADAPTER
from gymnast_core.records.manifest import read_manifest


def check_opens(folder: Path) -> None:
    """Return if a checkpoint has every tensor that its architecture and configuration ask for, and no other.

    An adapter is left to the moment when its base is beside it.

    Raises:
        CheckpointError: it has not; the message names the tensors, or the architecture that nobody here knows.
        ConfigError: a package adds the architecture, but it cannot be imported.
    """
    manifest = read_manifest(folder)
    try:
        if manifest.kind == "judge":
            LearnedJudge.load(folder)
        elif manifest.kind == "world_model":
            load_world(folder)
        elif manifest.architecture != ADAPTER:
            load_policy(folder)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, GymnastError):
            raise
        raise CheckpointError(
            f"{manifest.id} is no {manifest.architecture} ({type(error).__name__}: {error}); export it anew"
        ) from error

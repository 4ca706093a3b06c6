"""The folders of a robot's checkpoints, and the link to the one in use; what may run is robot_store's to decide."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from gymnast_core.episodes.durable import move_durably, sync_file, sync_folder, write_durably
from gymnast_core.errors import CheckpointError
from gymnast_core.records.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest, verify_checkpoint
from gymnast_core.records.signing import SignedDocument
from gymnast_core.records.weights import check_safetensors_file

RELEASE_NAME = "release.json"
_CURRENT, _CHECKPOINTS = "current", "checkpoints"


class CheckpointShelf:
    """<folder>/checkpoints/<id>/ holds what was verified; `current` is a symbolic link that changes by one rename.

    Args:
        folder: of the robot's store; created when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._checkpoints = folder, folder / _CHECKPOINTS
        self._checkpoints.mkdir(parents=True, exist_ok=True)

    def current(self) -> Path | None:
        """The folder of the checkpoint in use; safe to ask from another process."""
        link = self._folder / _CURRENT
        try:
            return (self._folder / link.readlink()).resolve(strict=True)
        except FileNotFoundError:
            return None

    def held(self) -> list[str]:
        """Ids of every checkpoint on this robot."""
        return sorted(path.name for path in self._checkpoints.iterdir() if not path.name.startswith("."))

    def folder_of(self, checkpoint_id: str) -> Path:
        """Where a checkpoint lies, or would."""
        return self._checkpoints / checkpoint_id

    def path(self, checkpoint_id: str) -> Path:
        """The folder of a checkpoint on this robot.

        Raises:
            CheckpointError: it is not here.
        """
        if checkpoint_id not in self.held():
            raise CheckpointError(f"checkpoint {checkpoint_id!r} is not on this robot; it has {self.held()}")
        return self.folder_of(checkpoint_id)

    def place(self, manifest: Manifest, document: SignedDocument | None, weights: Callable[[Path], object]) -> None:
        """Write a checkpoint folder beside the others and give it its name in one rename.

        Args:
            manifest: of the checkpoint.
            document: the release it came with, if any.
            weights: puts the weights at a path.

        Raises:
            CheckpointError: they are not those of the manifest.
        """
        target = self.folder_of(manifest.id)
        staging = target.with_name(f".{manifest.id}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        weights(staging / WEIGHTS_NAME)
        check_safetensors_file(staging / WEIGHTS_NAME)
        write_durably(staging / MANIFEST_NAME, manifest.to_bytes())
        if document is not None:
            write_durably(staging / RELEASE_NAME, document.to_json())
        verify_checkpoint(staging)
        sync_file(staging / WEIGHTS_NAME)
        sync_folder(staging)
        move_durably(staging, target)

    def use(self, checkpoint_id: str) -> None:
        """Swap the link."""
        fresh = self._folder / f".{_CURRENT}-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(_CHECKPOINTS) / checkpoint_id)
        fresh.rename(self._folder / _CURRENT)
        sync_folder(self._folder)

    def keep(self, wanted: Collection[str | None]) -> None:
        """Delete every checkpoint but these."""
        for checkpoint_id in self.held():
            if checkpoint_id not in wanted:
                shutil.rmtree(self.folder_of(checkpoint_id))

    def recover(self) -> None:
        """Remove what a kill left half written."""
        for stray in self._checkpoints.glob(".*"):
            shutil.rmtree(stray)
        for stray in self._folder.glob(f".{_CURRENT}-*"):
            stray.unlink()


def write_weights(path: Path, data: bytes) -> None:
    """Write weights and sync them."""
    path.write_bytes(data)
    sync_file(path)

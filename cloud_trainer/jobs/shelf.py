"""The trainer's own copies of checkpoints, by id: what jobs start from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cloud_trainer.store.tenants import CHECKPOINTS, DEFAULT_TENANT, PerTenant, tenant_folder
from cloud_trainer.world_model.capabilities import ActionKind, declared_by
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.records.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest, read_checkpoint, read_manifest

NAMED_ONLY = ".named_only"
"""Folder with a file for each checkpoint that jobs take by its name alone."""


class Shelf:
    """A folder of checkpoint folders named by id. Immutable entries; adding one twice is harmless.

    What this trainer made, or was started with, jobs may take without naming it, the newest first; what came from
    elsewhere only by its name.

    Args:
        folder: created when missing.
        added: called with each that is new.
    """

    def __init__(self, folder: Path, added: Callable[[Manifest], None] = lambda manifest: None) -> None:
        self._folder, self._added = folder, added
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, checkpoint: Path) -> Manifest:
        """Verify a checkpoint that this trainer made or was started with, and keep a copy.

        Raises:
            CheckpointError: it is incomplete or altered.
        """
        manifest = self._keep(checkpoint)
        self._mark(manifest.id).unlink(missing_ok=True)
        return manifest

    def _mark(self, checkpoint_id: str) -> Path:
        return self._folder / NAMED_ONLY / checkpoint_id

    def _keep(self, checkpoint: Path) -> Manifest:
        manifest, _ = read_checkpoint(checkpoint)
        target = self._folder / manifest.id
        if not target.exists():
            staging = self._folder / f".{manifest.id}.partial"
            shutil.rmtree(staging, ignore_errors=True)
            shutil.copytree(checkpoint, staging)
            staging.rename(target)
            self._added(manifest)
        return manifest

    def take(self, manifest: bytes, weights: Path) -> Manifest:
        """Verify a checkpoint that came over the wire, and keep a copy, which no job takes unless it names it.

        Args:
            manifest: its manifest.json.
            weights: its weights file, which stays where it is.

        Raises:
            CheckpointError: they do not fit each other.
        """
        with tempfile.TemporaryDirectory(prefix=".take-", dir=self._folder) as folder:
            (Path(folder) / MANIFEST_NAME).write_bytes(manifest)
            (Path(folder) / WEIGHTS_NAME).symlink_to(weights.absolute())
            found = read_manifest(Path(folder))
            if not (self._folder / found.id).exists():
                self._mark(found.id).parent.mkdir(exist_ok=True)
                self._mark(found.id).touch()
            return self._keep(Path(folder))

    def path(self, checkpoint_id: str) -> Path:
        """Return the folder of a checkpoint.

        Raises:
            ConfigError: the id is no plain name, or the trainer does not have it.
        """
        if not checkpoint_id or not all(c.isalnum() or c in "_-" for c in checkpoint_id):
            raise ConfigError(f"checkpoint id {checkpoint_id!r} is not [A-Za-z0-9_-]+")
        target = self._folder / checkpoint_id
        if not target.is_dir():
            raise ConfigError(f"the trainer has no checkpoint {checkpoint_id!r}; start it with --import, or publish it")
        return target

    def ids(self, kind: str) -> list[str]:
        """Return the ids of a kind, the newest first."""
        found = sorted(self._folder.glob(f"{kind}-*"), key=lambda path: path.stat().st_ctime_ns, reverse=True)
        return [path.name for path in found]

    def holds(self, checkpoint_id: str, kind: str) -> bool:
        """Whether a checkpoint of this id and kind is here."""
        return checkpoint_id in self.ids(kind)

    def newest(self, kind: str) -> Path:
        """Return the checkpoint of a kind that this trainer made, or was started with, last.

        Of world models it is one in which an arm can be commanded.

        Raises:
            CheckpointError: there is none.
        """
        kept = self.ids(kind)
        for folder in (self._folder / name for name in kept if not self._mark(name).exists()):
            if kind != "world_model" or ActionKind.EE_DELTA7 in declared_by(read_manifest(folder)).actions:
                return folder
        others = f"; of those from elsewhere, name one: {', '.join(kept)}" if kept else ""
        raise CheckpointError(f"the trainer has made no {kind} yet, nor was it started with one (--import){others}")

    def can_replay(self, policy: str) -> bool:
        """Whether evaluations of this policy can be dreamt again: it, a world model and a judge are here."""
        try:
            return self.path(policy).is_dir() and all(self.newest(kind) for kind in ("world_model", "judge"))
        except (ConfigError, CheckpointError):
            return False


class Shelves(PerTenant[Shelf]):
    """The shelf of every tenant; what the trainer was started with is on each. Threads may share it.

    Args:
        folder: of the trainer.
        imports: checkpoint folders that every tenant starts from.

    Raises:
        CheckpointError: one of these is incomplete or altered.
    """

    def __init__(self, folder: Path, imports: Sequence[Path] = ()) -> None:
        self._report: Callable[[str, Manifest], None] = lambda tenant, manifest: None

        def filled(tenant: str) -> Shelf:
            shelf = Shelf(tenant_folder(folder, tenant) / CHECKPOINTS, lambda found: self._report(tenant, found))
            for checkpoint in imports:
                shelf.add(checkpoint)
            return shelf

        super().__init__(filled)
        self.of(DEFAULT_TENANT)

    def report_to(self, report: Callable[[str, Manifest], None]) -> None:
        """Call something with tenant and manifest of every checkpoint that is added from now on."""
        self._report = report

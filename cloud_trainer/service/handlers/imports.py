"""Checkpoints from outside: taken into the catalogue by an administrator, recorded as external, offered to nobody."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cloud_trainer.records.trail import Trails
from cloud_trainer.service.handlers.gates import Shelve
from cloud_trainer.service.publish import Publisher
from cloud_trainer.world_model.capabilities import declared_by
from gymnast_core.authority import Who, authorise
from gymnast_core.records.hub_folder import HubOrigin
from gymnast_core.records.manifest import Manifest


class ImportHandlers:
    """See the module.

    Args:
        publisher: stores them.
        trails: where they are recorded.
        shelve: see Shelve.
    """

    def __init__(self, publisher: Publisher, trails: Trails, shelve: Shelve) -> None:
        self._publisher, self._trails, self._shelve = publisher, trails, shelve

    def take_in(self, who: Who, manifest: Manifest, weights: Path, origin: HubOrigin) -> bool:
        """Take a checkpoint in, where jobs, trials and gates find it; its durable weights file is consumed.

        Returns:
            Whether it was known here already.

        Raises:
            NotPermittedError: the caller is no administrator.
            CheckpointError: a world model that declares what no such thing is; jobs that take the newest would fail.
            ProvenanceError: its manifest contradicts what is recorded here.
        """
        authorise(who, "publish")
        if manifest.kind == "world_model":
            declared_by(manifest)
        known = self._trails.of(who.tenant).import_checkpoint(
            who, manifest, asdict(origin), lambda: self._publisher.take_in(who.tenant, manifest, weights)
        )
        self._shelve(who.tenant, manifest.id)
        return known

"""A trainer's folder opened beside its service: the episode catalogue, and the provenance graph made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.errors import ConfigError
from gymnast_core.lineage import Record
from gymnast_core.manifest import Manifest, read_manifest
from gymnast_core.provenance import LABELS, ProvenanceGraph

if TYPE_CHECKING:
    from cloud_trainer.store.episodes import EpisodeCatalogue
    from cloud_trainer.store.protocols import MetaStore

GRAPH_NAME = "provenance.db"
LINKS = ("world_model", "judge", "base", "policy")
STATES = ("committed", "valid", "quarantined")


class TrainerFolder:
    """What `gymnast serve --folder` keeps, read in another process.

    Args:
        folder: of the trainer.

    Raises:
        ConfigError: there is no store in it.
    """

    def __init__(self, folder: Path) -> None:
        from cloud_trainer.store import open_blobs
        from cloud_trainer.store.database import Database
        from cloud_trainer.store.episodes import EpisodeCatalogue
        from cloud_trainer.store.sql_meta import SqlMetaStore

        if not (folder / "store.db").is_file():
            raise ConfigError(f"{folder} is no trainer's folder (no store.db); give --folder, as for `gymnast serve`")
        self.folder = folder
        self.meta: MetaStore = SqlMetaStore(Database(f"sqlite:///{folder / 'store.db'}"))
        self.episodes: EpisodeCatalogue = EpisodeCatalogue(self.meta, open_blobs(None, folder, {}), None)

    def close(self) -> None:
        """Close the store."""
        self.meta.close()

    def graph(self) -> ProvenanceGraph:
        """The provenance graph, with everything the catalogue knows by now."""
        graph = ProvenanceGraph(self.folder / GRAPH_NAME)
        self._add_episodes(graph)
        self._add_checkpoints(graph)
        return graph

    def withdraw(self, episode_id: str, reason: str) -> None:
        """Take an episode out of what is trained on; its file stays."""
        for row in self.episodes.all(states=STATES):
            if row.episode_id == episode_id:
                self.meta.update_episode(replace(row, state="quarantined", reason=reason))

    def _add_episodes(self, graph: ProvenanceGraph) -> None:
        from cloud_trainer.jobs.provenance import episode_record, label_record

        records: list[Record] = []
        for row in self.episodes.all(states=STATES):
            if row.episode_id not in graph:
                facts = {"robot": row.robot, "instruction": row.instruction, "steps": row.steps, "tenant": row.tenant,
                         "policy_versions": [row.policy_version], **_facts(row.metadata)}  # fmt: skip
                records.append(episode_record(graph, row.episode_id, digest=row.digest, facts=facts))
            if row.outcome in ("success", "failure", "abstain"):
                labels = graph.affected_by_role(row.episode_id, LABELS)
                if not labels or labels[-1].payload["outcome"] != row.outcome:
                    records.append(label_record(graph, row.episode_id, outcome=row.outcome, by=row.labelled_by))
        graph.add_many(records)

    def _add_checkpoints(self, graph: ProvenanceGraph) -> None:
        from cloud_trainer.jobs.provenance import record_checkpoint

        manifests = self.manifests()
        for manifest in manifests.values():
            for each in _parents_first(manifest, manifests, set()):
                if each.id not in graph:
                    record_checkpoint(graph, each)

    def manifests(self) -> dict[str, Manifest]:
        """Every checkpoint the trainer keeps or has published, by id."""
        kept = [read_manifest(path.parent) for path in sorted((self.folder / "checkpoints").glob("*/manifest.json"))]
        published = [Manifest.from_bytes(row.manifest) for row in reversed(self.meta.checkpoints(limit=1_000_000))]
        return {manifest.id: manifest for manifest in (*kept, *published)}


def _parents_first(manifest: Manifest, known: Mapping[str, Manifest], seen: set[str]) -> Iterator[Manifest]:
    """A checkpoint after everything it was made from."""
    if manifest.id in seen:
        return
    seen.add(manifest.id)
    for name in (*manifest.parents, *(manifest.lineage.get(role) for role in LINKS)):
        if isinstance(name, str) and name in known:
            yield from _parents_first(known[name], known, seen)
    yield manifest


def _facts(metadata: Mapping[str, object]) -> dict[str, object]:
    """What of an episode's header never changes and helps to read an answer."""
    kept = {name: metadata[name] for name in ("task", "scene", "seed", "purpose") if name in metadata}
    return dict(json.loads(json.dumps(kept)))

"""Writes into the provenance graph what changes in the catalogue, in the very transaction that changes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from cloud_trainer.records.graph import ProvenanceGraph
from cloud_trainer.records.provenance import (
    LINKED_CHECKPOINTS,
    checkpoints_among,
    episode_record,
    label_record,
    prepare_checkpoint,
    record_checkpoint,
    unmistaken,
)
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import CheckpointRow, EpisodeRow
from cloud_trainer.store.tenants import PerTenant
from gymnast_core.evaluation.purpose import is_blinded
from gymnast_core.outcome import judge_in
from gymnast_core.records.lineage import EXTERNAL, LABELS, Record
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import Outcome

_LABELS = frozenset({Outcome.SUCCESS.value, Outcome.FAILURE.value, Outcome.ABSTAIN.value})
_KEPT_FACTS = ("task", "scene", "seed", "purpose")


class Recorder:
    """The Witness of a catalogue (cloud_trainer.store.sql_meta). Threads may share it.

    Args:
        database: of the catalogue, and of the graphs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._graphs = PerTenant(lambda tenant: ProvenanceGraph(database, tenant))

    def graph(self, tenant: str) -> ProvenanceGraph:
        """Return a tenant's graph."""
        return self._graphs.of(tenant)

    def added(self, rows: Sequence[EpisodeRow]) -> None:
        """See Witness; an episode that was not looked into is recorded when it has been: its facts are to come."""
        for tenant in dict.fromkeys(row.tenant for row in rows):
            graph = self.graph(tenant)
            known = [row for row in rows if row.tenant == tenant and row.state != "committed"]
            if known:
                graph.add_many(_missing(graph, known))

    def changed(self, before: EpisodeRow, after: EpisodeRow) -> None:
        """See Witness; a label that somebody gave is a record of its own, also where another gave the same."""
        said = (after.outcome, after.labelled_by) != (before.outcome, before.labelled_by)
        if said or after.state != "committed":
            graph = self.graph(after.tenant)
            graph.add_many(_missing(graph, [after], said=said))

    def coming(self, row: CheckpointRow) -> None:
        """See Witness."""
        graph, manifest = self.graph(row.tenant), Manifest.from_bytes(row.manifest)
        if not graph.holds(manifest.id, manifest.kind):
            prepare_checkpoint(graph, manifest)

    def published(self, row: CheckpointRow) -> None:
        """See Witness."""
        self.checkpoint(row.tenant, Manifest.from_bytes(row.manifest))

    def checkpoint(self, tenant: str, manifest: Manifest) -> None:
        """Record a checkpoint that the graph does not hold.

        Raises:
            ProvenanceError: its manifest contradicts what is recorded.
        """
        graph = self.graph(tenant)
        if not graph.holds(manifest.id, manifest.kind):
            if not self._database.in_transaction:  # inside one, others wait for what takes long: coming() has done it
                prepare_checkpoint(graph, manifest)
            with self._database.transaction():
                record_checkpoint(graph, manifest)


def _missing(graph: ProvenanceGraph, rows: Sequence[EpisodeRow], *, said: bool = False) -> Iterator[Record]:
    """What the graph does not hold of episodes and their labels; said is whether these were given just now."""
    names = [row.episode_id for row in rows]
    kinds = graph.kinds(names)
    held, numbers = graph.newest(names, LABELS), graph.counts_by_role(names, LABELS)
    versions = {row.policy_version for row in rows} | {judge_in(row.labelled_by) for row in rows}
    known = checkpoints_among(graph, versions)
    labels: list[Record] = []
    for row in rows:
        label = held.get(row.episode_id)
        if kinds.get(row.episode_id, EXTERNAL) == EXTERNAL:
            yield episode_record(known, row.episode_id, digest=row.digest, facts=_facts(row))
        if row.outcome in _LABELS and (said or label is None or label.payload["outcome"] != row.outcome):
            number = numbers.get(row.episode_id, 0)
            labels.append(label_record(known, row.episode_id, number=number, outcome=row.outcome, by=row.labelled_by))
    yield from unmistaken(graph, labels)


def _facts(row: EpisodeRow) -> dict[str, object]:
    """What of an episode never changes and helps to read an answer."""
    kept = {name: row.metadata[name] for name in _KEPT_FACTS if name in row.metadata}
    facts: dict[str, object] = {
        "robot": row.robot, "instruction": row.instruction, "steps": row.steps, "tenant": row.tenant,
        **json.loads(json.dumps(kept)),
    }  # fmt: skip
    if not is_blinded(row.metadata):  # the policy of a trial's run is seen in its card, once it is decided
        facts["policy_versions"] = [row.policy_version]
    return facts


def parents_first(manifests: Sequence[Manifest]) -> Iterator[Manifest]:
    """Each checkpoint once, after everything it was made from; a chain of thousands is walked without recursion."""
    known, seen = {manifest.id: manifest for manifest in manifests}, set()
    for name in known:
        waiting = [(name, False)]
        while waiting:
            name, ready = waiting.pop()
            if ready:
                yield known[name]
            elif name not in seen:
                seen.add(name)
                waiting.append((name, True))
                made_from = (*known[name].parents, *map(known[name].lineage.get, LINKED_CHECKPOINTS))
                waiting += [(one, False) for one in made_from if isinstance(one, str) and one in known]

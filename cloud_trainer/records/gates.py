"""A tenant's gate records: kept in the graph of provenance beside their candidates, and found again for a release."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

from cloud_trainer.records.graph import ProvenanceGraph
from cloud_trainer.records.provenance import unmistaken
from gymnast_core.errors import CheckpointError
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.gate_rule import by_weaker_rule
from gymnast_core.records.lineage import EXTERNAL, Record

LOG = logging.getLogger(__name__)
GATE = "gate"
CANDIDATE, INCUMBENT = "candidate", "incumbent"
"""Roles of a gate's parents."""


@dataclass(frozen=True)
class GateGap:
    """A robot that would refuse a checkpoint.

    Attributes:
        robot: its name.
        incumbent: what it runs, which the gate must be held against; empty where it runs nothing.
    """

    robot: str
    incumbent: str


class GateBook:
    """See the module. Threads may share it.

    Args:
        graph_of: returns a tenant's graph.
    """

    def __init__(self, graph_of: Callable[[str], ProvenanceGraph]) -> None:
        self._graph_of = graph_of

    def keep(self, tenant: str, record: GateRecord) -> None:
        """Write a record, once, under its candidate and incumbent."""
        graph = self._graph_of(tenant)
        parents = [(CANDIDATE, record.candidate), *([(INCUMBENT, record.incumbent)] if record.incumbent else [])]
        fresh = [Record(name, EXTERNAL, {"note": "made elsewhere; nothing more is recorded here"})
                 for _, name in parents if name not in graph]  # fmt: skip
        written = unmistaken(graph, [Record(record.id, GATE, asdict(record), tuple(parents))])
        graph.add_many([*fresh, *written])
        LOG.info("gate_kept tenant=%s record=%s candidate=%s decision=%s", tenant, record.id, record.candidate,
                 record.decision)  # fmt: skip

    def of(self, tenant: str, candidate: str) -> list[GateRecord]:
        """Return the records of a candidate, oldest first; one that was altered in the database is left out."""
        found = []
        for node in self._graph_of(tenant).affected_by_role(candidate, CANDIDATE):
            try:
                record = GateRecord.of(node.payload)
            except CheckpointError as error:
                LOG.error("gate_record_damaged tenant=%s record=%s error=%s", tenant, node.id, error)
                continue
            if node.id.startswith(record.id):
                found.append(record)
            else:
                LOG.error("gate_record_damaged tenant=%s record=%s error=its content is %s", tenant, node.id, record.id)
        return found

    def check_promotable(self, tenant: str, checkpoint_id: str) -> None:
        """Return if nothing that a checkpoint was made from was withdrawn.

        Raises:
            ProvenanceError: something was.
        """
        self._graph_of(tenant).check_promotable(checkpoint_id)

    def fitting(
        self, tenant: str, candidate: str, runs: Sequence[str], *, since_ns: int = 0
    ) -> GateRecord | None:  # fmt: skip
        """Return the newest passed record that robots accept; None where there is none.

        Args:
            tenant: whose.
            candidate: checkpoint id.
            runs: checkpoint that each robot runs; empty text for one that runs none.
            since_ns: wall clock; older records do not count.
        """
        lines = [self._line(tenant, name) for name in dict.fromkeys(runs) if name]
        for record in reversed(self.of(tenant, candidate)):
            if not record.passed or record.made_ns < since_ns or by_weaker_rule(record):
                continue
            if all(record.incumbent in line for line in lines):
                return record
        return None

    def _line(self, tenant: str, checkpoint_id: str) -> Collection[str]:
        """A checkpoint and its ancestors among policies."""
        graph = self._graph_of(tenant)
        above = graph.above(checkpoint_id, "policy", EXTERNAL) if checkpoint_id in graph else []
        return {checkpoint_id, *(node.id for node in above)}

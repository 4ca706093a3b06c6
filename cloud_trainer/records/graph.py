"""Where a checkpoint comes from: a tenant's records (gymnast_core.records.lineage) as a graph in the database.

Records never change, so a long answer is read in pages, between which others have their turn.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable

import numpy as np
import sqlalchemy as sa

from cloud_trainer.records.ancestry import no_garbage_collection
from cloud_trainer.records.graph_check import damage_among
from cloud_trainer.records.graph_rows import GraphRows
from cloud_trainer.records.graph_sql import HASHED, NODE
from cloud_trainer.records.writing import write_records
from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import RECORDS
from cloud_trainer.store.tenants import DEFAULT_TENANT
from gymnast_core.records.lineage import EXTERNAL, RETRACTS, Damage, Lineage, Node, ProvenanceError, Record
from gymnast_core.records.manifest import KINDS, canonical_json


class ProvenanceGraph:
    """One tenant's graph. Threads may share it; inside a transaction of the database it is part of that one.

    Args:
        database: of the trainer.
        tenant: the tenant they belong to.
    """

    def __init__(self, database: Database, tenant: str = DEFAULT_TENANT) -> None:
        self._database, self._tenant = database, tenant
        self._rows = GraphRows(database, tenant)

    def add(self, record: Record) -> None:
        """Write one record; writing the same one again does nothing.

        Raises:
            ProvenanceError: a parent is unknown, or the id stands for something else already.
        """
        self.add_many([record])

    def add_many(self, records: Iterable[Record]) -> None:
        """Write records in one transaction, parents before children.

        Raises:
            ProvenanceError: as add(); then none of them is written.
        """
        if fresh := list(records):
            with self._database.transaction() as connection:
                self._database.on_rollback(self._rows.forget)
                write_records(self._database, connection, self._tenant, fresh)

    def get(self, record_id: str) -> Node:
        """Return one record.

        Raises:
            ProvenanceError: it is unknown.
        """
        found = self._rows.ask(self._rows.sql.node, id=record_id)
        if not found:
            raise ProvenanceError(f"{record_id} is not recorded; check the id, or `gymnast weights list`")
        return Node(*found[0])

    def __contains__(self, record_id: str) -> bool:
        return bool(self._rows.ask(self._rows.sql.node, id=record_id))

    def why(self, record_id: str) -> Lineage:
        """Return everything a record was made from, to the last episode and label.

        Raises:
            ProvenanceError: it is unknown, or the graph is damaged.
        """
        with no_garbage_collection():
            rows, edges = self._rows.complete(record_id, NODE)
            nodes = [Node(*row[1:]) for row in rows]
        roles = self._rows.roles()
        return Lineage(nodes, edges.child_E, edges.parent_E, [roles[code] for code in edges.role_E.tolist()])

    def why_json(self, record_id: str) -> str:
        """Return what why() does as JSON text: {nodes: [{id, kind, payload}], edges: [[child, role, parent]]}.

        The text is put together by the database and never parsed: 0.2 million records take a third of a second.

        Raises:
            ProvenanceError: as why().
        """
        with no_garbage_collection():
            rows, edges = self._rows.complete(record_id, self._rows.sql.json_node)
            nodes = [text for _, text in rows]
        roles = [json.dumps(role) for role in self._rows.roles()]
        named = [roles[code] for code in edges.role_E.tolist()]
        triples = zip(edges.child_E.tolist(), named, edges.parent_E.tolist(), strict=True)
        return f'{{"nodes":[{",".join(nodes)}],"edges":[{",".join(map("[%d,%s,%d]".__mod__, triples))}]}}'

    def counts_above(self, record_id: str) -> dict[str, int]:
        """Return how many ancestors of each kind a record has.

        Raises:
            ProvenanceError: it is unknown.
        """
        return self._rows.counts_above(record_id)

    def above(self, record_id: str, *kinds: str) -> list[Node]:
        """Return the ancestors of some kinds, newest first.

        Raises:
            ProvenanceError: it is unknown.
        """
        chosen = self._rows.above_of_kinds(record_id, kinds)
        return [Node(*row[1:]) for row in self._rows.rows(chosen, NODE)]

    def affected(self, record_id: str) -> list[Node]:
        """Return everything made from a record, oldest first, without the record itself.

        Raises:
            ProvenanceError: it is unknown.
        """
        self.get(record_id)
        return [Node(*row) for row in self._rows.ask(self._rows.sql.affected, id=record_id)]

    def affected_by_role(self, record_id: str, role: str) -> list[Node]:
        """Return the records that name this one in a role, oldest first, e.g. the labels of an episode."""
        return [Node(*row) for row in self._rows.ask(self._rows.sql.by_role, id=record_id, role=role)]

    def kinds(self, record_ids: Iterable[str]) -> dict[str, str]:
        """Return the kind of each that is recorded."""
        return {row[0]: row[3] for row in self._rows.ask(self._rows.sql.links, names=json.dumps(list(record_ids)))}

    def holds(self, record_id: str, *kinds: str) -> bool:
        """Whether something is recorded as one of some kinds; a placeholder counts where it is named among them.

        Raises:
            ProvenanceError: the id is that of a record of another kind.
        """
        kind = self.kinds([record_id]).get(record_id)
        if kind not in (*kinds, EXTERNAL, None):
            raise ProvenanceError(
                f"{record_id} is recorded as kind {kind}, not {' or '.join(kinds)}; an id is never reused: give what "
                "is new another one (anything changed in a manifest does)"
            )
        return kind in kinds

    def placeholders_among(self, names: sa.Select[tuple[str]]) -> list[str]:
        """Return the placeholders whose ids a query of the catalogue finds: what came and is not recorded yet."""
        mine = (RECORDS.c.tenant == self._tenant) & (RECORDS.c.kind == EXTERNAL) & RECORDS.c.replaced_by.is_(None)
        with self._database.transaction() as connection:
            return list(connection.execute(sa.select(RECORDS.c.id).where(mine & RECORDS.c.id.in_(names))).scalars())

    def counts_by_role(self, record_ids: Iterable[str], role: str) -> dict[str, int]:
        """Return how many records name each in a role, e.g. an episode's labels; those with none are left out."""
        return {
            row[0]: row[1]
            for row in self._rows.ask(self._rows.sql.counts, names=json.dumps(list(record_ids)), role=role)
        }

    def newest(self, record_ids: Iterable[str], role: str) -> dict[str, Node | None]:
        """Return, of each that is recorded, the newest record that names it in a role, e.g. an episode's label."""
        rows = self._rows.ask(self._rows.sql.newest, names=json.dumps(list(record_ids)), role=role)
        return {row[0]: Node(*row[1:]) if row[1] is not None else None for row in rows}

    def retract(self, record_id: str, *, reason: str, by: str, at_ns: int) -> list[Node]:
        """Withdraw a record and return what it touched; those checkpoints cannot be promoted any more.

        Args:
            record_id: usually an episode.
            reason: for whoever meets the block later.
            by: the user that withdraws it.
            at_ns: wall time.

        Raises:
            ProvenanceError: it is unknown, or a retraction itself.
        """
        if self.get(record_id).kind == "retraction":
            raise ProvenanceError(f"{record_id} is a retraction; it stays, record the evidence anew instead")
        payload = {"reason": reason, "by": by, "at_ns": at_ns}
        digest = hashlib.sha256(canonical_json([record_id, payload])).hexdigest()[:16]
        self.add(Record(f"retraction-{digest}", "retraction", payload, ((RETRACTS, record_id),)))
        return self.affected(record_id)

    def taints(self, record_id: str) -> list[tuple[Node, Node]]:
        """Return (retracted ancestor or the record itself, retraction) pairs.

        Raises:
            ProvenanceError: the record is unknown.
        """
        found = [
            (int.from_bytes(row[0], sys.byteorder), Node(*row[1:]))
            for row in self._rows.ask(self._rows.sql.retractions)
        ]
        now = self._rows.live(record_id, np.array([seq for seq, _ in found], np.int64))
        above = self._among_ancestors(record_id, now)
        return [(above[seq], how) for seq, (_, how) in zip(now, found, strict=True) if seq in above]

    def changed_labels(self, record_id: str) -> list[tuple[Node, Node]]:
        """Return (label it was made with, newest label of that episode) pairs whose outcomes differ.

        Raises:
            ProvenanceError: the record is unknown.
        """
        rows = self._rows.ask(self._rows.sql.changed)
        above = self._among_ancestors(record_id, [row[0] for row in rows])
        return [(above[row[0]], Node(*row[4:])) for row in rows if row[0] in above]

    def _among_ancestors(self, record_id: str, seqs: list[int]) -> dict[int, Node]:
        """Those of some records that are ancestors of one, or itself, by number."""
        self.get(record_id)
        if not seqs:
            return {}
        chosen = np.intersect1d(self._rows.above(record_id), np.array(seqs, np.int64))[::-1]
        return {row[0]: Node(*row[1:]) for row in self._rows.rows(chosen, NODE)}

    def check_promotable(self, record_id: str) -> None:
        """Return if a checkpoint's origin is recorded and nothing of it was retracted.

        Raises:
            ProvenanceError: something was: the message names it, the reason and its author; or what is recorded under
                this id is no checkpoint.
        """
        if not self.holds(record_id, *KINDS):
            raise ProvenanceError(f"where {record_id} comes from is not recorded; publish it with its manifest")
        tainted = self.taints(record_id)
        if tainted:
            what, how = tainted[0]
            reason = how.payload
            more = f" (and {len(tainted) - 1} more)" if len(tainted) > 1 else ""
            raise ProvenanceError(
                f"{record_id} was made from {what.id}, retracted by {reason['by']}: {reason['reason']}{more}; "
                "train again without it"
            )

    def verify(self, record_id: str) -> list[Damage]:
        """Recompute every link of one record's ancestry; empty means untouched.

        Raises:
            ProvenanceError: the record is unknown.
        """
        self.get(record_id)
        self._rows.forget()  # what is in memory was read before somebody changed the rows
        rows = self._rows.rows(self._rows.above(record_id, placeholders=True), HASHED)
        return damage_among({row[0]: row[1:] for row in rows}, self._rows.roles())

"""Where a checkpoint comes from: a tenant's records (gymnast_core.records.lineage) as a graph in the database.

Records never change, so a long answer is read in pages, between which others have their turn. One class, and so a long
file: every question is about one table and its shape in memory.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from cloud_trainer.records.ancestry import Ancestry, Edges, no_garbage_collection
from cloud_trainer.records.graph_check import damage_among
from cloud_trainer.records.graph_sql import HASHED, NODE, GraphSql, graph_sql
from cloud_trainer.records.writing import write_records
from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import RECORD_ROLES, RECORDS
from cloud_trainer.store.tenants import DEFAULT_TENANT
from gymnast_core.records.lineage import EXTERNAL, RETRACTS, Damage, Lineage, Node, ProvenanceError, Record
from gymnast_core.records.manifest import KINDS, canonical_json

_PAGE = 20_000


class ProvenanceGraph:
    """One tenant's graph. Threads may share it; inside a transaction of the database it is part of that one.

    Args:
        database: of the trainer.
        tenant: the tenant they belong to.
    """

    def __init__(self, database: Database, tenant: str = DEFAULT_TENANT) -> None:
        self._database, self._tenant = database, tenant
        self._sql: GraphSql = graph_sql(sqlite=database.is_sqlite)
        self._lock = threading.Lock()  # taken inside a transaction, never around one
        self._ancestry = Ancestry()

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
                self._database.on_rollback(self._forget)
                write_records(self._database, connection, self._tenant, fresh)

    def _forget(self) -> None:
        """What was read of a transaction that came to nothing was never there."""
        with self._lock:
            self._ancestry = Ancestry()

    def _ask(self, statement: sa.TextClause, **values: object) -> list[Any]:
        with self._database.transaction() as connection:
            return list(connection.execute(statement, {"tenant": self._tenant, **values}).all())  # all(): one fetch

    def get(self, record_id: str) -> Node:
        """Return one record.

        Raises:
            ProvenanceError: it is unknown.
        """
        found = self._ask(self._sql.node, id=record_id)
        if not found:
            raise ProvenanceError(f"{record_id} is not recorded; check the id, or `gymnast weights list`")
        return Node(*found[0])

    def __contains__(self, record_id: str) -> bool:
        return bool(self._ask(self._sql.node, id=record_id))

    def why(self, record_id: str) -> Lineage:
        """Return everything a record was made from, to the last episode and label.

        Raises:
            ProvenanceError: it is unknown, or the graph is damaged.
        """
        with no_garbage_collection():
            rows, edges = self._complete(record_id, NODE)
            nodes = [Node(*row[1:]) for row in rows]
        roles = self._roles()
        return Lineage(nodes, edges.child_E, edges.parent_E, [roles[code] for code in edges.role_E.tolist()])

    def why_json(self, record_id: str) -> str:
        """Return what why() does as JSON text: {nodes: [{id, kind, payload}], edges: [[child, role, parent]]}.

        The text is put together by the database and never parsed: 0.2 million records take a third of a second.

        Raises:
            ProvenanceError: as why().
        """
        with no_garbage_collection():
            rows, edges = self._complete(record_id, self._sql.json_node)
            nodes = [text for _, text in rows]
        roles = [json.dumps(role) for role in self._roles()]
        named = [roles[code] for code in edges.role_E.tolist()]
        triples = zip(edges.child_E.tolist(), named, edges.parent_E.tolist(), strict=True)
        return f'{{"nodes":[{",".join(nodes)}],"edges":[{",".join(map("[%d,%s,%d]".__mod__, triples))}]}}'

    def counts_above(self, record_id: str) -> dict[str, int]:
        """Return how many ancestors of each kind a record has.

        Raises:
            ProvenanceError: it is unknown.
        """
        ancestry, seq = self._grown(record_id)
        with self._lock:
            seqs = ancestry.above(seq)
            return ancestry.counts(seqs[seqs != seq])

    def above(self, record_id: str, *kinds: str) -> list[Node]:
        """Return the ancestors of some kinds, newest first.

        Raises:
            ProvenanceError: it is unknown.
        """
        ancestry, seq = self._grown(record_id)
        with self._lock:
            seqs = ancestry.above(seq)
            chosen = ancestry.of_kinds(seqs[seqs != seq], kinds)
        return [Node(*row[1:]) for row in self._rows(chosen, NODE)]

    def _above(self, record_id: str, *, placeholders: bool = False) -> npt.NDArray[np.int64]:
        """Numbers of a record and of its ancestors, newest first."""
        ancestry, seq = self._grown(record_id)
        with self._lock:
            return ancestry.above(seq, placeholders=placeholders)

    def _grown(self, record_id: str) -> tuple[Ancestry, int]:
        """The graph's shape as it is now, and the number of a record."""
        found = self._ask(self._sql.links, names=json.dumps([record_id]))
        if not found:
            raise ProvenanceError(f"{record_id} is not recorded; check the id, or `gymnast weights list`")
        ancestry = self._ancestry
        while self._grow(ancestry):  # to the newest, which may have replaced a placeholder
            continue
        return ancestry, int(found[0][1])

    def _grow(self, ancestry: Ancestry) -> bool:
        """Read a page of the records that were written since the last time; False when there was none."""
        with self._database.transaction() as connection, self._lock:
            mine, after = {"tenant": self._tenant}, ancestry.known
            rows = connection.execute(self._sql.shape, {**mine, "after": after, "most": _PAGE}).all()
            if rows:
                last = {**mine, "after": after, "last": rows[-1][0]}
                ancestry.add(rows, connection.execute(self._sql.replaced, last).all())
        return bool(rows)

    def _complete(self, record_id: str, columns: str) -> tuple[list[Any], Edges]:
        """(seq, *columns) of a record and of all its ancestors; and edges, with parents as places in those."""
        ancestry, seq = self._grown(record_id)
        with self._lock:
            seqs = ancestry.above(seq)
            order = np.concatenate([[seq], seqs[seqs != seq]])
            edges = ancestry.edges(order)
        rows = self._rows(seqs, columns)
        first = [row for row in rows if row[0] == seq] if rows and rows[0][0] != seq else []
        rows = [*first, *(row for row in rows if row[0] != seq)] if first else rows
        place = np.full(ancestry.known + 1, -1)
        place[order] = np.arange(order.size)
        there = (edges.parent_E > 0) & (edges.parent_E < place.size)
        if len(rows) != order.size or not there.all() or (place[edges.parent_E] < 0).any():
            raise ProvenanceError(f"records above {record_id} are damaged or gone; `gymnast why --verify` names them")
        return rows, Edges(edges.child_E, place[edges.parent_E], edges.role_E)

    def _roles(self) -> list[str]:
        """Codes are 1, 2, ...; place 0 stays empty."""
        mine = RECORD_ROLES.c.tenant == self._tenant
        with self._database.transaction() as connection:
            names = connection.execute(sa.select(RECORD_ROLES.c.name).where(mine).order_by(RECORD_ROLES.c.code))
            return ["", *names.scalars()]

    def _rows(self, seqs: npt.NDArray[np.int64], columns: str) -> list[Any]:
        """Read (seq, *columns) of records given newest first; a dense set is read as ranges, which is quicker."""
        found: list[Any] = []
        if not seqs.size:
            return found
        if seqs.size * 5 <= seqs[0] - seqs[-1]:
            among = self._sql.among(columns)
            for first in range(0, seqs.size, _PAGE):
                found += self._ask(among, seqs=json.dumps(seqs[first : first + _PAGE].tolist()))
            return found
        wanted = np.zeros(int(seqs[0]) + 1, bool)
        wanted[seqs] = True
        keep, between = wanted.tolist(), self._sql.between(columns)
        for high in range(int(seqs[0]), int(seqs[-1]) - 1, -_PAGE):
            low = max(high - _PAGE + 1, int(seqs[-1]))
            found += [row for row in self._ask(between, low=low, high=high) if keep[row[0]]]
        return found

    def affected(self, record_id: str) -> list[Node]:
        """Return everything made from a record, oldest first, without the record itself.

        Raises:
            ProvenanceError: it is unknown.
        """
        self.get(record_id)
        return [Node(*row) for row in self._ask(self._sql.affected, id=record_id)]

    def affected_by_role(self, record_id: str, role: str) -> list[Node]:
        """Return the records that name this one in a role, oldest first, e.g. the labels of an episode."""
        return [Node(*row) for row in self._ask(self._sql.by_role, id=record_id, role=role)]

    def kinds(self, record_ids: Iterable[str]) -> dict[str, str]:
        """Return the kind of each that is recorded."""
        return {row[0]: row[3] for row in self._ask(self._sql.links, names=json.dumps(list(record_ids)))}

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
        return {row[0]: row[1] for row in self._ask(self._sql.counts, names=json.dumps(list(record_ids)), role=role)}

    def newest(self, record_ids: Iterable[str], role: str) -> dict[str, Node | None]:
        """Return, of each that is recorded, the newest record that names it in a role, e.g. an episode's label."""
        rows = self._ask(self._sql.newest, names=json.dumps(list(record_ids)), role=role)
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
        found = [(int.from_bytes(row[0], sys.byteorder), Node(*row[1:])) for row in self._ask(self._sql.retractions)]
        ancestry = self._grown(record_id)[0]
        with self._lock:
            now = ancestry.live(np.array([seq for seq, _ in found], np.int64)).tolist()
        above = self._among_ancestors(record_id, now)
        return [(above[seq], how) for seq, (_, how) in zip(now, found, strict=True) if seq in above]

    def changed_labels(self, record_id: str) -> list[tuple[Node, Node]]:
        """Return (label it was made with, newest label of that episode) pairs whose outcomes differ.

        Raises:
            ProvenanceError: the record is unknown.
        """
        rows = self._ask(self._sql.changed)
        above = self._among_ancestors(record_id, [row[0] for row in rows])
        return [(above[row[0]], Node(*row[4:])) for row in rows if row[0] in above]

    def _among_ancestors(self, record_id: str, seqs: list[int]) -> dict[int, Node]:
        """Those of some records that are ancestors of one, or itself, by number."""
        self.get(record_id)
        if not seqs:
            return {}
        chosen = np.intersect1d(self._above(record_id), np.array(seqs, np.int64))[::-1]
        return {row[0]: Node(*row[1:]) for row in self._rows(chosen, NODE)}

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
        self._forget()  # what is in memory was read before somebody changed the rows
        rows = self._rows(self._above(record_id, placeholders=True), HASHED)
        return damage_among({row[0]: row[1:] for row in rows}, self._roles())

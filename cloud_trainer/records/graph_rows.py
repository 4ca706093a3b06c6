"""Rows of a tenant's records, and the shape of their graph in memory, which grows with every question."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from cloud_trainer.records.ancestry import Ancestry, Edges
from cloud_trainer.records.graph_sql import GraphSql, graph_sql
from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import RECORD_ROLES
from gymnast_core.records.lineage import ProvenanceError

_PAGE = 20_000


class GraphRows:
    """Reads records and their ancestors. Threads may share it; inside a transaction of the database it is part of that.

    Args:
        database: of the trainer.
        tenant: the tenant they belong to.

    Attributes:
        sql: the questions that the database answers.
    """

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant
        self.sql: GraphSql = graph_sql(sqlite=database.is_sqlite)
        self._lock = threading.Lock()  # taken inside a transaction, never around one
        self._ancestry = Ancestry()

    def forget(self) -> None:
        """Read everything again: what a transaction that came to nothing wrote was never there."""
        with self._lock:
            self._ancestry = Ancestry()

    def ask(self, statement: sa.TextClause, **values: object) -> list[Any]:
        """Return the rows that answer one of the questions, of this tenant."""
        with self._database.transaction() as connection:
            return list(connection.execute(statement, {"tenant": self._tenant, **values}).all())  # all(): one fetch

    def above(self, record_id: str, *, placeholders: bool = False) -> npt.NDArray[np.int64]:
        """Return the numbers of a record and of its ancestors, newest first.

        Raises:
            ProvenanceError: it is unknown.
        """
        ancestry, seq = self._grown(record_id)
        with self._lock:
            return ancestry.above(seq, placeholders=placeholders)

    def _grown(self, record_id: str) -> tuple[Ancestry, int]:
        """The graph's shape as it is now, and the number of a record."""
        found = self.ask(self.sql.links, names=json.dumps([record_id]))
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
            rows = connection.execute(self.sql.shape, {**mine, "after": after, "most": _PAGE}).all()
            if rows:
                last = {**mine, "after": after, "last": rows[-1][0]}
                ancestry.add(rows, connection.execute(self.sql.replaced, last).all())
        return bool(rows)

    def complete(self, record_id: str, columns: str) -> tuple[list[Any], Edges]:
        """Return (seq, *columns) of a record and of all its ancestors; and edges, with parents as places in those.

        Raises:
            ProvenanceError: it is unknown, or something above it is damaged.
        """
        ancestry, seq = self._grown(record_id)
        with self._lock:
            seqs = ancestry.above(seq)
            order = np.concatenate([[seq], seqs[seqs != seq]])
            edges = ancestry.edges(order)
        rows = self.rows(seqs, columns)
        first = [row for row in rows if row[0] == seq] if rows and rows[0][0] != seq else []
        rows = [*first, *(row for row in rows if row[0] != seq)] if first else rows
        place = np.full(ancestry.known + 1, -1)
        place[order] = np.arange(order.size)
        there = (edges.parent_E > 0) & (edges.parent_E < place.size)
        if len(rows) != order.size or not there.all() or (place[edges.parent_E] < 0).any():
            raise ProvenanceError(f"records above {record_id} are damaged or gone; `gymnast why --verify` names them")
        return rows, Edges(edges.child_E, place[edges.parent_E], edges.role_E)

    def roles(self) -> list[str]:
        """Return the names of roles by their code: 1, 2, ...; place 0 stays empty."""
        mine = RECORD_ROLES.c.tenant == self._tenant
        with self._database.transaction() as connection:
            names = connection.execute(sa.select(RECORD_ROLES.c.name).where(mine).order_by(RECORD_ROLES.c.code))
            return ["", *names.scalars()]

    def rows(self, seqs: npt.NDArray[np.int64], columns: str) -> list[Any]:
        """Return (seq, *columns) of records given newest first; a dense set is read as ranges, which is quicker."""
        found: list[Any] = []
        if not seqs.size:
            return found
        if seqs.size * 5 <= seqs[0] - seqs[-1]:
            among = self.sql.among(columns)
            for first in range(0, seqs.size, _PAGE):
                found += self.ask(among, seqs=json.dumps(seqs[first : first + _PAGE].tolist()))
            return found
        wanted = np.zeros(int(seqs[0]) + 1, bool)
        wanted[seqs] = True
        keep, between = wanted.tolist(), self.sql.between(columns)
        for high in range(int(seqs[0]), int(seqs[-1]) - 1, -_PAGE):
            low = max(high - _PAGE + 1, int(seqs[-1]))
            found += [row for row in self.ask(between, low=low, high=high) if keep[row[0]]]
        return found

    def counts_above(self, record_id: str) -> dict[str, int]:
        """Return how many ancestors of each kind a record has.

        Raises:
            ProvenanceError: it is unknown.
        """
        ancestry, seq = self._grown(record_id)
        with self._lock:
            seqs = ancestry.above(seq)
            return ancestry.counts(seqs[seqs != seq])

    def above_of_kinds(self, record_id: str, kinds: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """Return the numbers of a record's ancestors of some kinds, newest first; raises as counts_above()."""
        ancestry, seq = self._grown(record_id)
        with self._lock:
            seqs = ancestry.above(seq)
            return ancestry.of_kinds(seqs[seqs != seq], kinds)

    def live(self, record_id: str, seqs: npt.NDArray[np.int64]) -> list[int]:
        """Return numbers as they are now that the graph is grown to a record: a placeholder's is its record's."""
        ancestry = self._grown(record_id)[0]
        with self._lock:
            return [int(seq) for seq in ancestry.live(seqs)]

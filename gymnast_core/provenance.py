"""Where a checkpoint comes from: a hash-linked graph of records in one SQLite file.

A record (episode, label, dataset, judge, audit, checkpoint, ...) is immutable. Its link is the SHA-256 of its id, kind,
payload and of the links of its parents, so a byte changed anywhere below a checkpoint shows, and is named. Corrections
are new records: a retraction points at what it retracts, a new label at its episode.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import sqlite3
import threading
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import StorageError
from gymnast_core.lineage import Damage, Lineage, Node, Record, link_of
from gymnast_core.manifest import canonical_json

SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, payload TEXT NOT NULL,
  parents BLOB NOT NULL, roles BLOB NOT NULL, parent_links BLOB NOT NULL, link BLOB NOT NULL, chain BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS role (code INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS edge (
  parent INTEGER NOT NULL, child INTEGER NOT NULL, role TEXT NOT NULL, PRIMARY KEY (parent, child, role)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_by_kind ON record (kind, seq);
"""
DOWN = """
WITH RECURSIVE down(seq) AS (
  SELECT seq FROM record WHERE id = ?
  UNION SELECT edge.child FROM down JOIN edge ON edge.parent = down.seq WHERE edge.role != 'retracts')
"""
LINK_BYTES = 32
RETRACTS = "retracts"
LABELS = "labels"
"""Roles the graph itself understands: retraction -> record, label -> episode."""


class ProvenanceError(StorageError):
    """A record is unknown, is claimed twice with different content, or a promotion is blocked."""


class ProvenanceGraph:
    """One graph in one file; threads may share it, several processes may read."""

    def __init__(self, path: Path | str) -> None:
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, timeout=10)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("PRAGMA cache_size=-65536")
        with self._database:
            self._database.executescript(SCHEMA)
        self._roles: list[str] = []
        self._read_roles()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._database.close()

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
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            row = self._database.execute("SELECT seq, chain FROM record ORDER BY seq DESC LIMIT 1").fetchone()
            seq, chain = row or (0, bytes(LINK_BYTES))
            for record in records:
                text = canonical_json(record.payload).decode()
                parents = self._parents_of(record)
                link = link_of(record.id, record.kind, text, [(role, link) for role, _, link in parents])
                if self._is_stored(record.id, link):
                    continue
                seq, chain = seq + 1, hashlib.sha256(chain + link).digest()
                self._insert(seq, record, text, parents, link, chain)

    def _insert(
        self, seq: int, record: Record, text: str, parents: list[tuple[str, int, bytes]], link: bytes, chain: bytes
    ) -> None:
        seqs = np.array([parent for _, parent, _ in parents], np.int64).tobytes()
        roles = np.array([self._code_of(role) for role, _, _ in parents], np.uint8).tobytes()
        links = b"".join(parent_link for _, _, parent_link in parents)
        row = (seq, record.id, record.kind, text, seqs, roles, links, link, chain)
        self._database.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        edges = [(parent, seq, role) for role, parent, _ in parents]
        self._database.executemany("INSERT INTO edge VALUES (?, ?, ?)", edges)

    def _is_stored(self, record_id: str, link: bytes) -> bool:
        row = self._database.execute("SELECT link FROM record WHERE id = ?", (record_id,)).fetchone()
        if row is not None and row[0] != link:
            raise ProvenanceError(f"{record_id} is recorded with other content; an id is never reused")
        return row is not None

    def _parents_of(self, record: Record) -> list[tuple[str, int, bytes]]:
        """Return (role, seq, link) of each parent, in the order that is hashed."""
        parents = []
        for role, parent in sorted(set(record.parents)):
            row = self._database.execute("SELECT seq, link FROM record WHERE id = ?", (parent,)).fetchone()
            if row is None:
                raise ProvenanceError(f"{record.id} names {parent} as {role}, which is not recorded; record it first")
            parents.append((role, row[0], row[1]))
        return parents

    def _code_of(self, role: str) -> int:
        if role not in self._roles:
            self._database.execute("INSERT OR IGNORE INTO role (name) VALUES (?)", (role,))
            self._read_roles()
        return self._roles.index(role)

    def _read_roles(self) -> None:
        """Codes are 1, 2, ...; place 0 stays empty."""
        self._roles = ["", *(row[0] for row in self._database.execute("SELECT name FROM role ORDER BY code"))]

    def get(self, record_id: str) -> Node:
        """Return one record.

        Raises:
            ProvenanceError: it is unknown.
        """
        with self._lock:
            row = self._database.execute("SELECT id, kind, payload FROM record WHERE id = ?", (record_id,)).fetchone()
        if row is None:
            raise ProvenanceError(f"{record_id} is not recorded; check the id, or `gymnast weights list`")
        return Node(*row)

    def __contains__(self, record_id: str) -> bool:
        with self._lock:
            found = self._database.execute("SELECT 1 FROM record WHERE id = ?", (record_id,)).fetchone()
        return found is not None

    def of_kind(self, kind: str) -> list[Node]:
        """Return every record of one kind, oldest first."""
        with self._lock:
            rows = self._database.execute("SELECT id, kind, payload FROM record WHERE kind = ? ORDER BY seq", (kind,))
            return [Node(*row) for row in rows]

    def why(self, record_id: str) -> Lineage:
        """Return everything a record was made from, to the last episode and label.

        Raises:
            ProvenanceError: it is unknown.
        """
        with self._lock, _no_garbage_collection():
            self._read_roles()
            rows = self._ancestry(record_id, "id, kind, payload, roles")
            seq_N = np.fromiter(rows, np.int64, len(rows))
            columns = list(zip(*rows.values(), strict=True))
            parent_counts_N = np.fromiter(map(len, columns[4]), np.int64, len(rows))
            parent_seq_E = np.frombuffer(b"".join(columns[0]), np.int64)
            code_E = np.frombuffer(b"".join(columns[4]), np.uint8)
            nodes = list(map(Node._make, zip(*columns[1:4], strict=True)))
        place = np.zeros(int(seq_N.max()) + 1, np.int64)
        place[seq_N] = np.arange(len(rows))
        child_E = np.repeat(np.arange(len(rows)), parent_counts_N)
        return Lineage(nodes, child_E, place[parent_seq_E], [self._roles[code] for code in code_E.tolist()])

    def _ancestry(self, record_id: str, columns: str) -> dict[int, tuple[Any, ...]]:
        """Return seq -> (parents, *columns) of a record and all its ancestors, in order of discovery."""
        row = self._database.execute("SELECT seq FROM record WHERE id = ?", (record_id,)).fetchone()
        if row is None:
            raise ProvenanceError(f"{record_id} is not recorded; check the id, or `gymnast weights list`")
        seen = np.zeros(row[0] + 1, bool)
        frontier = np.array([row[0]])
        rows: dict[int, tuple[Any, ...]] = {}
        while frontier.size:
            seen[frontier] = True
            found = self._fetch(frontier, columns)
            rows.update(found)
            parents = np.frombuffer(b"".join([values[0] for values in found.values()]), np.int64)
            reached = np.zeros_like(seen)
            reached[parents] = True
            frontier = np.flatnonzero(reached & ~seen)[::-1]
        return rows

    def _fetch(self, seqs: npt.NDArray[np.int64], columns: str) -> dict[int, tuple[Any, ...]]:
        """Read rows by seq; a dense set is read as one range, which is several times faster."""
        low, high = int(seqs.min()), int(seqs.max())
        select = f"SELECT seq, parents, {columns} FROM record"
        if seqs.size * 5 > high - low:
            wanted = np.zeros(high - low + 1, bool)
            wanted[seqs - low] = True
            keep = wanted.tolist()
            found = self._database.execute(f"{select} WHERE seq BETWEEN ? AND ?", (low, high))
            return {row[0]: row[1:] for row in found if keep[row[0] - low]}
        chosen = f"{select} WHERE seq IN (SELECT value FROM json_each(?))"
        return {row[0]: row[1:] for row in self._database.execute(chosen, (json.dumps(seqs.tolist()),))}

    def affected(self, record_id: str) -> list[Node]:
        """Return everything made from a record, oldest first, without the record itself.

        Raises:
            ProvenanceError: it is unknown.
        """
        self.get(record_id)
        query = DOWN + "SELECT id, kind, payload FROM record WHERE seq IN down AND id != ? ORDER BY seq"
        with self._lock:
            return [Node(*row) for row in self._database.execute(query, (record_id, record_id))]

    def affected_by_role(self, record_id: str, role: str) -> list[Node]:
        """Return the records that name this one in a role, oldest first, e.g. the labels of an episode."""
        query = """SELECT below.id, below.kind, below.payload FROM record AS above
            JOIN edge ON edge.parent = above.seq AND edge.role = ? JOIN record AS below ON below.seq = edge.child
            WHERE above.id = ? ORDER BY below.seq"""
        with self._lock:
            return [Node(*row) for row in self._database.execute(query, (role, record_id))]

    def retract(self, record_id: str, *, reason: str, by: str, at_ns: int) -> list[Node]:
        """Withdraw a record and return what it touched; those checkpoints cannot be promoted any more.

        Args:
            record_id: usually an episode.
            reason: for whoever meets the block later.
            by: who withdraws it.
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

    def taints(self, record_id: str, above: Container[str] | None = None) -> list[tuple[Node, Node]]:
        """Return (retracted ancestor or the record itself, retraction) pairs.

        Args:
            record_id: usually a checkpoint.
            above: ids of all its ancestors and itself, where they are known already; saves the search.

        Raises:
            ProvenanceError: the record is unknown.
        """
        query = """SELECT what.seq, what.id, what.kind, what.payload, how.id, how.kind, how.payload
            FROM record AS how JOIN edge ON edge.child = how.seq AND edge.role = 'retracts'
            JOIN record AS what ON what.seq = edge.parent WHERE how.kind = 'retraction' ORDER BY how.seq"""
        return self._among_ancestors(record_id, query, above)

    def changed_labels(self, record_id: str, above: Container[str] | None = None) -> list[tuple[Node, Node]]:
        """Return (label it was made with, newest label of that episode) pairs whose outcomes differ.

        Args:
            record_id: usually a checkpoint.
            above: see taints().

        Raises:
            ProvenanceError: the record is unknown.
        """
        query = """SELECT used.seq, used.id, used.kind, used.payload, late.id, late.kind, late.payload
            FROM (SELECT parent, MAX(child) AS newest, MIN(child) AS oldest FROM edge WHERE role = 'labels'
                  GROUP BY parent) AS labelled
            JOIN record AS late ON late.seq = labelled.newest
            JOIN edge ON edge.parent = labelled.parent AND edge.role = 'labels' AND edge.child != labelled.newest
            JOIN record AS used ON used.seq = edge.child
            WHERE labelled.newest != labelled.oldest
              AND json_extract(used.payload, '$.outcome') != json_extract(late.payload, '$.outcome')
            ORDER BY late.seq"""
        return self._among_ancestors(record_id, query, above)

    def _among_ancestors(self, record_id: str, query: str, above: Container[str] | None) -> list[tuple[Node, Node]]:
        """Run a query for (seq, node, node) and keep the rows whose first node is an ancestor."""
        self.get(record_id)
        with self._lock:
            rows = self._database.execute(query).fetchall()
            if not rows:
                return []
            if above is not None:
                kept = [row for row in rows if row[1] in above]
            else:
                with _no_garbage_collection():
                    found = self._ancestry(record_id, "seq")
                kept = [row for row in rows if row[0] in found]
        return [(Node(*row[1:4]), Node(*row[4:])) for row in kept]

    def check_promotable(self, record_id: str) -> None:
        """Return if nothing below a checkpoint was retracted.

        Raises:
            ProvenanceError: something was; the message names it, the reason and who said so.
        """
        tainted = self.taints(record_id)
        if tainted:
            what, how = tainted[0]
            reason = how.payload
            more = f" (and {len(tainted) - 1} more)" if len(tainted) > 1 else ""
            raise ProvenanceError(
                f"{record_id} was made from {what.id}, retracted by {reason['by']}: {reason['reason']}{more}; "
                "train again without it"
            )

    def verify(self, record_id: str | None = None) -> list[Damage]:
        """Recompute every link, of one record's ancestry or of the whole file; empty means untouched.

        Raises:
            ProvenanceError: the record is unknown.
        """
        with self._lock:
            columns = "id, kind, payload, roles, parent_links, link"
            self._read_roles()
            if record_id is not None:
                return self._damaged(self._ancestry(record_id, columns))
            everything = self._database.execute(f"SELECT seq, parents, {columns} FROM record ORDER BY seq")
            return self._damaged_chain() + self._damaged({row[0]: row[1:] for row in everything})

    def _damaged(self, rows: Mapping[int, tuple[Any, ...]]) -> list[Damage]:
        damage: dict[Damage, None] = {}
        for parents, name, kind, payload, roles, parent_links, link in rows.values():
            links = [parent_links[start : start + LINK_BYTES] for start in range(0, len(parent_links), LINK_BYTES)]
            names = [self._roles[code] for code in roles]
            if link_of(name, kind, payload, list(zip(names, links, strict=False))) != link:
                damage[Damage(name, "its content or its parents do not match its hash")] = None
            for seq, expected in zip(np.frombuffer(parents, np.int64).tolist(), links, strict=False):
                if seq not in rows:
                    damage[Damage(f"record {seq}, a parent of {name},", "is gone")] = None
                elif rows[seq][6] != expected:
                    damage[Damage(rows[seq][1], f"was replaced after {name} was made from it")] = None
        return list(damage)

    def _damaged_chain(self) -> list[Damage]:
        chain = bytes(LINK_BYTES)
        rows = self._database.execute("SELECT seq, id, link, chain FROM record ORDER BY seq")
        for expected, (seq, name, link, stored) in enumerate(rows, start=1):
            chain = hashlib.sha256(chain + link).digest()
            if seq != expected or chain != stored:
                return [Damage(str(name), "does not follow from the record before it: one was removed or replaced")]
        return []


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Half a million young tuples make the collector walk them again and again; none of them is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

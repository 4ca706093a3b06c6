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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import DiskFullError, StorageError
from gymnast_core.records.ancestry import Ancestry, Edges
from gymnast_core.records.lineage import Damage, Lineage, Node, Record, link_of
from gymnast_core.records.manifest import canonical_json

SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, payload TEXT NOT NULL,
  parents BLOB NOT NULL, roles BLOB NOT NULL, parent_links BLOB NOT NULL, link BLOB NOT NULL, chain BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
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
HASHED = "parents, id, kind, payload, roles, parent_links, link"
NODE_JSON = """'{"id":' || json_quote(id) || ',"kind":' || json_quote(kind) || ',"payload":' || payload || '}'"""
VERSION = 1
_REMEDY = "restore it from a backup, or move it aside: what the catalogue knows is recorded anew, retractions are not"
LINK_BYTES = 32
_FULL = "database or disk is full"  # Python 3.10 has no other sign of it
RETRACTS = "retracts"
LABELS = "labels"
"""Roles the graph itself understands: retraction -> record, label -> episode."""


class ProvenanceError(StorageError):
    """A record is unknown, is claimed twice with different content, or a promotion is blocked."""


class ProvenanceGraph:
    """One graph in one file; threads may share it, several processes may read.

    Raises:
        StorageError: the file is damaged, none of ours, or of a newer version; the message names the remedy.
    """

    def __init__(self, path: Path | str) -> None:
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, timeout=10)
        try:
            self._prepare(path)
        except sqlite3.Error as error:
            self._database.close()
            raise StorageError(f"cannot open the provenance graph {path}: {error}; {_REMEDY}") from error
        self._ancestry = Ancestry()
        self._roles: list[str] = []
        self._read_roles()

    def _prepare(self, path: Path | str) -> None:
        """Refuse what is damaged, or written by a newer version, and make what is missing."""
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
            self._database.execute(f"PRAGMA {pragma}")
        [(version,)] = self._database.execute("PRAGMA user_version").fetchall()
        damage = [row[0] for row in self._database.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
        if version > VERSION or damage:
            self._database.close()
            newer = f"is of version {version}, this gymnast reads up to {VERSION}: start the newer one"
            raise StorageError(f"the provenance graph {path} {damage or newer}; {_REMEDY}")
        with self._database:
            self._database.executescript(SCHEMA)
        self._database.execute(f"PRAGMA user_version={VERSION}")

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._database.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        """One thread at a time; what SQLite cannot do has a name of ours."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or str(error) == _FULL
                kind = DiskFullError if full else StorageError
                raise kind(f"the provenance graph: {error}; nothing of it was written") from error

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
        with self._using(), self._database:
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

    def mark(self, name: str) -> int:
        """Return how far somebody has read what this graph is filled from; 0 when nothing was marked."""
        with self._using():
            row = self._database.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def set_mark(self, name: str, value: int) -> None:
        """Remember it; not part of any hash."""
        with self._using(), self._database:
            self._database.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (name, value))

    def get(self, record_id: str) -> Node:
        """Return one record.

        Raises:
            ProvenanceError: it is unknown.
        """
        with self._using():
            row = self._database.execute("SELECT id, kind, payload FROM record WHERE id = ?", (record_id,)).fetchone()
        if row is None:
            raise ProvenanceError(f"{record_id} is not recorded; check the id, or `gymnast weights list`")
        return Node(*row)

    def __contains__(self, record_id: str) -> bool:
        with self._using():
            found = self._database.execute("SELECT 1 FROM record WHERE id = ?", (record_id,)).fetchone()
        return found is not None

    def of_kind(self, kind: str) -> list[Node]:
        """Return every record of one kind, oldest first."""
        with self._using():
            rows = self._database.execute("SELECT id, kind, payload FROM record WHERE kind = ? ORDER BY seq", (kind,))
            return [Node(*row) for row in rows]

    def why(self, record_id: str) -> Lineage:
        """Return everything a record was made from, to the last episode and label.

        Raises:
            ProvenanceError: it is unknown, or the graph is damaged.
        """
        with self._using(), _no_garbage_collection():
            seqs = self._above(record_id)
            nodes = [Node(*row[1:]) for row in self._rows(seqs, "id, kind, payload")]
            edges = self._edges(record_id, seqs, len(nodes))
        return Lineage(nodes, edges.child_E, edges.parent_E, [self._roles[code] for code in edges.role_E.tolist()])

    def why_json(self, record_id: str) -> str:
        """Return what why() does as JSON text: {nodes: [{id, kind, payload}], edges: [[child, role, parent]]}.

        The text is put together by the database and never parsed: 0.2 million records take a third of a second.

        Raises:
            ProvenanceError: as why().
        """
        with self._using(), _no_garbage_collection():
            seqs = self._above(record_id)
            nodes = [text for _, text in self._rows(seqs, NODE_JSON)]
            edges = self._edges(record_id, seqs, len(nodes))
            roles = [json.dumps(role) for role in self._roles]
        named = [roles[code] for code in edges.role_E.tolist()]
        triples = zip(edges.child_E.tolist(), named, edges.parent_E.tolist(), strict=True)
        return f'{{"nodes":[{",".join(nodes)}],"edges":[{",".join(map("[%d,%s,%d]".__mod__, triples))}]}}'

    def counts_above(self, record_id: str) -> dict[str, int]:
        """Return how many ancestors of each kind a record has.

        Raises:
            ProvenanceError: it is unknown.
        """
        with self._using():
            return self._ancestry.counts(self._above(record_id)[1:])

    def above(self, record_id: str, *kinds: str) -> list[Node]:
        """Return the ancestors of some kinds, newest first.

        Raises:
            ProvenanceError: it is unknown.
        """
        with self._using(), _no_garbage_collection():
            chosen = self._ancestry.of_kinds(self._above(record_id)[1:], kinds)
            return [Node(*row[1:]) for row in self._rows(chosen, "id, kind, payload")]

    def _seq_of(self, record_id: str) -> int:
        row = self._database.execute("SELECT seq FROM record WHERE id = ?", (record_id,)).fetchone()
        if row is None:
            raise ProvenanceError(f"{record_id} is not recorded; check the id, or `gymnast weights list`")
        return int(row[0])

    def _above(self, record_id: str) -> npt.NDArray[np.int64]:
        """Numbers of a record and its ancestors, newest first."""
        seq = self._seq_of(record_id)
        self._ancestry.grow(self._database)
        return self._ancestry.above(seq)

    def _edges(self, record_id: str, seqs: npt.NDArray[np.int64], found: int) -> Edges:
        """Edges with parents as places in seqs; everything that is named must be there."""
        self._read_roles()
        edges = self._ancestry.edges(seqs)
        place = np.full(int(seqs[0]) + 1, -1)
        place[seqs] = np.arange(seqs.size)
        there = (edges.parent_E > 0) & (edges.parent_E < place.size)
        if found != seqs.size or not there.all():
            raise ProvenanceError(f"records above {record_id} are damaged or gone; `gymnast why --verify` names them")
        return Edges(edges.child_E, place[edges.parent_E], edges.role_E)

    def _rows(self, seqs: npt.NDArray[np.int64], columns: str) -> list[tuple[Any, ...]]:
        """Read (seq, *columns) of records given newest first; a dense set is read as one range, which is quicker."""
        if not seqs.size:
            return []
        low, high = int(seqs[-1]), int(seqs[0])
        select = f"SELECT seq, {columns} FROM record WHERE seq"
        if seqs.size * 5 <= high - low:
            chosen = f"{select} IN (SELECT value FROM json_each(?)) ORDER BY seq DESC"
            return self._database.execute(chosen, (json.dumps(seqs.tolist()),)).fetchall()
        found = self._database.execute(f"{select} BETWEEN ? AND ? ORDER BY seq DESC", (low, high)).fetchall()
        if seqs.size == high - low + 1:
            return found
        wanted = np.zeros(high - low + 1, bool)
        wanted[seqs - low] = True
        keep = wanted.tolist()
        return [row for row in found if keep[row[0] - low]]

    def affected(self, record_id: str) -> list[Node]:
        """Return everything made from a record, oldest first, without the record itself.

        Raises:
            ProvenanceError: it is unknown.
        """
        self.get(record_id)
        query = DOWN + "SELECT id, kind, payload FROM record WHERE seq IN down AND id != ? ORDER BY seq"
        with self._using():
            return [Node(*row) for row in self._database.execute(query, (record_id, record_id))]

    def affected_by_role(self, record_id: str, role: str) -> list[Node]:
        """Return the records that name this one in a role, oldest first, e.g. the labels of an episode."""
        query = """SELECT below.id, below.kind, below.payload FROM record AS above
            JOIN edge ON edge.parent = above.seq AND edge.role = ? JOIN record AS below ON below.seq = edge.child
            WHERE above.id = ? ORDER BY below.seq"""
        with self._using():
            return [Node(*row) for row in self._database.execute(query, (role, record_id))]

    def newest(self, record_ids: Iterable[str], role: str) -> dict[str, Node | None]:
        """Return, of each that is recorded, the newest record that names it in a role, e.g. an episode's label."""
        query = """SELECT above.id, below.id, below.kind, below.payload FROM json_each(?) AS asked
            JOIN record AS above ON above.id = asked.value
            LEFT JOIN record AS below
              ON below.seq = (SELECT MAX(child) FROM edge WHERE parent = above.seq AND role = ?)"""
        with self._using():
            rows = self._database.execute(query, (json.dumps(list(record_ids)), role)).fetchall()
        return {row[0]: Node(*row[1:]) if row[1] is not None else None for row in rows}

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

    def taints(self, record_id: str) -> list[tuple[Node, Node]]:
        """Return (retracted ancestor or the record itself, retraction) pairs.

        Raises:
            ProvenanceError: the record is unknown.
        """
        query = """SELECT what.seq, what.id, what.kind, what.payload, how.id, how.kind, how.payload
            FROM record AS how JOIN edge ON edge.child = how.seq AND edge.role = 'retracts'
            JOIN record AS what ON what.seq = edge.parent WHERE how.kind = 'retraction' ORDER BY how.seq"""
        return self._among_ancestors(record_id, query)

    def changed_labels(self, record_id: str) -> list[tuple[Node, Node]]:
        """Return (label it was made with, newest label of that episode) pairs whose outcomes differ.

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
        return self._among_ancestors(record_id, query)

    def _among_ancestors(self, record_id: str, query: str) -> list[tuple[Node, Node]]:
        """Run a query for (seq, node, node) and keep the rows whose first node is an ancestor."""
        self._seq_of(record_id)
        with self._using():
            rows = self._database.execute(query).fetchall()
            above = set(self._above(record_id).tolist()) if rows else ()
        return [(Node(*row[1:4]), Node(*row[4:])) for row in rows if row[0] in above]

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
        with self._using():
            self._read_roles()
            if record_id is None:
                found = self._database.execute(f"SELECT seq, {HASHED} FROM record ORDER BY seq")
                return self._damaged_chain() + self._damaged({row[0]: row[1:] for row in found})
            fresh = Ancestry()  # what is in memory was read before somebody changed the file
            fresh.grow(self._database)
            rows = self._rows(fresh.above(self._seq_of(record_id)), HASHED)
            return self._damaged({row[0]: row[1:] for row in rows})

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

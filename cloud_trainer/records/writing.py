"""Records into the tables of the provenance graph, many at once: few statements, however many there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from cloud_trainer.records.graph_check import LINK_BYTES, counter_of
from cloud_trainer.records.graph_sql import graph_sql
from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import RECORD_EDGES, RECORD_ROLES, RECORDS
from gymnast_core.records.lineage import EXTERNAL, ProvenanceError, Record, link_of
from gymnast_core.records.manifest import canonical_json


class _Recorded(NamedTuple):
    """What is known under an id."""

    seq: int
    link: bytes
    kind: str


_Known = dict[str, _Recorded]


def write_records(database: Database, connection: sa.Connection, tenant: str, records: Sequence[Record]) -> None:
    """Write records, parents before children; those that are there already are left alone.

    One whose id stands for a placeholder takes its place: what named it names this record from now on.

    Raises:
        ProvenanceError: a parent is unknown, or an id stands for something else already; the caller's transaction
            must come to nothing then.
    """
    before = seq = database.next_number(connection, counter_of(tenant), 0)  # and this tenant's other writers wait
    last = sa.select(RECORDS.c.chain).where((RECORDS.c.tenant == tenant) & (RECORDS.c.seq == seq))
    chain = bytes(connection.execute(last).scalar() or bytes(LINK_BYTES))
    known = _known(database, connection, tenant, records)
    codes = _codes(connection, tenant, {role for record in records for role, _ in record.parents})
    rows: dict[int, list[Any]] = {}
    edges: list[tuple[Any, ...]] = []
    replaced: dict[int, int] = {}
    for record in records:
        text = canonical_json(record.payload).decode()
        parents = _parents_of(record, known)
        link = link_of(record.id, record.kind, text, [(role, parent.link) for role, parent in parents])
        if (before_it := known.get(record.id)) is not None:
            if record.kind == EXTERNAL:
                continue  # a placeholder says less than what is there
            if before_it.kind != EXTERNAL:
                if before_it.link != link:
                    named = [(codes[role], parent.seq) for role, parent in parents]
                    _require_same(connection, tenant, record, text, named)
                continue
            replaced[before_it.seq] = seq + 1
        seq, chain = seq + 1, hashlib.sha256(chain + link).digest()
        known[record.id] = _Recorded(seq, link, record.kind)
        seqs = np.array([parent.seq for _, parent in parents], np.int64).tobytes()
        roles = bytes(codes[role] for role, _ in parents)
        links = b"".join(parent.link for _, parent in parents)
        rows[seq] = [tenant, seq, record.id, record.kind, text, seqs, roles, links, link, chain, None]
        edges += [(tenant, parent.seq, seq, role) for role, parent in parents]
    for placeholder in replaced.keys() & rows.keys():
        rows[placeholder][-1] = replaced[placeholder]
    _replace(connection, tenant, RECORDS.c.seq, RECORDS.c.replaced_by, replaced)
    database.insert_many(connection, RECORDS, [tuple(row) for row in rows.values()])
    database.insert_many(connection, RECORD_EDGES, edges)
    _replace(connection, tenant, RECORD_EDGES.c.parent, RECORD_EDGES.c.parent, replaced)
    database.next_number(connection, counter_of(tenant), seq - before)


def _replace(
    connection: sa.Connection, tenant: str, key: sa.Column[int], value: sa.Column[int], replaced: Mapping[int, int]
) -> None:
    """Note what came for a placeholder: in its row, and in the edges that lead to it."""
    if replaced:
        table = key.table
        statement = sa.update(table).where((table.c.tenant == tenant) & (key == sa.bindparam("placeholder")))
        values = [{"placeholder": old, "number": new} for old, new in replaced.items()]
        connection.execute(statement.values({value.name: sa.bindparam("number")}), values)


def _require_same(
    connection: sa.Connection, tenant: str, record: Record, text: str, parents: Sequence[tuple[int, int]]
) -> None:
    """Return if a record is the one that is there, which may have named a parent before that came.

    Args:
        connection: of the caller's transaction.
        tenant: whose graph.
        record: what is to be written.
        text: its payload.
        parents: (code of the role, number) of each.

    Raises:
        ProvenanceError: it is another one.
    """
    mine = RECORDS.c.tenant == tenant
    live = mine & (RECORDS.c.id == record.id) & RECORDS.c.replaced_by.is_(None)
    found = connection.execute(
        sa.select(RECORDS.c.kind, RECORDS.c.payload, RECORDS.c.parents, RECORDS.c.roles).where(live)
    )
    [(kind, payload, seqs, roles)] = found
    if kind != record.kind:
        raise ProvenanceError(f"{record.id} is recorded as kind {kind}, not {record.kind}; an id is never reused")
    replaced = sa.select(RECORDS.c.seq, RECORDS.c.replaced_by).where(mine & RECORDS.c.replaced_by.is_not(None))
    now: dict[int, int] = {placeholder: number for placeholder, number in connection.execute(replaced)}
    there = [now.get(seq, seq) for seq in np.frombuffer(seqs, np.int64).tolist()]
    if payload != text or set(zip(roles, there, strict=True)) != set(parents):
        raise ProvenanceError(f"{record.id} is recorded with other content; an id is never reused")


def _known(database: Database, connection: sa.Connection, tenant: str, records: Sequence[Record]) -> _Known:
    """Everything that these records are or name, as far as it is written."""
    names = {record.id for record in records} | {parent for record in records for _, parent in record.parents}
    values = {"tenant": tenant, "names": json.dumps(sorted(names))}
    rows = connection.execute(graph_sql(sqlite=database.is_sqlite).links, values)
    return {name: _Recorded(seq, bytes(link), kind) for name, seq, link, kind in rows}


def _parents_of(record: Record, known: _Known) -> list[tuple[str, _Recorded]]:
    """Each parent by its role, in the order that is hashed."""
    parents = []
    for role, parent in sorted(set(record.parents)):
        if parent not in known:
            raise ProvenanceError(f"{record.id} names {parent} as {role}, which is not recorded; record it first")
        parents.append((role, known[parent]))
    return parents


def _codes(connection: sa.Connection, tenant: str, roles: set[str]) -> dict[str, int]:
    """Codes of roles, from 1 on; new ones are written."""
    mine = sa.select(RECORD_ROLES.c.name, RECORD_ROLES.c.code).where(RECORD_ROLES.c.tenant == tenant)
    codes: dict[str, Any] = {name: code for name, code in connection.execute(mine)}
    for name in sorted(roles - codes.keys()):
        codes[name] = len(codes) + 1
        connection.execute(sa.insert(RECORD_ROLES).values(tenant=tenant, code=codes[name], name=name))
    return codes

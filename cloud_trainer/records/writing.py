"""Records into the tables of the provenance graph, many at once: few statements, however many there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from cloud_trainer.records.graph_check import LINK_BYTES, counter_of
from cloud_trainer.records.graph_sql import graph_sql
from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import RECORD_EDGES, RECORD_ROLES, RECORDS
from gymnast_core.records.lineage import ProvenanceError, Record, link_of
from gymnast_core.records.manifest import canonical_json

_Known = dict[str, tuple[int, bytes]]


def write_records(database: Database, connection: sa.Connection, tenant: str, records: Sequence[Record]) -> None:
    """Write records, parents before children; those that are there already are left alone.

    Raises:
        ProvenanceError: a parent is unknown, or an id stands for something else already; the caller's transaction
            must come to nothing then.
    """
    before = seq = database.next_number(connection, counter_of(tenant), 0)  # and this tenant's other writers wait
    last = sa.select(RECORDS.c.chain).where((RECORDS.c.tenant == tenant) & (RECORDS.c.seq == seq))
    chain = bytes(connection.execute(last).scalar() or bytes(LINK_BYTES))
    known = _known(database, connection, tenant, records)
    codes = _codes(connection, tenant, {role for record in records for role, _ in record.parents})
    rows: list[tuple[Any, ...]] = []
    edges: list[tuple[Any, ...]] = []
    for record in records:
        text = canonical_json(record.payload).decode()
        parents = _parents_of(record, known)
        link = link_of(record.id, record.kind, text, [(role, link) for role, _, link in parents])
        if record.id in known:
            if known[record.id][1] != link:
                raise ProvenanceError(f"{record.id} is recorded with other content; an id is never reused")
            continue
        seq, chain = seq + 1, hashlib.sha256(chain + link).digest()
        known[record.id] = (seq, link)
        seqs = np.array([parent for _, parent, _ in parents], np.int64).tobytes()
        roles = bytes(codes[role] for role, _, _ in parents)
        links = b"".join(parent_link for _, _, parent_link in parents)
        rows.append((tenant, seq, record.id, record.kind, text, seqs, roles, links, link, chain))
        edges += [(tenant, parent, seq, role) for role, parent, _ in parents]
    database.insert_many(connection, RECORDS, rows)
    database.insert_many(connection, RECORD_EDGES, edges)
    database.next_number(connection, counter_of(tenant), seq - before)


def _known(database: Database, connection: sa.Connection, tenant: str, records: Sequence[Record]) -> _Known:
    """(seq, link) of everything that these records are or name, as far as it is written."""
    names = {record.id for record in records} | {parent for record in records for _, parent in record.parents}
    values = {"tenant": tenant, "names": json.dumps(sorted(names))}
    rows = connection.execute(graph_sql(sqlite=database.is_sqlite).links, values)
    return {name: (seq, bytes(link)) for name, seq, link in rows}


def _parents_of(record: Record, known: _Known) -> list[tuple[str, int, bytes]]:
    """(role, seq, link) of each parent, in the order that is hashed."""
    parents = []
    for role, parent in sorted(set(record.parents)):
        if parent not in known:
            raise ProvenanceError(f"{record.id} names {parent} as {role}, which is not recorded; record it first")
        parents.append((role, *known[parent]))
    return parents


def _codes(connection: sa.Connection, tenant: str, roles: set[str]) -> dict[str, int]:
    """Codes of roles, from 1 on; new ones are written."""
    mine = sa.select(RECORD_ROLES.c.name, RECORD_ROLES.c.code).where(RECORD_ROLES.c.tenant == tenant)
    codes: dict[str, Any] = {name: code for name, code in connection.execute(mine)}
    for name in sorted(roles - codes.keys()):
        codes[name] = len(codes) + 1
        connection.execute(sa.insert(RECORD_ROLES).values(tenant=tenant, code=codes[name], name=name))
    return codes

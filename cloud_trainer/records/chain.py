"""Entries in the database of which every one carries the hash of the one before it, as in a file of its own before.

What is done and its entry are one transaction: neither is ever there without the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import COUNTERS, ENTRIES
from cloud_trainer.store.tenants import DEFAULT_TENANT
from gymnast_core.errors import CorruptError
from gymnast_core.records.journal import GENESIS, Entry
from gymnast_core.records.manifest import canonical_json

ACTIONS, LEDGER = "actions", "ledger"
"""The chains that a tenant has."""


class Chain:
    """One of a tenant's chains. Threads may share it; inside a transaction of the database it is part of that one.

    Args:
        database: of the trainer.
        tenant: the tenant they belong to.
        name: ACTIONS or LEDGER.

    Raises:
        CorruptError: an entry was changed, removed or reordered; the message names it.
    """

    def __init__(self, database: Database, tenant: str = DEFAULT_TENANT, name: str = ACTIONS) -> None:
        self._database, self._tenant, self._name = database, tenant, name
        self._seen: tuple[Entry, ...] = ()
        _ = self.entries

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry so far, oldest first.

        Raises:
            CorruptError: an entry was changed, removed or reordered; the message names it.
        """
        before, committed = self._seen, not self._database.in_transaction
        with self._database.transaction() as connection:
            fresh = read_entries(connection, self._tenant, self._name, after=before)
        whole = (*before, *fresh) if fresh else before
        if committed:
            self._seen = whole
        return whole

    @property
    def head(self) -> str:
        """Hash of the newest entry; keep it elsewhere to notice a cut tail."""
        entries = self.entries
        return entries[-1].hash if entries else GENESIS

    def append(self, kind: str, data: Mapping[str, Any]) -> Entry:
        """Write one entry durably and return it."""
        with self._database.transaction() as connection:
            sequence = self._database.next_number(connection, counter_of(self._tenant, self._name)) - 1
            newest = _mine(self._tenant, self._name) & (ENTRIES.c.sequence == sequence - 1)
            previous = str(connection.execute(sa.select(ENTRIES.c.hash).where(newest)).scalar() or GENESIS)
            entry = Entry.after(sequence, previous, kind, json.loads(canonical_json(data)))
            connection.execute(sa.insert(ENTRIES).values(row_of(self._tenant, self._name, entry)))
        return entry


def counter_of(tenant: str, name: str) -> str:
    """The counter of a chain's entries; a transaction that holds it writes alone."""
    return f"{name}/{tenant}"


def chains_in(connection: sa.Connection) -> list[tuple[str, str]]:
    """(tenant, name) of every chain that has, or had, an entry."""
    found = {(row[0], row[1]) for row in connection.execute(sa.select(ENTRIES.c.tenant, ENTRIES.c.chain).distinct())}
    for counter in connection.execute(sa.select(COUNTERS.c.name)).scalars():
        name, _, tenant = counter.partition("/")
        if name in (ACTIONS, LEDGER):
            found.add((tenant, name))
    return sorted(found)


def row_of(tenant: str, name: str, entry: Entry) -> dict[str, object]:
    """An entry as a row of the table."""
    return {"tenant": tenant, "chain": name, **vars(entry), "data": canonical_json(entry.data).decode()}


def read_entries(connection: sa.Connection, tenant: str, name: str, *, after: tuple[Entry, ...] = ()) -> list[Entry]:
    """Read the entries of a chain that follow some, and check every hash.

    Raises:
        CorruptError: an entry was changed, removed or reordered; the message names it.
    """
    counted = sa.select(COUNTERS.c.value).where(COUNTERS.c.name == counter_of(tenant, name))
    least = int(connection.execute(counted).scalar() or 0)
    columns = (ENTRIES.c.sequence, ENTRIES.c.kind, ENTRIES.c.data, ENTRIES.c.previous, ENTRIES.c.hash)
    chosen = sa.select(*columns).where(_mine(tenant, name) & (ENTRIES.c.sequence >= len(after)))
    found: list[Entry] = []
    previous = after[-1].hash if after else GENESIS
    for sequence, kind, text, before, stored in connection.execute(chosen.order_by(ENTRIES.c.sequence)):
        entry = Entry.after(len(after) + len(found), previous, kind, _parsed(text))
        if (entry.sequence, entry.previous, entry.hash) != (sequence, before, stored):
            raise CorruptError(
                f"entry {sequence} of the {name} of tenant {tenant!r} was changed: its hash or place in the chain does "
                "not fit; restore the database from a backup"
            )
        found.append(entry)
        previous = stored
    if len(after) + len(found) < least:
        raise CorruptError(
            f"the {name} of tenant {tenant!r} had {least} entries and has {len(after) + len(found)}: the newest were "
            "removed; restore the database from a backup"
        )
    return found


def _parsed(text: str) -> Any:
    """What an entry holds; None, which no entry does, where somebody left something that is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _mine(tenant: str, name: str) -> sa.ColumnElement[bool]:
    return (ENTRIES.c.tenant == tenant) & (ENTRIES.c.chain == name)

"""Whether the provenance graph is what was written: every link and the chain through all of them, computed again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from cloud_trainer.records.graph_sql import HASHED
from cloud_trainer.store.tables import COUNTERS, RECORD_ROLES, RECORDS
from gymnast_core.records.lineage import EXTERNAL, Damage, link_of
from gymnast_core.records.manifest import KINDS

LINK_BYTES = 32
_WHOLE = sa.text(f"SELECT seq, {HASHED} FROM records WHERE tenant = :tenant ORDER BY seq")
_WRONGLY_REPLACED = sa.text("""
SELECT old.id FROM records AS old LEFT JOIN records AS new ON new.tenant = old.tenant AND new.seq = old.replaced_by
WHERE old.tenant = :tenant AND old.replaced_by IS NOT NULL
  AND (old.kind != 'external' OR new.id IS NULL OR new.id != old.id OR new.kind = 'external')
""")
OWN_IDS = re.compile(rf"({'|'.join(KINDS)}|dataset|label|audit|retraction)-")
"""How the ids begin that the trainer gives to records; the first group is their kind."""


def counter_of(tenant: str) -> str:
    """The counter of a tenant's records; a transaction that holds it writes alone."""
    return f"records/{tenant}"


def damage_in(connection: sa.Connection, tenant: str) -> list[Damage]:
    """Recompute every link of a tenant's graph, and look for records that were removed; empty means untouched."""
    roles = sa.select(RECORD_ROLES.c.name).where(RECORD_ROLES.c.tenant == tenant).order_by(RECORD_ROLES.c.code)
    names = ["", *connection.execute(roles).scalars()]
    rows = {row[0]: row[1:] for row in connection.execute(_WHOLE, {"tenant": tenant})}
    wrong = [Damage(row.id, "is said to be replaced by what it is not") for row in
             connection.execute(_WRONGLY_REPLACED, {"tenant": tenant})]  # fmt: skip
    return _damaged_chain(connection, tenant) + damage_among(rows, names) + wrong


def misnamed_in(connection: sa.Connection, tenant: str) -> list[str]:
    """Return records whose ids are like those of another kind: what an id hides was never recorded.

    They are of versions that let a robot choose such an id for its episode.
    """
    rows = connection.execute(sa.select(RECORDS.c.id, RECORDS.c.kind).where(RECORDS.c.tenant == tenant))
    found = ((name, kind, OWN_IDS.match(name)) for name, kind in rows)
    return [f"{kind} {name}" for name, kind, match in found if match and kind not in (match[1], EXTERNAL)]


def damage_among(rows: Mapping[int, Any], roles: Sequence[str]) -> list[Damage]:
    """Recompute the links of records among which all their parents must be.

    Args:
        rows: number -> what graph_sql.HASHED names.
        roles: names by code.
    """
    damage: dict[Damage, None] = {}
    for parents, name, kind, payload, codes, parent_links, link in rows.values():
        links = [parent_links[start : start + LINK_BYTES] for start in range(0, len(parent_links), LINK_BYTES)]
        named = [roles[code] if code < len(roles) else "" for code in codes]
        if link_of(name, kind, payload, list(zip(named, links, strict=False))) != link:
            damage[Damage(name, "its content or its parents do not match its hash")] = None
        for seq, expected in zip(np.frombuffer(parents, np.int64).tolist(), links, strict=False):
            if seq not in rows:
                damage[Damage(f"record {seq}, a parent of {name},", "is gone")] = None
            elif rows[seq][6] != expected:
                damage[Damage(rows[seq][1], f"was replaced after {name} was made from it")] = None
    return list(damage)


def _damaged_chain(connection: sa.Connection, tenant: str) -> list[Damage]:
    chain = bytes(LINK_BYTES)
    columns = (RECORDS.c.seq, RECORDS.c.id, RECORDS.c.link, RECORDS.c.chain)
    rows = connection.execute(sa.select(*columns).where(RECORDS.c.tenant == tenant).order_by(RECORDS.c.seq))
    expected = 0
    for expected, (seq, name, link, stored) in enumerate(rows, start=1):
        chain = hashlib.sha256(chain + link).digest()
        if seq != expected or chain != stored:
            return [Damage(str(name), "does not follow from the record before it: one was removed or replaced")]
    counted = sa.select(COUNTERS.c.value).where(COUNTERS.c.name == counter_of(tenant))
    least = int(connection.execute(counted).scalar() or 0)
    return [Damage(f"record {expected + 1}", "and what followed it is gone")] if expected < least else []

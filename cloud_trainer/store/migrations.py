"""Brings a database that an older version made up to date, in one transaction; what it held is kept."""

from __future__ import annotations

import sqlalchemy as sa

from cloud_trainer.store.tenants import DEFAULT_TENANT
from gymnast_core.errors import StorageError

SCHEMA = 2
"""1 had no tenants in checkpoints, releases and lineage, and noted no version."""
_NAME = "schema"
_WITH_TENANT = ("checkpoints", "releases", "lineage")


def bring_up_to_date(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Make what is missing, and give tables without a tenant one.

    Args:
        connection: in a transaction.
        metadata: the tables as they shall be.

    Raises:
        StorageError: a newer version wrote it, or one that is older than any this one converts.
    """
    require_readable(connection)
    present = set(sa.inspect(connection).get_table_names())
    for name in _WITH_TENANT:
        if name in present and "tenant" not in {column["name"] for column in sa.inspect(connection).get_columns(name)}:
            _rebuild(connection, metadata.tables[name])
    metadata.create_all(connection)
    for table in metadata.tables.values():
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    _require_columns(connection, metadata)
    counters = metadata.tables["counters"]
    connection.execute(sa.delete(counters).where(counters.c.name == _NAME))
    connection.execute(sa.insert(counters).values(name=_NAME, value=SCHEMA))


def schema_of(connection: sa.Connection) -> int | None:
    """The version a database was last written in: 0 before versions were noted, None where it holds nothing."""
    tables = sa.inspect(connection).get_table_names()
    if "counters" not in tables:
        return 0 if "episodes" in tables else None
    found = connection.execute(sa.text("SELECT value FROM counters WHERE name = :name"), {"name": _NAME}).scalar()
    return int(found or 0)


def require_readable(connection: sa.Connection) -> None:
    """Return if this version knows what is in a database.

    Raises:
        StorageError: it was written by a newer one.
    """
    if (schema_of(connection) or 0) > SCHEMA:
        raise StorageError(
            f"the database has schema {schema_of(connection)}, this gymnast reads up to {SCHEMA}: it was written by a "
            "newer one; start that one (pip install -U), or restore the backup made before it"
        )


def unknown_columns(connection: sa.Connection, metadata: sa.MetaData) -> list[str]:
    """What of the tables is not as it shall be: table.column with + for one too many and - for one that is missing."""
    found = []
    for table in metadata.sorted_tables:
        there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
        wanted = {column.name for column in table.columns}
        found += [f"-{table.name}.{name}" for name in sorted(wanted - there)]
        found += [f"+{table.name}.{name}" for name in sorted(there - wanted)]
    return found


def _require_columns(connection: sa.Connection, metadata: sa.MetaData) -> None:
    if found := unknown_columns(connection, metadata):
        newer = all(name.startswith("+") for name in found)
        writer = "a newer gymnast: start that one" if newer else "one that is older than any this one converts"
        raise StorageError(
            f"the database is not of schema {SCHEMA}: {', '.join(found[:8])} (- is missing, + is unknown); it was "
            f"written by {writer}, or restore a backup; `gymnast doctor --folder FOLDER` shows more"
        )


def _rebuild(connection: sa.Connection, table: sa.Table) -> None:
    """SQLite cannot change a primary key, so the rows move into a new table; each becomes the default tenant's."""
    old = f"{table.name}_without_tenant"
    for index in sa.inspect(connection).get_indexes(table.name):
        connection.exec_driver_sql(f'DROP INDEX IF EXISTS "{index["name"]}"')
    connection.exec_driver_sql(f'ALTER TABLE "{table.name}" RENAME TO "{old}"')
    if connection.dialect.name == "postgresql":  # which named the key after the table, and keeps that name
        connection.exec_driver_sql(f'ALTER TABLE "{old}" RENAME CONSTRAINT "{table.name}_pkey" TO "{old}_pkey"')
    table.create(connection)
    columns = ", ".join(f'"{column.name}"' for column in table.columns if column.name != "tenant")
    connection.execute(
        sa.text(f'INSERT INTO "{table.name}" (tenant, {columns}) SELECT :tenant, {columns} FROM "{old}"'),
        {"tenant": DEFAULT_TENANT},
    )
    connection.exec_driver_sql(f'DROP TABLE "{old}"')

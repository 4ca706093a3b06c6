"""Brings a database that an older version made up to date, in one transaction; what it held is kept."""

from __future__ import annotations

import sqlalchemy as sa

from cloud_trainer.store.tenants import DEFAULT_TENANT

_WITH_TENANT = ("checkpoints", "releases", "lineage")


def bring_up_to_date(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Make what is missing, and give tables without a tenant one.

    Args:
        connection: in a transaction.
        metadata: the tables as they shall be.
    """
    present = set(sa.inspect(connection).get_table_names())
    for name in _WITH_TENANT:
        if name in present and "tenant" not in {column["name"] for column in sa.inspect(connection).get_columns(name)}:
            _rebuild(connection, metadata.tables[name])
    metadata.create_all(connection)
    for table in metadata.tables.values():
        for index in table.indexes:
            index.create(connection, checkfirst=True)


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

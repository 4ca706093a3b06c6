"""What schema 2 was: tenants in every key. Older databases, which named none, become the default tenant's."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None
_TENANT = "default"
_TABLES = sa.MetaData()
sa.Table(
    "counters", _TABLES, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.BigInteger, nullable=False)
)
sa.Table(
    "episodes",
    _TABLES,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("episode_id", sa.Text, nullable=False),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("received_ns", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("instruction", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("labelled_by", sa.Text, nullable=False),
    sa.Column("steps", sa.BigInteger, nullable=False),
    sa.Column("policy_version", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.UniqueConstraint("tenant", "episode_id"),
    sa.Index("episodes_by_state", "state", "sequence"),
    sa.Index("episodes_by_digest", "tenant", "digest"),
    sa.Index("episodes_by_robot", "tenant", "robot", "sequence"),
    sa.Index("episodes_by_instruction", "tenant", "instruction", "sequence"),
)
sa.Table(
    "usage",
    _TABLES,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("episodes", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
sa.Table(
    "checkpoints",
    _TABLES,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("checkpoint_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("manifest", sa.LargeBinary, nullable=False),
    sa.Column("weights_digest", sa.Text, nullable=False),
    sa.Column("weights_size", sa.BigInteger, nullable=False),
    sa.Column("published_ns", sa.BigInteger, nullable=False),
    sa.Index("checkpoints_by_time", "tenant", "published_ns"),
)
sa.Table(
    "releases",
    _TABLES,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("checkpoint_id", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
sa.Table(
    "jobs",
    _TABLES,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("submitted_by", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("last_event", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("lease_until_ns", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "idempotency_key"),
    sa.Index("jobs_by_state", "state", "created_ns"),
)
sa.Table(
    "job_events",
    _TABLES,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)
sa.Table(
    "lineage",
    _TABLES,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("checkpoint_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Index("lineage_by_tenants_source", "tenant", "kind", "source_id"),
)


def upgrade() -> None:
    """Give tables without a tenant one, and make what is missing."""
    connection = op.get_bind()
    present = set(sa.inspect(connection).get_table_names())
    for name in ("checkpoints", "releases", "lineage"):
        if name in present and "tenant" not in {column["name"] for column in sa.inspect(connection).get_columns(name)}:
            _rebuild(connection, _TABLES.tables[name])
    _TABLES.create_all(connection)
    for table in _TABLES.tables.values():
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
        {"tenant": _TENANT},
    )
    connection.exec_driver_sql(f'DROP TABLE "{old}"')

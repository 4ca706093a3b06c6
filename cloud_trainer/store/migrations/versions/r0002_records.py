"""Provenance, the log of actions and the calibration ledger come into the database.

What files of the version before hold of them is brought in by cloud_trainer.records.before, which knows the folder.
What was the table lineage is in the graph, by the same manifests.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"
_NEW = sa.MetaData()
sa.Table(
    "records",
    _NEW,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("parents", sa.LargeBinary, nullable=False),
    sa.Column("roles", sa.LargeBinary, nullable=False),
    sa.Column("parent_links", sa.LargeBinary, nullable=False),
    sa.Column("link", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("tenant", "id"),
    sa.Index(
        "records_retractions",
        "tenant",
        "seq",
        sqlite_where=sa.text("kind = 'retraction'"),
        postgresql_where=sa.text("kind = 'retraction'"),
    ),
)
sa.Table(
    "record_edges",
    _NEW,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("parent", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("child", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("role", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)
sa.Table(
    "record_roles",
    _NEW,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("code", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.UniqueConstraint("tenant", "name"),
)
sa.Table(
    "entries",
    _NEW,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)


def upgrade() -> None:
    """Make the tables, and have a version from before Alembic refuse them."""
    connection = op.get_bind()
    _NEW.create_all(connection)
    op.drop_table("lineage")
    counters = sa.table("counters", sa.column("name", sa.Text), sa.column("value", sa.BigInteger))
    connection.execute(sa.delete(counters).where(counters.c.name == "schema"))
    connection.execute(sa.insert(counters).values(name="schema", value=3))

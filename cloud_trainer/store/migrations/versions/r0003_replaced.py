"""A record that was named before it came, and stood as "external", is replaced by what comes under its id."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"
_TABLE = "records"
_OLD = "tenant, seq, id, kind, payload, parents, roles, parent_links, link, chain"


def upgrade() -> None:
    """Add the column, and let an id stand twice where one of the two was replaced."""
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
    else:
        op.drop_constraint("records_tenant_id_key", _TABLE, type_="unique")
        op.add_column(_TABLE, sa.Column("replaced_by", sa.BigInteger))
    for name, columns, unique, live in (
        ("records_by_id", ["tenant", "id"], True, "replaced_by IS NULL"),
        ("records_replaced", ["tenant", "replaced_by"], False, "replaced_by IS NOT NULL"),
    ):
        where = sa.text(live)
        op.create_index(name, _TABLE, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def _rebuild() -> None:
    """SQLite drops no constraint: the rows go into a new table."""
    op.drop_index("records_retractions", _TABLE)
    op.rename_table(_TABLE, "records_0002")
    retraction = sa.text("kind = 'retraction'")
    new = sa.MetaData()
    sa.Table(
        _TABLE,
        new,
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
        sa.Column("replaced_by", sa.BigInteger),
        sa.Index("records_retractions", "tenant", "seq", sqlite_where=retraction),
    )
    new.create_all(op.get_bind())
    op.execute(f"INSERT INTO {_TABLE} ({_OLD}) SELECT {_OLD} FROM records_0002")
    op.drop_table("records_0002")

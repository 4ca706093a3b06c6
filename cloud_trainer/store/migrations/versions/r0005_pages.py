"""Calls for a person, and the messages that receivers get of them."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"
_NEW = sa.MetaData()
sa.Table(
    "pages",
    _NEW,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("page_id", sa.Text, primary_key=True),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
    sa.Column("received_ns", sa.BigInteger, nullable=False),
    sa.Column("joined", sa.Text, nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("latest_ns", sa.BigInteger, nullable=False),
    sa.Column("over_ns", sa.BigInteger, nullable=False),
    sa.Column("round", sa.BigInteger, nullable=False),
    sa.Column("remind_ns", sa.BigInteger, nullable=False),
    sa.Column("acknowledged_by", sa.Text, nullable=False),
    sa.Column("acknowledged_ns", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Index("pages_open", "acknowledged_ns", "joined", "remind_ns"),
    sa.Index("pages_by_time", "tenant", "joined", "latest_ns"),
)
sa.Table(
    "page_messages",
    _NEW,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("page_id", sa.Text, primary_key=True),
    sa.Column("receiver", sa.Text, primary_key=True),
    sa.Column("round", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("due_ns", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("sent_ns", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Index("page_messages_waiting", "receiver", "sent_ns", "due_ns"),
)


def upgrade() -> None:
    """Add the tables."""
    _NEW.create_all(op.get_bind())

"""The queues of robots: entries, the episodes of them that are there, what each robot has in hand, and pauses."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"
_NEW = sa.MetaData()
sa.Table(
    "queue_entries",
    _NEW,
    sa.Column("entry_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("flow", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("robots", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("priority", sa.BigInteger, nullable=False),
    sa.Column("place", sa.BigInteger, nullable=False),
    sa.Column("asked_by", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("since_ns", sa.BigInteger, nullable=False),
    sa.Column("ended_ns", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "key"),
    sa.Index("queue_entries_by_state", "tenant", "state", "ended_ns"),
)
sa.Table(
    "queue_starts",
    _NEW,
    sa.Column("entry_id", sa.Text, primary_key=True),
    sa.Column("task", sa.Text, primary_key=True),
    sa.Column("seed", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("success", sa.Boolean),
    sa.Column("episode_id", sa.Text, nullable=False),
    sa.Column("labelled_by", sa.Text, nullable=False),
    sa.Column("cut", sa.Text, nullable=False),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
)
sa.Table(
    "queue_portions",
    _NEW,
    sa.Column("portion_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("robot", sa.Text, nullable=False),
    sa.Column("entry_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("given_ns", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant", "robot"),
)
sa.Table(
    "queue_pauses",
    _NEW,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("robot", sa.Text, primary_key=True),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
)


def upgrade() -> None:
    """Make the tables."""
    _NEW.create_all(op.get_bind())

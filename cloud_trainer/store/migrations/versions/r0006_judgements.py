"""What judges found of real episodes, beside the labels that people gave."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    """Add the table."""
    new = sa.MetaData()
    sa.Table(
        "judgements",
        new,
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("judge", sa.Text, primary_key=True),
        sa.Column("episode_id", sa.Text, primary_key=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("score", sa.Float, nullable=True),
        sa.Column("frame", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("scene", sa.Text, nullable=False),
        sa.Column("held_out", sa.Boolean, nullable=False),
        sa.Column("judged_ns", sa.BigInteger, nullable=False),
        sa.Column("settled_by", sa.Text, nullable=False),
        sa.Index("judgements_by_episode", "tenant", "episode_id"),
        sa.Index("judgements_by_place", "tenant", "judge", "task", "scene"),
    )
    new.create_all(op.get_bind())

"""The tables, as they are now; cloud_trainer.store.migrations says how older ones come here."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
_TEXT, _BIG = sa.Text, sa.BigInteger

COUNTERS = sa.Table(
    "counters", METADATA, sa.Column("name", _TEXT, primary_key=True), sa.Column("value", _BIG, nullable=False)
)
EPISODES = sa.Table(
    "episodes",
    METADATA,
    sa.Column("sequence", _BIG, primary_key=True, autoincrement=False),
    sa.Column("tenant", _TEXT, nullable=False),
    sa.Column("episode_id", _TEXT, nullable=False),
    sa.Column("robot", _TEXT, nullable=False),
    sa.Column("digest", _TEXT, nullable=False),
    sa.Column("size", _BIG, nullable=False),
    sa.Column("received_ns", _BIG, nullable=False),
    sa.Column("state", _TEXT, nullable=False),
    sa.Column("reason", _TEXT, nullable=False),
    sa.Column("instruction", _TEXT, nullable=False),
    sa.Column("outcome", _TEXT, nullable=False),
    sa.Column("labelled_by", _TEXT, nullable=False),
    sa.Column("steps", _BIG, nullable=False),
    sa.Column("policy_version", _TEXT, nullable=False),
    sa.Column("metadata", _TEXT, nullable=False),
    sa.UniqueConstraint("tenant", "episode_id"),
    sa.Index("episodes_by_state", "state", "sequence"),
    sa.Index("episodes_by_digest", "tenant", "digest"),
    sa.Index("episodes_by_robot", "tenant", "robot", "sequence"),
    sa.Index("episodes_by_instruction", "tenant", "instruction", "sequence"),
)
USAGE = sa.Table(
    "usage",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("episodes", _BIG, nullable=False),
    sa.Column("bytes", _BIG, nullable=False),
)
CHECKPOINTS = sa.Table(
    "checkpoints",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("checkpoint_id", _TEXT, primary_key=True),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("manifest", sa.LargeBinary, nullable=False),
    sa.Column("weights_digest", _TEXT, nullable=False),
    sa.Column("weights_size", _BIG, nullable=False),
    sa.Column("published_ns", _BIG, nullable=False),
    sa.Index("checkpoints_by_time", "tenant", "published_ns"),
)
RELEASES = sa.Table(
    "releases",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("sequence", _BIG, primary_key=True, autoincrement=False),
    sa.Column("checkpoint_id", _TEXT, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("key_id", _TEXT, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("job_id", _TEXT, primary_key=True),
    sa.Column("tenant", _TEXT, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("spec", _TEXT, nullable=False),
    sa.Column("idempotency_key", _TEXT, nullable=False),
    sa.Column("state", _TEXT, nullable=False),
    sa.Column("submitted_by", _TEXT, nullable=False),
    sa.Column("result", _TEXT, nullable=False),
    sa.Column("error", _TEXT, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("created_ns", _BIG, nullable=False),
    sa.Column("last_event", _BIG, nullable=False),
    sa.Column("attempts", _BIG, nullable=False),
    sa.Column("worker", _TEXT, nullable=False),
    sa.Column("lease_until_ns", _BIG, nullable=False),
    sa.UniqueConstraint("tenant", "idempotency_key"),
    sa.Index("jobs_by_state", "state", "created_ns"),
)
JOB_EVENTS = sa.Table(
    "job_events",
    METADATA,
    sa.Column("job_id", _TEXT, primary_key=True),
    sa.Column("sequence", _BIG, primary_key=True, autoincrement=False),
    sa.Column("time_ns", _BIG, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("data", _TEXT, nullable=False),
)
RECORDS = sa.Table(
    "records",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
    sa.Column("id", _TEXT, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("payload", _TEXT, nullable=False),
    sa.Column("parents", sa.LargeBinary, nullable=False),
    sa.Column("roles", sa.LargeBinary, nullable=False),
    sa.Column("parent_links", sa.LargeBinary, nullable=False),
    sa.Column("link", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
    sa.Column("replaced_by", _BIG),
    sa.Index(
        "records_by_id",
        "tenant",
        "id",
        unique=True,
        sqlite_where=sa.text("replaced_by IS NULL"),
        postgresql_where=sa.text("replaced_by IS NULL"),
    ),
    sa.Index(
        "records_replaced",
        "tenant",
        "replaced_by",
        sqlite_where=sa.text("replaced_by IS NOT NULL"),
        postgresql_where=sa.text("replaced_by IS NOT NULL"),
    ),
    sa.Index(
        "records_retractions",
        "tenant",
        "seq",
        sqlite_where=sa.text("kind = 'retraction'"),
        postgresql_where=sa.text("kind = 'retraction'"),
    ),
)
"""The nodes of provenance; see cloud_trainer.records.graph.

replaced_by is of a placeholder ("external": what was named before it came) the number of what has come since.
"""
RECORD_EDGES = sa.Table(
    "record_edges",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("parent", _BIG, primary_key=True, autoincrement=False),
    sa.Column("child", _BIG, primary_key=True, autoincrement=False),
    sa.Column("role", _TEXT, primary_key=True),
    sqlite_with_rowid=False,
)
"""What a record's row says of its parents, once more in the other direction; of a placeholder's, what replaced it."""
RECORD_ROLES = sa.Table(
    "record_roles",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("code", _BIG, primary_key=True, autoincrement=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.UniqueConstraint("tenant", "name"),
)
ENTRIES = sa.Table(
    "entries",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("chain", _TEXT, primary_key=True),
    sa.Column("sequence", _BIG, primary_key=True, autoincrement=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("data", _TEXT, nullable=False),
    sa.Column("previous", _TEXT, nullable=False),
    sa.Column("hash", _TEXT, nullable=False),
)
"""Hash-linked entries (cloud_trainer.records.chain): of each tenant the log of actions, and the calibration ledger."""
PAGES = sa.Table(
    "pages",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("page_id", _TEXT, primary_key=True),
    sa.Column("robot", _TEXT, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("text", _TEXT, nullable=False),
    sa.Column("detail", _TEXT, nullable=False),
    sa.Column("at_ns", _BIG, nullable=False),
    sa.Column("received_ns", _BIG, nullable=False),
    sa.Column("joined", _TEXT, nullable=False),
    sa.Column("count", _BIG, nullable=False),
    sa.Column("latest_ns", _BIG, nullable=False),
    sa.Column("over_ns", _BIG, nullable=False),
    sa.Column("round", _BIG, nullable=False),
    sa.Column("remind_ns", _BIG, nullable=False),
    sa.Column("acknowledged_by", _TEXT, nullable=False),
    sa.Column("acknowledged_ns", _BIG, nullable=False),
    sa.Column("note", _TEXT, nullable=False),
    sa.Index("pages_open", "acknowledged_ns", "joined", "remind_ns"),
    sa.Index("pages_by_time", "tenant", "joined", "latest_ns"),
)
"""Calls for a person (cloud_trainer.store.sql_pages); one that joined an open call of its kind names that one."""
PAGE_MESSAGES = sa.Table(
    "page_messages",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("page_id", _TEXT, primary_key=True),
    sa.Column("receiver", _TEXT, primary_key=True),
    sa.Column("round", _BIG, primary_key=True, autoincrement=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("due_ns", _BIG, nullable=False),
    sa.Column("attempts", _BIG, nullable=False),
    sa.Column("sent_ns", _BIG, nullable=False),
    sa.Column("error", _TEXT, nullable=False),
    sa.Index("page_messages_waiting", "receiver", "sent_ns", "due_ns"),
)
"""What a receiver gets, or got, of a call: one row a round; sent_ns is 0 while it waits."""
JUDGEMENTS = sa.Table(
    "judgements",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("judge", _TEXT, primary_key=True),
    sa.Column("episode_id", _TEXT, primary_key=True),
    sa.Column("outcome", _TEXT, nullable=False),
    sa.Column("score", sa.Float, nullable=True),
    sa.Column("frame", _BIG, nullable=False),
    sa.Column("reason", _TEXT, nullable=False),
    sa.Column("task", _TEXT, nullable=False),
    sa.Column("scene", _TEXT, nullable=False),
    sa.Column("held_out", sa.Boolean, nullable=False),
    sa.Column("judged_ns", _BIG, nullable=False),
    sa.Column("settled_by", _TEXT, nullable=False),
    sa.Index("judgements_by_episode", "tenant", "episode_id"),
    sa.Index("judgements_by_place", "tenant", "judge", "task", "scene"),
)
"""What judges found of real episodes, proven there or not (cloud_trainer.store.judgements).

held_out is false where the judge learned from the episode, which then proves nothing. settled_by is of the person who
labelled the episode with that before them; empty where nobody has.
"""
QUEUE_ENTRIES = sa.Table(
    "queue_entries",
    METADATA,
    sa.Column("entry_id", _TEXT, primary_key=True),
    sa.Column("tenant", _TEXT, nullable=False),
    sa.Column("key", _TEXT, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("flow", _TEXT, nullable=False),
    sa.Column("what", _TEXT, nullable=False),
    sa.Column("robots", _TEXT, nullable=False),
    sa.Column("spec", _TEXT, nullable=False),
    sa.Column("priority", _BIG, nullable=False),
    sa.Column("place", _BIG, nullable=False),
    sa.Column("asked_by", _TEXT, nullable=False),
    sa.Column("state", _TEXT, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("reason", _TEXT, nullable=False),
    sa.Column("done", _BIG, nullable=False),
    sa.Column("total", _BIG, nullable=False),
    sa.Column("result", _TEXT, nullable=False),
    sa.Column("created_ns", _BIG, nullable=False),
    sa.Column("since_ns", _BIG, nullable=False),
    sa.Column("ended_ns", _BIG, nullable=False),
    sa.UniqueConstraint("tenant", "key"),
    sa.Index("queue_entries_by_state", "tenant", "state", "ended_ns"),
)
"""What robots shall do; see cloud_trainer.store.sql_queue."""
QUEUE_STARTS = sa.Table(
    "queue_starts",
    METADATA,
    sa.Column("entry_id", _TEXT, primary_key=True),
    sa.Column("task", _TEXT, primary_key=True),
    sa.Column("seed", _BIG, primary_key=True, autoincrement=False),
    sa.Column("robot", _TEXT, nullable=False),
    sa.Column("success", sa.Boolean),
    sa.Column("episode_id", _TEXT, nullable=False),
    sa.Column("labelled_by", _TEXT, nullable=False),
    sa.Column("cut", _TEXT, nullable=False),
    sa.Column("at_ns", _BIG, nullable=False),
)
"""The episodes of an entry that are there, one a task and start state."""
QUEUE_PORTIONS = sa.Table(
    "queue_portions",
    METADATA,
    sa.Column("portion_id", _TEXT, primary_key=True),
    sa.Column("tenant", _TEXT, nullable=False),
    sa.Column("robot", _TEXT, nullable=False),
    sa.Column("entry_id", _TEXT, nullable=False),
    sa.Column("attempt", _BIG, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("spec", _TEXT, nullable=False),
    sa.Column("given_ns", _BIG, nullable=False),
    sa.UniqueConstraint("tenant", "robot"),
)
"""What each robot was given to do and has not ended."""
QUEUE_PAUSES = sa.Table(
    "queue_pauses",
    METADATA,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("robot", _TEXT, primary_key=True),
    sa.Column("paused_by", _TEXT, nullable=False),
    sa.Column("reason", _TEXT, nullable=False),
    sa.Column("at_ns", _BIG, nullable=False),
)
"""Robots whose whole queue rests."""

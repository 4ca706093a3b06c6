"""The catalogue in SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, Protocol

import sqlalchemy as sa

from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import (
    AddResult,
    CheckpointRow,
    EpisodeChange,
    EpisodeRow,
    ReleaseRow,
    Usage,
)
from cloud_trainer.store.tables import CHECKPOINTS, EPISODES, RELEASES, USAGE
from gymnast_core.wire.errors import IdReusedError, NotFoundError

# What every episode asks, built once: building a statement costs SQLAlchemy more than running it costs SQLite.
_ONE = sa.select(EPISODES).where(
    (EPISODES.c.tenant == sa.bindparam("tenant")) & (EPISODES.c.episode_id == sa.bindparam("episode_id"))
)
_KNOWN = sa.select(EPISODES.c.tenant, EPISODES.c.episode_id, EPISODES.c.digest).where(
    (EPISODES.c.tenant == sa.bindparam("tenant")) & EPISODES.c.episode_id.in_(sa.bindparam("ids", expanding=True))
)
_ADD = sa.insert(EPISODES)
_USED = sa.select(USAGE.c.episodes, USAGE.c.bytes).where(USAGE.c.tenant == sa.bindparam("tenant"))
_USE = (
    sa.update(USAGE)
    .where(USAGE.c.tenant == sa.bindparam("who"))
    .values(episodes=USAGE.c.episodes + sa.bindparam("count"), bytes=USAGE.c.bytes + sa.bindparam("size"))
)
_CHANGEABLE = ("state", "reason", "instruction", "outcome", "labelled_by", "steps", "policy_version", "metadata")
_CHANGE = (
    sa.update(EPISODES)
    .where((EPISODES.c.tenant == sa.bindparam("whose")) & (EPISODES.c.episode_id == sa.bindparam("which")))
    .values({name: sa.bindparam(name) for name in _CHANGEABLE})
)


class Witness(Protocol):
    """Hears of every change of the catalogue in the transaction that makes it; what it raises undoes the change."""

    def added(self, rows: Sequence[EpisodeRow]) -> None:
        """Episodes were committed."""
        ...

    def changed(self, before: EpisodeRow, after: EpisodeRow) -> None:
        """An episode's state, label or description changed."""
        ...

    def coming(self, row: CheckpointRow) -> None:
        """A checkpoint is about to be registered; what takes long may be done now, outside the transaction."""
        ...

    def published(self, row: CheckpointRow) -> None:
        """A checkpoint was registered."""
        ...


class SqlMetaStore:
    """A MetaStore on SQLite or PostgreSQL.

    Args:
        database: of the trainer.
        witness: hears of every change; None where nothing is recorded of what was made from what.
    """

    def __init__(self, database: Database, witness: Witness | None = None) -> None:
        self._database, self._witness = database, witness

    def add_episodes(self, rows: Sequence[EpisodeRow]) -> list[AddResult]:
        """See MetaStore."""
        if not rows:
            return []
        results: list[AddResult] = []
        with self._database.transaction() as connection:
            last = self._database.next_number(connection, "episode", len(rows))  # first: it makes writers take turns
            known = self._digests(connection, rows)
            fresh: list[EpisodeRow] = []
            for sequence, row in enumerate(rows, last - len(rows) + 1):
                digest = known.get((row.tenant, row.episode_id))
                if digest is None:
                    known[row.tenant, row.episode_id] = row.digest
                    fresh.append(replace(row, sequence=sequence))
                results.append("added" if digest is None else "duplicate" if digest == row.digest else "conflict")
            self._insert(connection, fresh)
        return results

    def _digests(self, connection: sa.Connection, rows: Sequence[EpisodeRow]) -> dict[tuple[str, str], str]:
        """What is known under these ids."""
        known: dict[tuple[str, str], str] = {}
        for tenant in {row.tenant for row in rows}:
            ids = list({row.episode_id for row in rows if row.tenant == tenant})
            found = connection.execute(_KNOWN, {"tenant": tenant, "ids": ids})
            known |= {(owner, episode_id): digest for owner, episode_id, digest in found}
        return known

    def _insert(self, connection: sa.Connection, rows: Sequence[EpisodeRow]) -> None:
        if not rows:
            return
        connection.execute(_ADD, [_episode_values(row) for row in rows])
        if self._witness is not None:
            self._witness.added(rows)
        for tenant in {row.tenant for row in rows}:
            sizes = [row.size for row in rows if row.tenant == tenant]
            more = {"who": tenant, "count": len(sizes), "size": sum(sizes)}
            if not connection.execute(_USE, more).rowcount:  # the tenant's first
                self._database.insert_new(connection, USAGE, {"tenant": tenant, "episodes": 0, "bytes": 0})
                connection.execute(_USE, more)

    def episode(self, tenant: str, episode_id: str) -> EpisodeRow | None:
        """See MetaStore."""
        with self._database.transaction() as connection:
            row = connection.execute(_ONE, {"tenant": tenant, "episode_id": episode_id}).mappings().first()
        return _episode(row) if row else None

    def episodes(
        self,
        tenant: str | None,
        *,
        after: int = 0,
        limit: int = 1000,
        states: Sequence[str] | None = None,
        robot: str | None = None,
        instruction: str | None = None,
    ) -> list[EpisodeRow]:
        """See MetaStore."""
        query = sa.select(EPISODES).where(EPISODES.c.sequence > after).order_by(EPISODES.c.sequence).limit(limit)
        for column, value in (("tenant", tenant), ("robot", robot), ("instruction", instruction)):
            if value is not None:
                query = query.where(EPISODES.c[column] == value)
        if states is not None:
            query = query.where(EPISODES.c.state.in_(list(states)))
        with self._database.transaction() as connection:
            return [_episode(row) for row in connection.execute(query).mappings()]

    def waiting(self, each: int) -> list[EpisodeRow]:
        """See MetaStore."""
        place = sa.func.row_number().over(
            partition_by=(EPISODES.c.tenant, EPISODES.c.robot), order_by=EPISODES.c.sequence
        )
        placed = sa.select(EPISODES, place.label("place")).where(EPISODES.c.state == "committed").subquery()
        columns = [placed.c[column.name] for column in EPISODES.columns]
        query = sa.select(*columns).where(placed.c.place <= each).order_by(placed.c.sequence)
        with self._database.transaction() as connection:
            return [_episode(row) for row in connection.execute(query).mappings()]

    def change_episode(self, tenant: str, episode_id: str, change: EpisodeChange) -> tuple[EpisodeRow, EpisodeRow]:
        """See MetaStore."""
        one = {"tenant": tenant, "episode_id": episode_id}
        query = _ONE if self._database.is_sqlite else _ONE.with_for_update()  # SQLite has one writer at a time anyway
        with self._database.transaction() as connection:
            found = connection.execute(query, one).mappings().first()
            if found is None:
                raise NotFoundError(f"there is no episode {episode_id[:80]!r} here; look for it in the list")
            before = _episode(found)
            changed = change(before)
            after = replace(before, **{name: getattr(changed, name) for name in _CHANGEABLE})
            if after != before:
                values = {name: value for name, value in _episode_values(after).items() if name in _CHANGEABLE}
                connection.execute(_CHANGE, {"whose": tenant, "which": episode_id, **values})
                if self._witness is not None:
                    self._witness.changed(before, after)
        return before, after

    def names_blob(self, tenant: str, digest: str, robot: str | None = None) -> bool:
        """See MetaStore."""
        episodes = sa.select(EPISODES.c.sequence).where((EPISODES.c.tenant == tenant) & (EPISODES.c.digest == digest))
        weights = (CHECKPOINTS.c.tenant == tenant) & (CHECKPOINTS.c.weights_digest == digest)
        with self._database.transaction() as connection:
            if robot is not None:
                return connection.execute(episodes.where(EPISODES.c.robot == robot).limit(1)).first() is not None
            if connection.execute(episodes.limit(1)).first() is not None:
                return True
            return connection.execute(sa.select(CHECKPOINTS.c.tenant).where(weights).limit(1)).first() is not None

    def usage(self, tenant: str) -> Usage:
        """See MetaStore."""
        with self._database.transaction() as connection:
            row = connection.execute(_USED, {"tenant": tenant}).first()
        return Usage(*row) if row else Usage(0, 0)

    def prepare_checkpoint(self, row: CheckpointRow) -> None:
        """See MetaStore."""
        if self._witness is not None:
            self._witness.coming(row)

    def add_checkpoint(self, row: CheckpointRow) -> bool:
        """See MetaStore."""
        with self._database.transaction() as connection:
            if self._database.insert_new(connection, CHECKPOINTS, asdict(row)):
                if self._witness is not None:
                    self._witness.published(row)
                return True
            same = (CHECKPOINTS.c.tenant == row.tenant) & (CHECKPOINTS.c.checkpoint_id == row.checkpoint_id)
            known = connection.execute(sa.select(CHECKPOINTS.c.weights_digest).where(same)).scalar_one()
        if known != row.weights_digest:
            raise IdReusedError(f"checkpoint {row.checkpoint_id} exists with weights {known}, not {row.weights_digest}")
        return False

    def checkpoint(self, tenant: str, checkpoint_id: str) -> CheckpointRow | None:
        """See MetaStore."""
        same = (CHECKPOINTS.c.tenant == tenant) & (CHECKPOINTS.c.checkpoint_id == checkpoint_id)
        query = sa.select(CHECKPOINTS).where(same)
        with self._database.transaction() as connection:
            row = connection.execute(query).mappings().first()
        return CheckpointRow(**{**row, "manifest": bytes(row["manifest"])}) if row else None

    def checkpoints(self, tenant: str, kind: str | None = None, limit: int = 1000) -> list[CheckpointRow]:
        """See MetaStore."""
        query = (
            sa.select(CHECKPOINTS)
            .where(CHECKPOINTS.c.tenant == tenant)
            .order_by(CHECKPOINTS.c.published_ns.desc())
            .limit(limit)
        )
        if kind is not None:
            query = query.where(CHECKPOINTS.c.kind == kind)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [CheckpointRow(**{**row, "manifest": bytes(row["manifest"])}) for row in rows]

    def add_release(self, sign: Callable[[int], ReleaseRow]) -> ReleaseRow:
        """See MetaStore."""
        with self._database.transaction() as connection:
            row = sign(self._database.next_number(connection, "release"))
            connection.execute(sa.insert(RELEASES).values(asdict(row)))
        return row

    def newest_release(self, tenant: str) -> int:
        """See MetaStore."""
        with self._database.transaction() as connection:
            newest = sa.select(sa.func.max(RELEASES.c.sequence)).where(RELEASES.c.tenant == tenant)
            return int(connection.execute(newest).scalar() or 0)

    def releases(self, tenant: str, after: int = 0, limit: int = 1000) -> list[ReleaseRow]:
        """See MetaStore."""
        query = sa.select(RELEASES).where((RELEASES.c.tenant == tenant) & (RELEASES.c.sequence > after))
        query = query.order_by(RELEASES.c.sequence).limit(limit)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            ReleaseRow(**{**row, "payload": bytes(row["payload"]), "signature": bytes(row["signature"])})
            for row in rows
        ]

    def transaction(self) -> AbstractContextManager[object]:
        """See MetaStore."""
        return self._database.transaction()

    def after_commit(self, call: Callable[[], None]) -> None:
        """See MetaStore."""
        self._database.after_commit(call)

    def close(self) -> None:
        """See MetaStore."""
        self._database.close()


def _episode_values(row: EpisodeRow) -> dict[str, object]:
    return {**asdict(row), "metadata": json.dumps(dict(row.metadata))}


def _episode(row: Mapping[Any, Any]) -> EpisodeRow:
    return EpisodeRow(**{**row, "metadata": json.loads(row["metadata"])})

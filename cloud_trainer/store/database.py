"""One way to run a transaction, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import StaticPool

from cloud_trainer.store.schema import bring_up_to_date, revision_of
from cloud_trainer.store.tables import COUNTERS, EPISODES, METADATA
from gymnast_core.errors import ConfigError, DiskFullError, StorageError
from gymnast_core.wire.errors import InvalidMessageError

_LOST = (
    "there is no database, but {kept}: it was lost; restore it from a backup, or, to begin with no episode, checkpoint "
    "and job at all, move the rest of the folder aside"
)
REMEDY = "stop here and restore a backup; `gymnast doctor --folder FOLDER` shows all that is wrong"
_COUNT = (
    sa.update(COUNTERS)
    .where(COUNTERS.c.name == sa.bindparam("counter"))
    .values(value=COUNTERS.c.value + sa.bindparam("more"))
    .returning(COUNTERS.c.value)
)


class _Ambient(threading.local):
    """The transaction a thread is in, and what happens at its end."""

    def __init__(self) -> None:
        self.connection: sa.Connection | None = None
        self.committed: list[Callable[[], None]] = []
        self.undone: list[Callable[[], None]] = []


class Database:
    """A SQLAlchemy engine and its transactions.

    SQLite gets one connection, used by one thread at a time: versions 3.7.0 to 3.51.2 may lose a write-ahead log that
    two connections reset (sqlite.org, "The WAL-Reset Bug"). Every commit is flushed (synchronous FULL).

    Args:
        url: "sqlite:///path/to/file.db" or "postgresql://user@host/database".
        kept: what else of this database's trainer is there; a database that holds nothing is then one that was lost.

    Raises:
        ConfigError: it is no such URL, or what speaks to PostgreSQL is not installed.
        StorageError: it is not reached, is damaged, lost, none of ours, or of a schema this version does not know; the
            message names what, and the remedy.
    """

    def __init__(self, url: str, *, kept: str = "") -> None:
        url = checked_url(url)
        self.is_sqlite = url.startswith("sqlite")
        self._lock = threading.RLock()
        self._ambient = _Ambient()
        self._closed = False
        if self.is_sqlite:
            self._engine = sa.create_engine(
                url, poolclass=StaticPool, connect_args={"check_same_thread": False, "isolation_level": None}
            )
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        else:
            self._engine = sa.create_engine(url, pool_size=8, max_overflow=8, pool_pre_ping=True)
        try:
            if kept and self.is_sqlite and not Path(self._engine.url.database or "").is_file():
                raise StorageError(_LOST.format(kept=kept))  # before SQLite makes an empty one
            with self._engine.begin() as connection:
                self._require_sound(connection, kept)
                bring_up_to_date(connection, METADATA)
        except sa.exc.SQLAlchemyError as error:
            self._engine.dispose()
            remedy = REMEDY if self.is_sqlite else "is it running, and may this account use it?"
            raise StorageError(f"cannot open the database {sa.make_url(url)!r}: {error}; {remedy}") from error
        except StorageError as error:
            self._engine.dispose()
            raise StorageError(f"{sa.make_url(url)!r}: {error}") from error

    def _require_sound(self, connection: sa.Connection, kept: str) -> None:
        if kept and revision_of(connection) is None:
            raise StorageError(_LOST.format(kept=kept))
        damage = damage_of(connection) if revision_of(connection) is not None else []
        if damage:
            raise StorageError(f"the database is damaged: {'; '.join(damage[:3])}; {REMEDY}")

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All or nothing, durable at the end; inside one that this thread has begun, a part of that one.

        Raises:
            InvalidMessageError: a value is none that a database can hold; nothing was changed.
            StorageError: the database failed; nothing was changed.
        """
        ambient = self._ambient
        if ambient.connection is not None:
            with _errors_of_ours():
                yield ambient.connection
            return
        with self._lock if self.is_sqlite else contextlib.nullcontext():
            if self._closed:
                raise StorageError("the database is closed: the service is stopping; ask again when it is up")
            try:
                with _errors_of_ours(), self._engine.begin() as connection:
                    ambient.connection = connection
                    try:
                        yield connection
                    except BaseException:
                        self._undo()  # before the locks of the transaction are free
                        raise
            except BaseException:
                self._undo()
                raise
            finally:
                ambient.connection = None
                done, ambient.committed, ambient.undone = ambient.committed, [], []
        for call in done:
            call()

    def _undo(self) -> None:
        undone, self._ambient.undone, self._ambient.committed = self._ambient.undone, [], []
        for call in undone:
            call()

    @property
    def in_transaction(self) -> bool:
        """Whether this thread is inside a transaction."""
        return self._ambient.connection is not None

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call something once what this thread has written is durable; at once where it is in no transaction."""
        if self.in_transaction:
            self._ambient.committed.append(call)
        else:
            call()

    def on_rollback(self, call: Callable[[], None]) -> None:
        """Call something if the transaction that this thread is in comes to nothing, before others see that."""
        self._ambient.undone.append(call)

    def insert_new(self, connection: sa.Connection, table: sa.Table, values: dict[str, object]) -> bool:
        """Insert a row unless it would break a unique constraint; False when it is there already."""
        insert = sqlite.insert if self.is_sqlite else postgresql.insert
        key = next(iter(table.primary_key.columns))
        added = insert(table).values(values).on_conflict_do_nothing().returning(key)
        return connection.execute(added).first() is not None

    def insert_many(self, connection: sa.Connection, table: sa.Table, rows: list[tuple[Any, ...]]) -> None:
        """Insert rows whose values are in the order of the columns, at the speed of the driver."""
        if rows:
            names = ", ".join(column.name for column in table.columns)
            marks = ", ".join(["?" if self.is_sqlite else "%s"] * len(table.columns))
            connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", rows)

    def next_number(self, connection: sa.Connection, name: str, count: int = 1) -> int:
        """Count up by some and return the last; PostgreSQL locks the row until the commit: writers take turns here.

        Counting up by none returns the last number so far, and takes one's turn.
        """
        counted = connection.execute(_COUNT, {"counter": name, "more": count}).scalar_one_or_none()
        if counted is None:  # the first of its kind
            self.insert_new(connection, COUNTERS, {"name": name, "value": 0})
            counted = connection.execute(_COUNT, {"counter": name, "more": count}).scalar_one()
        return int(counted)

    def close(self) -> None:
        """Free connections, once nobody uses the one of SQLite; later transactions are refused. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._engine.dispose()


@contextmanager
def _errors_of_ours() -> Iterator[None]:
    """Give what SQLAlchemy raises a name of ours."""
    try:
        yield
    except (sa.exc.DataError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidMessageError(f"a number or text that cannot be stored: {error}"[:500]) from error
    except sa.exc.SQLAlchemyError as error:
        kind = DiskFullError if _is_full(error) else StorageError
        raise kind(f"database: {error}; nothing of it was written") from error


def damage_of(connection: sa.Connection, *, thorough: bool = False) -> list[str]:
    """What is wrong inside a database, as far as it can be known from itself; empty for a sound one.

    Args:
        connection: to it.
        thorough: compare every index with its table, too (SQLite); takes about a second for 100 MB.
    """
    found = []
    if connection.dialect.name == "sqlite":
        check = "integrity_check" if thorough else "quick_check"
        found = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA {check}(5)") if row[0] != "ok"]
    if "episodes" in sa.inspect(connection).get_table_names():
        known = EPISODES.c.state.in_(("committed", "valid", "quarantined"))
        senseless = (sa.func.length(EPISODES.c.digest) != 64) | ~known
        if connection.dialect.name == "sqlite":
            senseless = senseless | (sa.func.json_valid(EPISODES.c.metadata) == 0)
        rows = connection.execute(sa.select(EPISODES.c.episode_id).where(senseless).limit(5)).scalars()
        found += [f"the row of episode {str(name)[:80]!a} makes no sense" for name in rows]
    return found


def _is_full(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether there is no space: SQLite's error by name or, in Python 3.10, by text; PostgreSQL's by SQLSTATE 53100."""
    cause = getattr(error, "orig", None)
    named = getattr(cause, "sqlite_errorname", "") or getattr(cause, "sqlstate", "")
    return named in ("SQLITE_FULL", "53100") or str(cause) == "database or disk is full"


def checked_url(url: str) -> str:
    """Return a database URL with the driver that is shipped.

    Raises:
        ConfigError: it is none, or its driver is not installed; no password is shown.
    """
    try:
        parts = sa.make_url(url)
        if parts.drivername in ("postgresql", "postgres"):
            parts = parts.set(drivername="postgresql+psycopg")
        if parts.drivername not in ("sqlite", "postgresql+psycopg"):
            raise ConfigError(
                f"a database of kind {parts.drivername!r} is not kept; give postgresql://user@host/database"
            )
        parts.get_dialect().import_dbapi()
    except sa.exc.ArgumentError as error:
        raise ConfigError("the database URL is none; write postgresql://user@host/database") from error
    except ImportError as error:
        raise ConfigError(f"{error}: PostgreSQL needs pip install 'gymnast_ros[postgres]'") from error
    return parts.render_as_string(hide_password=False)


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}").close()

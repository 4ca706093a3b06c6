"""Which schema a database has, and how it comes to have this version's (Alembic; see migrations/)."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from gymnast_core.errors import StorageError

HEAD = "0006"
"""The newest revision in migrations/versions: what this version reads and writes."""
_BEFORE = "before 0001"
_LAST_NUMBER = 2
"""Of the schemas that were numbered in the table counters, before Alembic."""
_ONE_AT_A_TIME = threading.Lock()


def bring_up_to_date(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Make an empty database ours, or bring one of an older version up to date, in the caller's transaction.

    Args:
        connection: in a transaction.
        metadata: the tables as they shall be.

    Raises:
        StorageError: a newer version wrote it, or one that is older than any this one converts.
    """
    require_readable(connection)
    found = revision_of(connection)
    if found is None:
        metadata.create_all(connection)
        _stamp(connection)
    elif found != HEAD:
        _upgrade(connection)
    _require_columns(connection, metadata)


def revision_of(connection: sa.Connection) -> str | None:
    """The revision of a database: "before 0001" for one from before there were any, None where it holds nothing."""
    tables = sa.inspect(connection).get_table_names()
    if "alembic_version" in tables:
        return str(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar())
    return _BEFORE if {"counters", "episodes"} & set(tables) else None


def require_readable(connection: sa.Connection) -> None:
    """Return if this version knows what is in a database.

    Raises:
        StorageError: it was written by a newer one.
    """
    found, newer = revision_of(connection), False
    if found == _BEFORE and "counters" in sa.inspect(connection).get_table_names():
        number = connection.execute(sa.text("SELECT value FROM counters WHERE name = 'schema'")).scalar()
        newer = int(number or 0) > _LAST_NUMBER
    elif found not in (None, _BEFORE):
        newer = found not in _known()
    if newer:
        raise StorageError(
            f"the database has schema {found}, this gymnast reads up to {HEAD}: it was written by a newer one; start "
            "that one (pip install -U), or restore the backup made before it"
        )


def unknown_columns(connection: sa.Connection, metadata: sa.MetaData) -> list[str]:
    """What of the tables is not as it shall be: table.column with + for one too many and - for one that is missing."""
    found, tables = [], set(sa.inspect(connection).get_table_names())
    for table in metadata.sorted_tables:
        columns = sa.inspect(connection).get_columns(table.name) if table.name in tables else []
        there = {column["name"] for column in columns}
        wanted = {column.name for column in table.columns}
        found += [f"-{table.name}.{name}" for name in sorted(wanted - there)]
        found += [f"+{table.name}.{name}" for name in sorted(there - wanted)]
    return found


def _require_columns(connection: sa.Connection, metadata: sa.MetaData) -> None:
    if found := unknown_columns(connection, metadata):
        newer = all(name.startswith("+") for name in found)
        writer = "a newer gymnast: start that one" if newer else "one that is older than any this one converts"
        raise StorageError(
            f"the database is not of schema {HEAD}: {', '.join(found[:8])} (- is missing, + is unknown); it was "
            f"written by {writer}, or restore a backup; `gymnast doctor --folder FOLDER` shows more"
        )


def _known() -> set[str]:
    """Every revision that this version has a migration for."""
    return {path.stem.removeprefix("r").partition("_")[0] for path in (_scripts() / "versions").glob("r[0-9]*.py")}


def _scripts() -> Path:
    return Path(__file__).parent / "migrations"


def _stamp(connection: sa.Connection) -> None:
    """Note the newest revision where Alembic and, in counters, where a version from before Alembic looks for it."""
    stamp = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
    stamp.create(connection)
    connection.execute(sa.insert(stamp).values(version_num=HEAD))
    connection.execute(sa.text("INSERT INTO counters (name, value) VALUES ('schema', 3)"))


def _upgrade(connection: sa.Connection) -> None:
    """Run Alembic up to the newest revision; it keeps what it works on in a global."""
    import alembic.command  # not needed by a start that changes nothing
    import alembic.config

    config = alembic.config.Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        alembic.command.upgrade(config, HEAD)

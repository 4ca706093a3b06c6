"""What the version before kept in files beside the database: taken in once, at the first start; nothing is lost.

These were, of each tenant, provenance.db (the graph), actions.jsonl (the log) and console/ledger.jsonl. Links, hashes
and heads stay what they were. The files are moved into a folder of their own, and are read from there once more should
somebody put an older database beside them.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from cloud_trainer.records.chain import ACTIONS, LEDGER, row_of
from cloud_trainer.records.chain import counter_of as entries_of
from cloud_trainer.records.graph_check import counter_of as records_of
from cloud_trainer.records.recorder import Recorder, parents_first
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import MetaStore
from cloud_trainer.store.tables import CHECKPOINTS, ENTRIES, EPISODES, RECORD_EDGES, RECORD_ROLES, RECORDS
from cloud_trainer.store.tenants import DEFAULT_TENANT, tenant_folder
from gymnast_core.episodes.messages import checked_id
from gymnast_core.errors import ContractError, GymnastError, StorageError
from gymnast_core.records.journal import read_chain
from gymnast_core.records.manifest import Manifest

LOG = logging.getLogger(__name__)
_DONE = "brought_in"
_ASIDE = "before-0.2"
_GRAPH = Path("provenance.db")
_CHAINS = {ACTIONS: Path("actions.jsonl"), LEDGER: Path("console/ledger.jsonl")}
_VERSION = 1
_PAGE = 1000
_REMEDY = "restore it from a backup, or move it aside: what the catalogue knows is recorded anew, retractions are not"
_RECORD = "SELECT seq, id, kind, payload, parents, roles, parent_links, link, chain FROM record ORDER BY seq"


def bring_in(folder: Path, database: Database, meta: MetaStore, recorder: Recorder) -> None:
    """Take in what the version before left, in one transaction; does nothing from the second start on.

    Args:
        folder: of the trainer.
        database: of the trainer, up to date.
        meta: its catalogue.
        recorder: of its graphs.

    Raises:
        CorruptError: a log was changed; the message names the file and the line.
        StorageError: a graph is damaged; the message names the remedy.
    """
    with database.transaction() as connection:
        if not database.next_number(connection, _DONE, 0):
            for tenant in _tenants(connection, folder):
                _bring_in(connection, database, tenant, tenant_folder(folder, tenant))
                _complete(tenant, meta, recorder)
            database.next_number(connection, _DONE)
    for home in _homes(folder).values():
        _move_aside(home)


def left_behind(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what the first start will take in, with what is wrong with it; empty for what is sound."""
    try:
        homes = _homes(folder)
    except StorageError as error:
        yield folder, str(error)
        return
    for home in homes.values():
        for name in (_GRAPH, *_CHAINS.values()):
            if (home / name).is_file():
                try:
                    if name == _GRAPH:
                        with _opened(home / name):
                            yield home / name, ""
                    else:
                        read_chain(_whole(home / name), home / name)
                        yield home / name, ""
                except GymnastError as error:
                    yield home / name, str(error)


def _homes(folder: Path) -> dict[str, Path]:
    """The folder of every tenant that has one."""
    others = {path.name: path for path in sorted((folder / "tenants").glob("*")) if path.is_dir() and _is_tenant(path)}
    inside = (home / name for home in (folder, *others.values()) for name in (_ASIDE, "console"))
    for path in (folder / "tenants", *others.values(), *inside):
        if path.is_symlink():
            raise StorageError(f"{path} is a link, which may lead out of the trainer's folder; put there what it names")
    return {DEFAULT_TENANT: folder, **others}


def _is_tenant(path: Path) -> bool:
    """Whether a tenant may be called so; a folder of another name is nobody's, and `gymnast doctor` names it."""
    try:
        return checked_id(path.name, "tenant") == path.name
    except ContractError:
        LOG.warning("folder_of_no_tenant path=%a", str(path))
        return False


def _tenants(connection: sa.Connection, folder: Path) -> list[str]:
    found = dict.fromkeys(_homes(folder))
    for table in (EPISODES, CHECKPOINTS):
        found |= dict.fromkeys(connection.execute(sa.select(table.c.tenant).distinct()).scalars())
    return list(found)


def _bring_in(connection: sa.Connection, database: Database, tenant: str, home: Path) -> None:
    if (path := _place(home, _GRAPH)) is not None:
        with _opened(path) as old:
            last = _copy_graph(database, connection, old, tenant)
        database.next_number(connection, records_of(tenant), last)
    for name, file in _CHAINS.items():
        if (path := _place(home, file)) is not None and (entries := read_chain(_whole(path), path)):
            connection.execute(sa.insert(ENTRIES), [row_of(tenant, name, entry) for entry in entries])
            database.next_number(connection, entries_of(tenant, name), len(entries))


def _copy_graph(database: Database, connection: sa.Connection, old: sqlite3.Connection, tenant: str) -> int:
    """Copy a graph as it is; returns the number of its newest record."""
    last, found = 0, old.execute(_RECORD)
    while page := found.fetchmany(_PAGE):
        database.insert_many(connection, RECORDS, [(tenant, *row, None) for row in page])
        last = page[-1][0]
    found = old.execute("SELECT parent, child, role FROM edge")
    while page := found.fetchmany(_PAGE):
        database.insert_many(connection, RECORD_EDGES, [(tenant, *row) for row in page])
    roles = [(tenant, *row) for row in old.execute("SELECT code, name FROM role")]
    database.insert_many(connection, RECORD_ROLES, roles)
    return last


def _complete(tenant: str, meta: MetaStore, recorder: Recorder) -> None:
    """Record what the catalogue holds and the graph does not: it was a moment behind, or never opened."""
    after = 0
    while page := meta.episodes(tenant, after=after, limit=_PAGE):
        recorder.added(page)
        after = page[-1].sequence
    rows = meta.checkpoints(tenant, limit=1_000_000)
    for manifest in parents_first([Manifest.from_bytes(row.manifest) for row in rows]):
        try:
            recorder.checkpoint(tenant, manifest)
        except GymnastError as error:
            LOG.error("checkpoint_not_recorded checkpoint=%s error=%s", manifest.id, error)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A graph's file, if it is sound.

    Raises:
        StorageError: it is not.
    """
    with contextlib.closing(sqlite3.connect(path)) as old:
        try:
            [(version,)] = old.execute("PRAGMA user_version").fetchall()
            damage = [row[0] for row in old.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
            if version != _VERSION or damage:
                known = f"is of version {version}, not {_VERSION}"
                raise StorageError(f"the provenance graph {path} {'; '.join(damage) or known}; {_REMEDY}")
            yield old
        except sqlite3.Error as error:
            raise StorageError(f"cannot read the provenance graph {path}: {error}; {_REMEDY}") from error


def _place(home: Path, file: Path) -> Path | None:
    """Where a file is: where it was, or aside; None where it is not."""
    return next((path for path in (home / file, home / _ASIDE / file.name) if path.is_file()), None)


def _whole(path: Path) -> bytes:
    """The whole lines of a log: one that a crash cut short was never acknowledged."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def _move_aside(home: Path) -> None:
    for file in (_GRAPH, *_CHAINS.values()):
        if (home / file).is_file():
            (home / _ASIDE).mkdir(exist_ok=True, mode=0o700)
            (home / file).replace(home / _ASIDE / file.name)

"""Looks over a trainer's folder: what is damaged, lost, about to expire or to run out, and what to do about it.

Nothing that is kept is changed. The database is looked into only while no trainer runs: SQLite may lose a log that two
connections reset (cloud_trainer.store.database).
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from cryptography import x509

from cloud_trainer.records.before import left_behind
from cloud_trainer.records.chain import chains_in, read_entries
from cloud_trainer.records.graph_check import damage_in, misnamed_in
from cloud_trainer.service.config import ServiceConfig
from cloud_trainer.service.enroll import days_left
from cloud_trainer.service.lock import FolderLock, holder
from cloud_trainer.service.publish import MOST_RELEASE_BYTES
from cloud_trainer.service.server import database_url, what_is_kept
from cloud_trainer.store import open_blobs
from cloud_trainer.store.database import checked_url, damage_of
from cloud_trainer.store.protocols import BlobStore
from cloud_trainer.store.schema import HEAD, require_readable, revision_of, unknown_columns
from cloud_trainer.store.tables import CHECKPOINTS, EPISODES, METADATA, RECORDS, RELEASES
from gymnast_core.episodes.messages import checked_id
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import ConfigError, ContractError, CorruptError, GymnastError, OccupiedError, StorageError
from gymnast_core.finding import Finding, State

_SOON_DAYS = 30.0
_WEEK_S = 7 * 86_400
_NAMED = 5
_BACKUP = "restore it from a backup"
_OWN = "look where it comes from, and move it out of the folder"


def examine(config: ServiceConfig, *, deep: bool = False) -> Iterator[Finding]:
    """Yield what is found, check by check.

    Args:
        config: of the trainer; only its folder, database, blobs and limits are used.
        deep: read every blob and compare it with its name; takes as long as reading them all.

    Raises:
        ConfigError: the folder is not there, or no trainer's.
        OccupiedError: a trainer runs on it, so that deep cannot be done.
    """
    folder = config.folder
    if not (folder / "ca").is_dir() and not (folder / "store.db").is_file():
        raise ConfigError(f"{folder} is no trainer's folder; name the one given to `gymnast serve --folder`")
    yield from _disk(config)
    yield from _certificates(folder)
    yield from _strange(folder)
    try:
        lock = FolderLock(folder)
    except ConfigError:
        found = f"one runs on {folder}{holder(folder)}, so its database, blobs and graph were not examined"
        remedy = "stop it (Ctrl-C), and run doctor again"
        yield Finding("trainer", "warning", found, remedy)
        if deep:
            raise OccupiedError(
                f"no stored file was read: a trainer runs on {folder}{holder(folder)}; {remedy}"
            ) from None
        return
    try:
        yield from _database(config, deep=deep)
        yield from _left_behind(folder)
        yield from _staging(folder)
    finally:
        lock.release()


def _disk(config: ServiceConfig) -> Iterator[Finding]:
    free, least = shutil.disk_usage(config.folder).free, config.limits.min_free_bytes
    short = free < 4 * least
    remedy = f"free some: below {least} bytes episodes are refused (they wait on the robots)" if short else ""
    yield Finding("disk", "fault" if free < least else "warning" if short else "ok", f"{free} bytes are free", remedy)


def _certificates(folder: Path) -> Iterator[Finding]:
    renewals = {"ca/ca.pem": "make a new authority and enroll everybody anew before that day",
                "server/cert.pem": "restart the trainer, which renews it"}  # fmt: skip
    for name, remedy in renewals.items():
        try:
            left = days_left(_plain_bytes(folder / name))
        except FileNotFoundError:
            lost = name.startswith("ca/") or (folder / "server").is_dir()
            yield Finding("certificates", "fault" if lost else "ok", f"{name} is not there", _BACKUP if lost else "")
            continue
        except (ValueError, OSError) as error:
            yield Finding("certificates", "fault", f"{name} cannot be read: {error}", _BACKUP)
            continue
        state: State = "fault" if left <= 0 else "warning" if left < _SOON_DAYS else "ok"
        said = f"expires in {left:.0f} days" if left > 0 else f"expired {-left:.0f} days ago"
        yield Finding("certificates", state, f"{name} {said}", "" if state == "ok" else remedy)
    for path in sorted((folder / "server").glob("*.pem")) if (folder / "server").is_dir() else []:
        if path.name == "ca.pem" and (folder / "ca" / "ca.pem").is_file() and not _same(path, folder / "ca" / "ca.pem"):
            yield Finding("certificates", "fault", f"{path} is of another authority than ca/ca.pem", _BACKUP)


def _same(one: Path, other: Path) -> bool:
    try:
        first, second = (x509.load_pem_x509_certificate(_plain_bytes(path)) for path in (one, other))
    except (ValueError, OSError):
        return False
    return first == second


def _plain_bytes(path: Path) -> bytes:
    """Read a file; a pipe in its place would never end.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it is no plain file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no plain file")
    return path.read_bytes()


@contextmanager
def _connected(config: ServiceConfig) -> Iterator[sa.Connection]:
    """A connection that changes nothing."""
    if config.database_url is None:
        path = config.folder / "store.db"
        engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(f"file:{path}?mode=ro", uri=True))
    else:
        engine = sa.create_engine(checked_url(config.database_url))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _database(config: ServiceConfig, *, deep: bool) -> Iterator[Finding]:
    if config.database_url is None and not (config.folder / "store.db").is_file():
        kept = what_is_kept(config.folder)
        what = f"store.db is not there; {kept or 'nothing else is, either'}"
        yield Finding("database", "fault" if kept else "ok", what, _BACKUP if kept else "")
        return
    try:
        with _connected(config) as connection:
            if revision_of(connection) is None and (kept := what_is_kept(config.folder)):
                yield Finding("database", "fault", f"it holds nothing, but {kept}", _BACKUP)
                return
            yield from _inside(connection)
            if revision_of(connection) == HEAD and not unknown_columns(connection, METADATA):
                yield from _graphs(connection)
                yield from _logs(connection)
                yield from _releases(connection)
                yield from _blobs(
                    connection, open_blobs(config.blob_url, config.folder, config.blob_options), deep=deep
                )
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        where = sa.make_url(database_url(config))
        yield Finding("database", "fault", f"{where!r} cannot be read: {error}", _BACKUP)


def _inside(connection: sa.Connection) -> Iterator[Finding]:
    damage = damage_of(connection, thorough=True)
    for what in damage:
        yield Finding("database", "fault", what, f"keep the file, {_BACKUP}; `sqlite3 store.db .recover` may save rows")
    if not damage:
        yield Finding("database", "ok", "every page and index fits")
    found = revision_of(connection)
    try:
        require_readable(connection)
    except StorageError as error:
        what, _, remedy = str(error).partition("; ")
        yield Finding("schema", "fault", what, remedy)
        return
    if found != HEAD:
        remedy = "back it up; the next start of the trainer brings it up to date, or refuses it by name"
        yield Finding("schema", "warning", f"it is of schema {found}, now is {HEAD}", remedy)
    elif unknown := unknown_columns(connection, METADATA):
        yield Finding(
            "schema", "fault", f"columns differ (- missing, + unknown): {', '.join(unknown[:_NAMED])}", _BACKUP
        )
    else:
        yield Finding("schema", "ok", f"it is of schema {HEAD}")


def _blobs(connection: sa.Connection, blobs: BlobStore, *, deep: bool) -> Iterator[Finding]:
    """Rows without a file, files without a row, and files that are not what their name says."""
    episodes = {row.digest: f"episode {row.tenant}/{row.episode_id}" for row in connection.execute(
        sa.select(EPISODES.c.tenant, EPISODES.c.episode_id, EPISODES.c.digest))}  # fmt: skip
    weights = {row.weights_digest: f"checkpoint {row.tenant}/{row.checkpoint_id}" for row in connection.execute(
        sa.select(CHECKPOINTS.c.tenant, CHECKPOINTS.c.checkpoint_id, CHECKPOINTS.c.weights_digest))}  # fmt: skip
    releases = [json.loads(payload) for payload in connection.execute(sa.select(RELEASES.c.payload)).scalars()]
    deltas = {delta["digest"]: "a delta" for release in releases for delta in release.get("deltas", ())}
    lineages = {digest: f"the lineage of {release['checkpoint_id']}" for release in releases
                if (digest := release.get("lineage_digest"))}  # fmt: skip
    named, there = {**deltas, **lineages, **weights, **episodes}, set(blobs.digests())
    lost = [what for digest, what in named.items() if digest not in there]
    yield _listed(
        "blobs", "files that rows name are not there", lost, _BACKUP, f"{len(named)} files are where rows say"
    )
    if orphans := there - named.keys():
        size = sum(blobs.size(digest) for digest in orphans)
        yield Finding("blobs", "ok", f"{len(orphans)} files of {size} bytes have no row: left by uploads that were cut")
    if deep:
        bad = [named.get(digest, digest) for digest in sorted(there) if not _is(blobs, digest)]
        yield _listed(
            "blobs", "files are not what their name says", bad, _BACKUP, f"{len(there)} files were read whole"
        )


def _releases(connection: sa.Connection) -> Iterator[Finding]:
    """Releases of an older version that no robot can be sent."""
    size = sa.func.length(RELEASES.c.payload)
    chosen = sa.select(RELEASES.c.tenant, RELEASES.c.sequence, RELEASES.c.checkpoint_id).where(
        size > MOST_RELEASE_BYTES
    )
    found = [f"{row.sequence} of tenant {row.tenant} ({row.checkpoint_id})" for row in connection.execute(chosen)]
    if found:
        what = f"{len(found)} are larger than a message, robots never see them: {', '.join(found[:_NAMED])}"
        yield Finding("releases", "warning", what, "offer or promote those checkpoints again, which makes new ones")


def _is(blobs: BlobStore, digest: str) -> bool:
    try:
        return file_digest(blobs.local_path(digest)) == digest
    except GymnastError:
        return False


def _listed(check: str, what: str, bad: list[str], remedy: str, well: str) -> Finding:
    if not bad:
        return Finding(check, "ok", well)
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return Finding(check, "fault", f"{len(bad)} {what}: {', '.join(bad[:_NAMED])}{more}", remedy)


def _graphs(connection: sa.Connection) -> Iterator[Finding]:
    """What was made from what, of every tenant."""
    for tenant in connection.execute(sa.select(RECORDS.c.tenant).distinct().order_by(RECORDS.c.tenant)).scalars():
        damage = [f"{row.id}: {row.what}" for row in damage_in(connection, tenant)]
        what = f"records of tenant {tenant} are not what was written"
        yield _listed("graph", what, damage, _BACKUP, f"every hash of tenant {tenant}'s provenance fits")
        if misnamed := misnamed_in(connection, tenant):
            named = f"{', '.join(misnamed[:_NAMED])}{' ...' if len(misnamed) > _NAMED else ''}"
            what = f"{len(misnamed)} records of tenant {tenant} bear ids of another kind: {named}"
            remedy = (
                "withdraw those episodes; a checkpoint of such an id is not promoted, publish it with another manifest"
            )
            yield Finding("graph", "warning", what, remedy)


def _logs(connection: sa.Connection) -> Iterator[Finding]:
    """Who did what, and what evaluations were worth, of every tenant."""
    for tenant, name in chains_in(connection):
        try:
            count = len(read_entries(connection, tenant, name))
            yield Finding("log", "ok", f"{count} {name} of tenant {tenant}, every hash fits")
        except CorruptError as error:
            yield Finding("log", "fault", str(error), _BACKUP)


def _strange(folder: Path) -> Iterator[Finding]:
    """What lies where a trainer keeps its files and is none of its own: links, pipes, folders of no tenant's name."""
    wanted = [folder / name for name in ("lock", "store.db", "ca", "server", "tenants", "console")]
    tenants = sorted((folder / "tenants").glob("*")) if (folder / "tenants").is_dir() else []
    homes = [path / "before-0.2" for path in (folder, *tenants)]
    for path in (*wanted, *tenants, *homes, *sorted((folder / "server").glob("*.pem"))):
        if path.is_symlink():
            yield Finding("folder", "fault", f"{path} is a link; it leads out of the trainer's folder", _OWN)
        elif path.exists() and not path.is_file() and not path.is_dir():
            yield Finding("folder", "fault", f"{path} is neither a file nor a folder", _OWN)
    for path in tenants:
        try:
            checked_id(path.name, "tenant")
        except ContractError:
            yield Finding("folder", "warning", f"{path} is the folder of no tenant: none is called so", _OWN)


def _left_behind(folder: Path) -> Iterator[Finding]:
    """Files of the version before, which the next start takes into the database."""
    for path, damage in left_behind(folder):
        if damage:
            yield Finding("before", "fault", damage, f"keep {path.relative_to(folder)}, {_BACKUP}")
        else:
            what = f"{path.relative_to(folder)} is of the version before"
            yield Finding("before", "warning", what, "back it up; the next start takes it into the database")


def _staging(folder: Path) -> Iterator[Finding]:
    old = [path for path in (folder / "staging").rglob("*") if path.is_file()
           and time.time() - path.stat().st_mtime > _WEEK_S]  # fmt: skip
    size = sum(path.stat().st_size for path in old)
    if old:
        yield Finding("staging", "warning", f"{len(old)} uploads of {size} bytes stopped over a week ago",
                      "delete them if those robots are gone for good; others go on where they stopped")  # fmt: skip

"""Looks over the database of a trainer that does not run, and the files its rows name; see doctor.examine()."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from cloud_trainer.records.chain import chains_in, read_entries
from cloud_trainer.records.graph_check import damage_in, misnamed_in
from cloud_trainer.service.config import ServiceConfig
from cloud_trainer.service.publish import MOST_RELEASE_BYTES
from cloud_trainer.service.server import database_url, what_is_kept
from cloud_trainer.store import open_blobs
from cloud_trainer.store.database import checked_url, damage_of
from cloud_trainer.store.protocols import BlobStore
from cloud_trainer.store.schema import HEAD, require_readable, revision_of, unknown_columns
from cloud_trainer.store.tables import CHECKPOINTS, EPISODES, METADATA, RECORDS, RELEASES
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import CorruptError, GymnastError, StorageError
from gymnast_core.finding import Finding

_NAMED = 5
BACKUP = "restore it from a backup"


def database_findings(config: ServiceConfig, *, deep: bool) -> Iterator[Finding]:
    """Yield what is found in a database that no trainer uses, and in the files that its rows name; see examine()."""
    if config.database_url is None and not (config.folder / "store.db").is_file():
        kept = what_is_kept(config.folder)
        what = f"store.db is not there; {kept or 'nothing else is, either'}"
        yield Finding("database", "fault" if kept else "ok", what, BACKUP if kept else "")
        return
    try:
        with _connected(config) as connection:
            if revision_of(connection) is None and (kept := what_is_kept(config.folder)):
                yield Finding("database", "fault", f"it holds nothing, but {kept}", BACKUP)
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
        yield Finding("database", "fault", f"{where!r} cannot be read: {error}", BACKUP)


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


def _inside(connection: sa.Connection) -> Iterator[Finding]:
    damage = damage_of(connection, thorough=True)
    for what in damage:
        yield Finding("database", "fault", what, f"keep the file, {BACKUP}; `sqlite3 store.db .recover` may save rows")
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
            "schema", "fault", f"columns differ (- missing, + unknown): {', '.join(unknown[:_NAMED])}", BACKUP
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
    yield _listed("blobs", "files that rows name are not there", lost, BACKUP, f"{len(named)} files are where rows say")
    if orphans := there - named.keys():
        size = sum(blobs.size(digest) for digest in orphans)
        yield Finding("blobs", "ok", f"{len(orphans)} files of {size} bytes have no row: left by uploads that were cut")
    if deep:
        bad = [named.get(digest, digest) for digest in sorted(there) if not _is(blobs, digest)]
        yield _listed("blobs", "files are not what their name says", bad, BACKUP, f"{len(there)} files were read whole")


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


def _graphs(connection: sa.Connection) -> Iterator[Finding]:
    """What was made from what, of every tenant."""
    for tenant in connection.execute(sa.select(RECORDS.c.tenant).distinct().order_by(RECORDS.c.tenant)).scalars():
        damage = [f"{row.id}: {row.what}" for row in damage_in(connection, tenant)]
        what = f"records of tenant {tenant} are not what was written"
        yield _listed("graph", what, damage, BACKUP, f"every hash of tenant {tenant}'s provenance fits")
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
            yield Finding("log", "fault", str(error), BACKUP)


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

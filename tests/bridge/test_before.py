"""Databases and folders of older versions are opened as this one's, and nothing that they held is lost.

tests/data/folder_before_0_2 was written by commit a08174d: two tenants with episodes, labels, a retraction, releases, a
shelved world model, jobs, robots' words and evaluations; expected.json is what that version said of them. Its graph is
a moment behind its catalogue (ep-late), as after a kill.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud_trainer.records.graph_check import damage_in
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.doctor import examine
from cloud_trainer.store.database import Database
from cloud_trainer.store.schema import HEAD, revision_of
from cloud_trainer.store.sql_meta import SqlMetaStore
from cloud_trainer.store.tables import METADATA
from gymnast_core.errors import GymnastError, StorageError
from gymnast_core.types import Outcome
from gymnast_core.wire.identity import Peer

KEPT = Path(__file__).parents[1] / "data" / "folder_before_0_2"
MIGRATIONS = Path(__file__).parents[2] / "cloud_trainer" / "store" / "migrations"
BEFORE_TENANTS = """
CREATE TABLE checkpoints (checkpoint_id TEXT NOT NULL, kind TEXT NOT NULL, manifest BLOB NOT NULL,
  weights_digest TEXT NOT NULL, weights_size BIGINT NOT NULL, published_ns BIGINT NOT NULL,
  PRIMARY KEY (checkpoint_id));
CREATE INDEX ix_checkpoints_published_ns ON checkpoints (published_ns);
CREATE TABLE releases (sequence BIGINT NOT NULL, checkpoint_id TEXT NOT NULL, payload BLOB NOT NULL,
  key_id TEXT NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (sequence));
CREATE TABLE lineage (checkpoint_id TEXT NOT NULL, kind TEXT NOT NULL, source_id TEXT NOT NULL,
  PRIMARY KEY (checkpoint_id, kind, source_id));
CREATE INDEX lineage_by_source ON lineage (kind, source_id);
CREATE TABLE counters (name TEXT NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name));
INSERT INTO checkpoints VALUES ('policy-1', 'policy', x'7b7d', 'aa', 3, 10);
INSERT INTO releases VALUES (41, 'policy-1', x'7b7d', 'key', x'00');
INSERT INTO lineage VALUES ('policy-1', 'episode', 'ep-1');
INSERT INTO counters VALUES ('release', 41);
"""


def in_words_of(url: str, statements: str) -> str:
    return statements if url.startswith("sqlite") else statements.replace("BLOB", "BYTEA").replace("x'", "'\\x")


def run(url: str, statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in filter(str.strip, in_words_of(url, statements).split(";\n")):
            connection.exec_driver_sql(statement.rstrip().removesuffix(";"))
    engine.dispose()


def test_a_database_from_before_tenants_opens_as_the_default_tenants(database_url):
    run(database_url, BEFORE_TENANTS)
    for _ in range(2):  # the second time there is nothing left to do
        store = SqlMetaStore(Database(database_url))
        assert store.checkpoint("default", "policy-1").weights_digest == "aa"
        assert store.releases("default")[0].sequence == 41
        assert store.checkpoints("acme") == []
        assert store.releases("acme") == []
        store.close()


def test_a_migrated_database_is_as_a_new_one(database_url):
    """What Alembic would still have to change: nothing, after every migration and in a new database alike."""
    run(database_url, BEFORE_TENANTS)
    with contextlib.closing(Database(database_url)) as database, database.transaction() as connection:
        assert revision_of(connection) == HEAD
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_the_newest_revision_is_the_one_that_is_read():
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD


def test_an_older_version_refuses_what_this_one_has_written_by_its_own_rule(database_url):
    """Before Alembic, a schema above 2 in counters was refused as a newer one's."""
    with contextlib.closing(Database(database_url)) as database, database.transaction() as connection:
        assert connection.exec_driver_sql("SELECT value FROM counters WHERE name = 'schema'").scalar() == 3


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE alembic_version SET version_num = '0417'", f"schema 0417, this gymnast reads up to {HEAD}.*newer"),
        ("DROP TABLE alembic_version", "before 0001.*newer"),
        ("ALTER TABLE jobs DROP COLUMN attempts", "-jobs.attempts"),
    ],
)
def test_what_this_version_does_not_know_is_refused_by_name(database_url, statement, named):
    Database(database_url).close()
    run(database_url, statement)
    with pytest.raises(StorageError, match=named):
        Database(database_url)


@pytest.fixture
def left(tmp_path):
    """The folder, as that version left it."""
    home = tmp_path / "trainer"
    shutil.copytree(KEPT, home)
    for script in home.rglob("*.sql"):
        with contextlib.closing(sqlite3.connect(script.with_suffix(".db"))) as database:
            database.executescript(script.read_text())
        script.unlink()
    (home / "expected.json").rename(tmp_path / "expected.json")
    return home


def expected(left: Path) -> dict:
    return json.loads((left.parent / "expected.json").read_text())


def test_a_folder_of_the_version_before_loses_nothing(left):
    with Service(ServiceConfig(folder=left)) as service:
        for tenant, known in expected(left).items():
            trail = service.trails.of(tenant)
            for name in ("base", "wm", "new"):
                checkpoint = known[name]
                assert trail.explain(checkpoint, verify=True) == known["why"][name]
                assert trail.lineage_json(checkpoint) == known["graph"][name]
            assert trail.log.head == known["head"]
            entries = [{"kind": one.kind, "data": one.data, "hash": one.hash} for one in trail.log.entries]
            assert entries == known["entries"]
            assert service.ledgers.of(tenant).to_json() == known["ledger"]
            rows = [vars(row) for row in service.meta.episodes(tenant) if row.episode_id != "ep-late"]
            assert rows == known["episodes"]
            releases = [
                [row.sequence, row.checkpoint_id, row.payload.hex(), row.signature.hex()]
                for row in service.meta.releases(tenant)
            ]
            assert releases == known["releases"]
            jobs = [
                [job.job_id, job.kind, job.state, len(service.jobs.events(tenant, job.job_id))]
                for job in service.jobs.list(tenant)
            ]
            assert jobs == known["jobs"]
            assert [word.checkpoint_id for word in service.words.of(tenant)] == [known["new"]]
            with service._database.transaction() as connection:
                assert damage_in(connection, tenant) == []


def test_what_the_graph_was_behind_with_is_recorded(left):
    with Service(ServiceConfig(folder=left)) as service:
        [label] = service.trails.of("default").graph.affected_by_role("ep-late", "labels")
        assert (label.payload["outcome"], label.payload["by"]) == ("success", "operator:bea")


def test_the_chains_go_on_where_they_ended_and_a_second_start_changes_nothing(left):
    ada, known = Peer("ada", "operator", "default"), expected(left)["default"]
    for number in range(2):
        with Service(ServiceConfig(folder=left)) as service:
            trail = service.trails.of("default")
            trail.label(ada, "ep-3", Outcome.SUCCESS if number else Outcome.FAILURE)
            entries = trail.log.entries
            assert len(entries) == len(known["entries"]) + number + 1
            assert entries[len(known["entries"])].previous == known["head"]
            with pytest.raises(GymnastError, match="the camera was knocked over"):
                trail.graph.check_promotable(known["new"])
    faults = [
        found for found in examine(ServiceConfig(folder=left)) if found.check in ("schema", "graph", "log", "before")
    ]
    assert {(found.check, found.state) for found in faults} == {("schema", "ok"), ("graph", "ok"), ("log", "ok")}


def test_the_files_are_kept_aside_and_serve_an_older_backup_of_the_database(left):
    shutil.copyfile(left / "store.db", left.parent / "backup.db")
    Service(ServiceConfig(folder=left)).stop(0.1)
    for home in (left, left / "tenants" / "acme"):
        assert sorted(path.name for path in (home / "before-0.2").iterdir()) == [
            "actions.jsonl", "ledger.jsonl", "provenance.db",
        ]  # fmt: skip
        assert not (home / "provenance.db").exists()
    shutil.copyfile(left.parent / "backup.db", left / "store.db")
    for path in left.glob("store.db-*"):
        path.unlink()
    with Service(ServiceConfig(folder=left)) as service:
        known = expected(left)["acme"]
        assert service.trails.of("acme").explain(known["new"], verify=True) == known["why"]["new"]
        assert service.trails.of("acme").log.head == known["head"]


DAMAGE = {
    "a graph": ("provenance.db", lambda data: data[:9000], "provenance.db"),
    "a graph of a version nobody knows": (
        "provenance.db",
        lambda data: data[:60] + b"\0\0\0\7" + data[64:],
        "version 7",
    ),
    "a line of a log": ("tenants/acme/actions.jsonl", lambda data: data.replace(b"ada", b"eve", 1), "line 1"),
    "a row of a ledger": ("console/ledger.jsonl", lambda data: data.replace(b'only":1', b'only":0', 1), "ledger.jsonl"),
}


@pytest.mark.parametrize("what", list(DAMAGE))
def test_damaged_files_are_named_before_anything_is_changed(left, what):
    name, change, named = DAMAGE[what]
    sound = (left / name).read_bytes()
    (left / name).write_bytes(change(sound))
    assert ("before", "fault") in {(found.check, found.state) for found in examine(ServiceConfig(folder=left))}
    with pytest.raises(StorageError, match=named):
        Service(ServiceConfig(folder=left))
    (left / name).write_bytes(sound)
    with Service(ServiceConfig(folder=left)) as service:
        known = expected(left)["default"]
        assert service.trails.of("default").explain(known["wm"], verify=True) == known["why"]["wm"]

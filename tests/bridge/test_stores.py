"""Every store keeps the contracts: SQLite and folder, a real PostgreSQL server, and a real S3 interface."""

import pytest

from cloud_trainer.store import open_blobs
from cloud_trainer.store.database import Database
from cloud_trainer.store.sql_jobs import SqlJobStore
from cloud_trainer.store.sql_meta import SqlMetaStore
from cloud_trainer.store.sql_queue import SqlQueueStore
from cloud_trainer.store.tables import METADATA
from gymnast_core.errors import ConfigError, CorruptError, StorageError
from tests.contracts.store_contract import (
    BlobStoreContract,
    JobStoreContract,
    JudgementsContract,
    MetaStoreContract,
    QueueStoreContract,
    put,
)


@pytest.fixture
def sqlite(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    yield database
    database.close()


@pytest.fixture
def postgres(postgres_url):
    database = Database(postgres_url)
    yield database
    with database.transaction() as connection:
        connection.exec_driver_sql("TRUNCATE " + ", ".join(table.name for table in METADATA.sorted_tables))
    database.close()


@pytest.fixture(scope="module")
def s3_endpoint():
    """A real S3 interface over HTTP."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint, tmp_path, request):
    boto3 = pytest.importorskip("boto3")
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=s3_endpoint, **keys).create_bucket(Bucket=name)
    options = {
        "endpoint": s3_endpoint, "access_key_id": "test", "secret_access_key": "test", "region": "us-east-1",
        "virtual_hosted_style_request": "false",
    }  # fmt: skip
    return open_blobs(f"s3://{name}/blobs", tmp_path, options)


class TestFolderBlobs(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return open_blobs(None, tmp_path, {})


class TestS3Blobs(BlobStoreContract):
    @pytest.fixture
    def store(self, s3):
        return s3

    def test_bytes_that_changed_in_the_bucket_are_found(self, store, tmp_path):
        import obstore

        digest = put(store, tmp_path, b"original")
        obstore.put(store._store, f"{digest[:2]}/{digest}", b"tampered")
        with pytest.raises(CorruptError, match="lost it"):
            store.local_path(digest)


class TestSqliteMeta(MetaStoreContract):
    @pytest.fixture
    def store(self, sqlite):
        return SqlMetaStore(sqlite)


class TestPostgresMeta(MetaStoreContract):
    @pytest.fixture
    def store(self, postgres):
        return SqlMetaStore(postgres)


class TestSqliteJobs(JobStoreContract):
    @pytest.fixture
    def store(self, sqlite):
        return SqlJobStore(sqlite)


class TestPostgresJobs(JobStoreContract):
    @pytest.fixture
    def store(self, postgres):
        return SqlJobStore(postgres)


class TestSqliteJudgements(JudgementsContract):
    @pytest.fixture
    def database(self, sqlite):
        return sqlite


class TestPostgresJudgements(JudgementsContract):
    @pytest.fixture
    def database(self, postgres):
        return postgres


def test_sqlite_flushes_every_commit(sqlite):
    with sqlite.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_an_error_inside_a_transaction_undoes_it(sqlite):
    store = SqlJobStore(sqlite)

    def insert_twice():
        with sqlite.transaction() as connection:
            for value in (1, 2):
                connection.exec_driver_sql(f"INSERT INTO counters VALUES ('x', {value})")

    with pytest.raises(StorageError):
        insert_twice()
    with sqlite.transaction() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM counters WHERE name = 'x'").scalar() == 0
    assert store.list(None) == []


def test_stores_that_cannot_be_opened_are_named(tmp_path):
    with pytest.raises(StorageError, match="cannot open"):
        Database(f"sqlite:///{tmp_path}/missing/folder/store.db")
    with pytest.raises(ConfigError, match="ftp"):
        open_blobs("ftp://x", tmp_path, {})


def test_closed_database_refuses_instead_of_touching_freed_memory(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.close()
    database.close()
    with pytest.raises(StorageError, match="closed"), database.transaction():
        pass


class TestSqliteQueue(QueueStoreContract):
    @pytest.fixture
    def store(self, sqlite):
        return SqlQueueStore(sqlite)


class TestPostgresQueue(QueueStoreContract):
    @pytest.fixture
    def store(self, postgres):
        return SqlQueueStore(postgres)

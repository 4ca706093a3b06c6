"""`gymnast serve`: every setting of the service is a flag and does what it says, with a real PostgreSQL and S3."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud_trainer.service import Limits, ServiceConfig, enroll
from gymnast_cli.main import main
from gymnast_cli.service_flags import add_arguments, config_from, flag_of, size, variable_of
from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import ConfigError
from gymnast_ros.uplink import Uplink
from tests.bridge.conftest import fill
from tests.postgres import PostgresMissingError, postgres_server

GIVEN = {
    "folder": "elsewhere", "host": "::1", "port": "50051", "port_file": "port", "names": "trainer.lab",
    "insecure": None, "database_url": "postgresql://user@db/x", "blob_url": "s3://b/x", "blob_options": "region=eu",
    "workers": "3", "interactive_workers": "0", "call_threads": "7", "release_valid_s": "60", "metrics_port": "9100",
    "pages": "pages.toml",
}  # fmt: skip
"""A value, as typed, for each field; a field without one here fails the test below."""
READ = {"names": ("trainer.lab",), "blob_options": {"region": "eu"}, "insecure": True}


def parse(*words: str) -> ServiceConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return config_from(parser.parse_args(words))


@pytest.mark.parametrize("field", [name for name in ServiceConfig.model_fields if name != "limits"])
def test_every_setting_is_a_flag_with_its_meaning(field):
    words = [f"--{flag_of(field)}"] + ([] if GIVEN[field] is None else [GIVEN[field]])
    needs = ["--blob-url", "s3://b"] if field == "blob_options" else []
    value = getattr(parse(*words, *needs), field)
    assert value == (READ[field] if field in READ else type(value)(GIVEN[field]))
    assert value != getattr(parse(), field), "a value of its own"
    assert len(ServiceConfig.model_fields[field].description) > 10


@pytest.mark.parametrize("field", list(Limits.model_fields))
def test_every_limit_is_a_flag_with_its_meaning(field):
    assert getattr(parse(f"--limit-{flag_of(field)}", "77").limits, field) == 77
    assert len(Limits.model_fields[field].description) > 10


@pytest.mark.parametrize("field", [name for name in ServiceConfig.model_fields if name != "limits"])
def test_every_setting_is_a_variable_and_its_flag_wins(field, monkeypatch):
    if field == "blob_options":
        monkeypatch.setenv("GYMNAST_SERVE_BLOB_URL", "s3://b")
    monkeypatch.setenv(variable_of(field), GIVEN[field] or "yes")
    value = getattr(parse(), field)
    assert value == (READ[field] if field in READ else type(value)(GIVEN[field]))
    if field == "port":
        assert parse("--port", "7").port == 7


@pytest.mark.parametrize("field", list(Limits.model_fields))
def test_every_limit_is_a_variable(field, monkeypatch):
    monkeypatch.setenv(variable_of(f"limit_{field}"), "77")
    assert getattr(parse().limits, field) == 77


def test_variables_that_make_no_sense_are_named(monkeypatch, capsys):
    monkeypatch.setenv("GYMNAST_SERVE_PORT", "fifty")
    with pytest.raises(SystemExit):
        parse()
    assert "--port" in capsys.readouterr().err
    monkeypatch.setenv("GYMNAST_SERVE_PORT", "")
    monkeypatch.setenv("GYMNAST_SERVE_INSECURE", "perhaps")
    with pytest.raises(ConfigError, match="GYMNAST_SERVE_INSECURE is 'perhaps'; write one of 1, true"):
        parse()


def test_without_flags_the_settings_have_their_defaults():
    assert parse() == ServiceConfig(folder=Path("trainer"))


def test_sizes_are_written_as_people_write_them():
    assert [size(text) for text in ("1048576", "512MiB", "2 tib", "1KiB")] == [1 << 20, 512 << 20, 2 << 40, 1024]
    for text in ("", "-1", "1.5GiB", "1GB", "²", "9" * 20):
        with pytest.raises(argparse.ArgumentTypeError, match="is no number of bytes"):
            size(text)


class Serve:
    """The command in a process of its own."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder, self._port = folder, folder.with_suffix(".port")
        self._port.unlink(missing_ok=True)
        words = ["serve", "--no-console", "--folder", str(folder), "--port-file", str(self._port), *more]
        self._log = folder.with_suffix(".log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gymnast_cli.main", *words], stdout=log, stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def address(self) -> str:
        until = time.monotonic() + 90
        while not self._port.exists():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)
        return self._port.read_text()

    def said(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.said()

    def ends_with(self, code: int) -> str:
        """What it says when it cannot start: one line, and no traceback."""
        assert self.process.wait(90) == code, self.said()
        assert "Traceback" not in self.said()
        return self.said()


@pytest.fixture
def start():
    """Starts the command; whatever still runs ends with the test."""
    started = []

    def serve(folder: Path, *more: str) -> Serve:
        started.append(Serve(folder, *more))
        return started[-1]

    yield serve
    for serve in started:
        serve.process.kill()
        serve.process.wait()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    client.create_bucket(Bucket="lab")
    yield client, f"http://{host}:{port}"
    server.stop()


def test_a_trainer_on_postgresql_and_s3_keeps_everything_there_and_finds_it_again(tmp_path, bucket, start):
    client, endpoint = bucket
    folder = tmp_path / "trainer"
    (tmp_path / "secret").write_text("s\n")
    options = [
        f"endpoint={endpoint}",
        "region=us-east-1",
        "access_key_id=k",
        f"secret_access_key=@{tmp_path / 'secret'}",
    ]
    more = ["--blob-url", "s3://lab/blobs", *(word for option in options for word in ("--blob-option", option))]
    more += ["--limit-tenant-episodes", "2", "--metrics-port", "0"]
    try:
        with postgres_server() as url:
            (tmp_path / "url").write_text(url.replace("postgresql+psycopg", "postgresql"))
            serve = start(folder, "--database-url", f"@{tmp_path / 'url'}", *more)
            robot = enroll(folder / "ca", "wx-1", "robot", out=tmp_path / "wx-1")
            ada = enroll(folder / "ca", "ada", "operator", out=tmp_path / "ada")
            spool = Spool(tmp_path / "spool")
            fill(spool, 3)
            with Uplink(serve.address(), robot, spool=spool) as uplink:
                until = time.monotonic() + 60
                while len(spool.entries()) > 1 and time.monotonic() < until:
                    time.sleep(0.05)
                while "the quota is 2" not in uplink.status().alarm and time.monotonic() < until:
                    time.sleep(0.05)
                assert "the quota is 2" in uplink.status().alarm
                assert len(spool.entries()) == 1, "two were taken, the third waits"
            engine = sa.create_engine(url)
            with engine.connect() as connection:
                assert connection.execute(sa.text("select count(*) from episodes")).scalar() == 2
            engine.dispose()
            assert len(client.list_objects_v2(Bucket="lab", Prefix="blobs")["Contents"]) == 2
            assert not (folder / "store.db").exists()
            serve.stop()
            again = start(folder, "--database-url", f"@{tmp_path / 'url'}", *more)
            with Trainer(again.address(), ada).episodes as episodes:
                kept = episodes.list()
                assert len(kept) == 2
                assert episodes.fetch(kept[0], tmp_path / "fetched.mcap").stat().st_size == kept[0].size
            again.stop()
    except PostgresMissingError as reason:
        pytest.skip(str(reason))


def test_metrics_are_served_where_they_are_asked_for(tmp_path, start):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    serve = start(tmp_path / "trainer", "--metrics-port", str(port), "--host", "[::1]")
    assert serve.address().startswith("[::1]:")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert b"gymnast_episodes" in answer.read()
    serve.stop()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--host", "http://x"), "'http://x' is neither a host name nor an address"),
        (
            ("--port", "70000"),
            "service: port must be a whole number of at least 0 and at most 65,535, got 70000; the default is 0",
        ),
        (
            ("--metrics-port", "-1"),
            "service: metrics_port must be a whole number of at least 0 and at most 65,535, or none, got -1",
        ),
        (
            ("--limit-tenant-bytes", "0"),
            "limits: tenant_bytes must be a whole number of at least 1, got 0; the default is 1099511627776",
        ),
        (("--blob-option", "region=eu"), "give blob_url s3://bucket/prefix"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *words]) == 2
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--port", "{taken}"), 1, "the trainer cannot listen on 127.0.0.1:{taken}: the port is taken"),
        (("--metrics-port", "{taken}"), 1, "Prometheus metrics cannot listen on 127.0.0.1:{taken}: the port is taken"),
        (("--host", "2001:db8::7"), 2, "cannot listen on [2001:db8::7]:0: that is no address of this machine"),
        (("--name", "a b"), 2, "'a b' is neither a host name nor an address"),
        (("--database-url", "mysql://ana:secret@x/y"), 2, "a database of kind 'mysql' is not kept"),
        (("--database-url", "postgresql://ana:secret@127.0.0.1:9/y"), 1, "cannot open the database"),
        (("--blob-url", "ftp://x"), 2, "blob_url must be empty or s3://bucket/prefix"),
    ],
)
def test_what_cannot_be_is_one_line_and_an_exit_code(tmp_path, start, words, code, says):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        said = start(tmp_path / "trainer", *(word.format(taken=taken) for word in words)).ends_with(code)
    assert says.format(taken=taken) in said
    assert "secret" not in said

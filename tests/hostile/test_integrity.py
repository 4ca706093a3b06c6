"""A folder that was damaged, lost in part, or written by another version: named at the start, with the remedy.

From outside: files are changed while no trainer runs; then `gymnast serve` is started and `gymnast doctor` asked.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.service.doctor import examine
from gymnast_cli.main import main
from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import GymnastError, StorageError
from gymnast_core.types import Outcome
from gymnast_ros.uplink import Uplink
from tests.bridge.conftest import fill, make_checkpoint
from tests.hostile.registry import Tally, attack
from tests.postgres import PostgresMissingError, postgres_server


def make_trainer(folder: Path, database_url: str | None = None) -> Path:
    """A trainer that has worked: episodes, a label, a release, a graph, a log; stopped."""
    home = folder / "trainer"
    with Service(ServiceConfig(folder=home, database_url=database_url)) as service:
        spool = Spool(folder / "spool")
        fill(spool, 40)
        robot = enroll(service.authority, "wx-1", "robot", out=folder / "ids" / "wx-1")
        with Uplink(service.address, robot, spool=spool) as uplink:
            assert uplink.flush(60)
        assert service.episodes.settle(60)
        ada = enroll(service.authority, "ada", "operator", out=folder / "ids" / "ada")
        with Trainer(service.address, ada).episodes as episodes:
            episodes.label("ep-1", Outcome.SUCCESS)
        make_checkpoint(folder / "made", 1.0)
        service.publisher.publish("default", folder / "made")
    return home


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    return make_trainer(tmp_path_factory.mktemp("worked"))


@pytest.fixture
def trainer(worked, tmp_path):
    shutil.copytree(worked, tmp_path / "trainer")
    return tmp_path / "trainer"


def flip(path: Path, *, every: int = 512, seed: int = 3) -> None:
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in range(100, len(data), every):
        data[min(at + int(rng.integers(every)), len(data) - 1)] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def sql(statement: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        with sqlite3.connect(home / "store.db") as database:
            database.execute(statement)
        database.close()

    return change


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped bits in the database": (lambda home: flip(home / "store.db"), "damaged|malformed|not a database"),
    "a database that is none": (lambda home: (home / "store.db").write_bytes(b"x" * 9000), "not a database"),
    "half a database": (lambda home: rewrite(home / "store.db", lambda data: data[:20_480]), "damaged|malformed"),
    "no database": (lambda home: (home / "store.db").unlink(), "it was lost"),
    "a newer schema": (sql("UPDATE alembic_version SET version_num = '9999'"), "schema 9999"),
    "a newer column": (sql("ALTER TABLE episodes ADD COLUMN mood TEXT"), r"\+episodes.mood"),
    "an older schema": (sql("ALTER TABLE jobs DROP COLUMN attempts"), r"-jobs.attempts"),
    "a row that makes no sense": (sql("UPDATE episodes SET metadata = '{' WHERE episode_id = 'ep-3'"), "ep-3"),
    "a table of the graph is gone": (sql("DROP TABLE record_edges"), r"-record_edges.child"),
    "an entry of the log changed": (sql("UPDATE entries SET data = replace(data, 'ada', 'eve')"), "entry 0"),
    "the newest entry of the log removed": (sql("DELETE FROM entries"), "had 1 entries and has 0"),
}  # fmt: skip


def refused(home: Path) -> str:
    """What a start is refused with; empty where it starts."""
    try:
        Service(ServiceConfig(folder=home)).stop(0.1)
    except GymnastError as error:
        return str(error)
    return ""


@attack("damaged trainer folders")
def damage_folders(folder: Path, size: int) -> Tally:
    """Each kind of damage, and the start after it; accepted is one that started all the same."""
    home, accepted, tried = make_trainer(folder), 0, 0
    for number in range(max(1, size // len(DAMAGE))):
        for what, (change, _) in DAMAGE.items():
            copy = folder / f"{number}-{what.replace(' ', '-')}"
            shutil.copytree(home, copy)
            change(copy)
            tried, accepted = tried + 1, accepted + (not refused(copy))
    return Tally(tried, accepted, int(bool(refused(home))))


@pytest.mark.parametrize("what", list(DAMAGE))
def test_damage_is_named_at_the_start_and_by_the_doctor(trainer, what, capsys):
    change, names = DAMAGE[what]
    change(trainer)
    with pytest.raises(StorageError, match=names):
        Service(ServiceConfig(folder=trainer))
    code = main(["doctor", "--folder", str(trainer), "--json"])
    findings = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    faults = [found for found in findings if found["state"] == "fault"]
    assert code == 3
    assert faults
    assert all(found["remedy"] for found in faults)


def test_serve_says_it_in_one_line_with_the_remedy_and_without_a_trace(trainer):
    (trainer / "store.db").unlink()
    command = [sys.executable, "-m", "gymnast_cli.main", "serve", "--folder", str(trainer), "--no-console"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "it was lost; restore it from a backup" in said
    assert "Traceback" not in said


def test_a_sound_folder_has_no_fault_and_starts(trainer, capsys):
    assert main(["doctor", "--folder", str(trainer), "--deep"]) == 0
    said = capsys.readouterr().out
    for check in ("database", "schema", "blobs", "graph", "log", "certificates", "disk"):
        assert f"ok {check}: " in said, said
    assert refused(trainer) == ""
    with Service(ServiceConfig(folder=trainer)) as service:
        assert len(service.meta.episodes("default")) == 40
        assert main(["doctor", "--folder", str(trainer)]) == 0
        assert f"one runs on {trainer} (process {os.getpid()})" in capsys.readouterr().out
        assert main(["doctor", "--folder", str(trainer), "--deep"]) == 75, "nothing was read; worth trying again"
        assert "no stored file was read" in capsys.readouterr().out


def test_the_doctor_names_rows_without_files_and_files_that_changed(trainer):
    blobs = sorted((trainer / "blobs").glob("??/*"))
    blobs[0].unlink()
    data = bytearray(blobs[1].read_bytes())
    data[len(data) // 2] ^= 1
    blobs[1].write_bytes(data)
    quick = [found for found in examine(ServiceConfig(folder=trainer)) if found.state == "fault"]
    deep = [found for found in examine(ServiceConfig(folder=trainer), deep=True) if found.state == "fault"]
    assert [found.check for found in quick] == ["blobs"]
    assert len(deep) == 2
    assert all("episode default/ep-" in found.what or "checkpoint default/" in found.what for found in deep)


def test_a_folder_that_is_none_and_a_fresh_one(tmp_path):
    assert main(["doctor", "--folder", str(tmp_path)]) == 2
    assert refused(tmp_path / "fresh") == ""


def test_a_changed_record_of_the_graph_is_named_by_the_doctor(trainer):
    sql("UPDATE records SET payload = replace(payload, 'lift', 'drop') WHERE id = 'ep-7'")(trainer)
    [graph] = [found for found in examine(ServiceConfig(folder=trainer)) if found.check == "graph"]
    assert (graph.state, "ep-7: its content" in graph.what) == ("fault", True)


def test_an_emptied_postgres_is_named_as_lost(tmp_path):
    try:
        with postgres_server() as url:
            home = make_trainer(tmp_path, url)
            Service(ServiceConfig(folder=home, database_url=url)).stop(0.1)
            with postgres_server() as other, pytest.raises(StorageError, match="it was lost"):
                Service(ServiceConfig(folder=home, database_url=other))
    except PostgresMissingError as error:
        pytest.skip(str(error))

"""The bridge from end to end over mutual TLS on loopback: episodes up, weights down, jobs."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from blake3 import blake3

from cloud_trainer.service import Limits, Service, ServiceConfig
from cloud_trainer.service.ingest import Ingest, Opening
from cloud_trainer.store.database import Database
from cloud_trainer.store.folder import FolderBlobStore
from cloud_trainer.store.sql_meta import SqlMetaStore
from gymnast_client import Trainer
from gymnast_client import jobs as client_jobs
from gymnast_core.episodes import Spool, read_episode
from gymnast_core.episodes.messages import SCHEMA_VERSION
from gymnast_core.errors import RejectedBridgeError, StorageError
from gymnast_core.types import Outcome
from gymnast_core.wire.codec import Chunk, crc32c
from gymnast_core.wire.errors import NotPermittedError
from gymnast_core.wire.identity import Peer
from gymnast_ros.uplink import Identity, RobotStore, Uplink
from tests.bridge.conftest import UNGATED, fill, make_checkpoint, make_episode


def wait_until(condition, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_episodes_arrive_once_valid_and_leave_the_spool(service, identities, tmp_path):
    spool = Spool(tmp_path / "spool")
    ids = fill(spool, 20)
    originals = {entry.episode_id: entry.path.read_bytes() for entry in spool.entries()}
    with Uplink(service.address, identities("wx-1", "robot"), spool=spool) as uplink:
        assert uplink.flush(20)
        status = uplink.status()
    assert (status.acknowledged, status.pending, status.alarm) == (20, 0, "")
    assert service.episodes.settle(20)
    rows = service.episodes.list()
    assert {row.episode_id for row in rows} == set(ids)
    assert {row.robot for row in rows} == {"wx-1"}
    assert {row.instruction for row in rows} == {"lift the red cube"}
    for row in rows:
        assert service.episodes.path(row).read_bytes() == originals[row.episode_id]
        assert service.episodes.read(row).steps == 3


def test_same_episode_again_is_acknowledged_and_other_content_refused(service, identities, tmp_path):
    robot = identities("wx-1", "robot")
    first, again, other = Spool(tmp_path / "a"), Spool(tmp_path / "b"), Spool(tmp_path / "c")
    path = make_episode(first.recording_folder, "same")
    (again.recording_folder / "same.mcap").write_bytes(path.read_bytes())
    first.enqueue(path)
    again.enqueue(again.recording_folder / "same.mcap")
    other.enqueue(make_episode(other.recording_folder, "same", seed=99))
    for spool in (first, again):
        with Uplink(service.address, robot, spool=spool) as uplink:
            assert uplink.flush(10)
            assert uplink.status().acknowledged == 1
    with Uplink(service.address, robot, spool=other) as uplink:
        assert uplink.flush(10)
        assert uplink.status().refused == 1
        assert "IdReusedError" in other.refused()[0].with_suffix(".reason").read_text()
    assert len(service.meta.episodes(None)) == 1


@pytest.mark.parametrize("kind", ["policy", "world_model", "judge", "dataset", "label", "audit", "retraction"])
def test_an_episode_cannot_take_the_name_of_a_record_of_the_trainers(service, identities, tmp_path, kind):
    """It would stand in the record's place: a withdrawal would block nothing, a label would fail."""
    spool = Spool(tmp_path / "spool")
    spool.enqueue(make_episode(spool.recording_folder, f"{kind}-0123456789abcdef"))
    with Uplink(service.address, identities("wx-1", "robot"), spool=spool) as uplink:
        assert uplink.flush(20)
        assert "InvalidIdError" in spool.refused()[0].with_suffix(".reason").read_text()
    assert service.meta.episodes(None) == []


def test_bad_content_is_quarantined_with_a_reason_and_kept(service, identities, tmp_path):
    spool = Spool(tmp_path / "spool")
    (spool.recording_folder / "junk.mcap").write_bytes(b"no mcap at all" * 100)
    spool.enqueue(spool.recording_folder / "junk.mcap")
    with Uplink(service.address, identities("wx-1", "robot"), spool=spool) as uplink:
        assert uplink.flush(10)
    assert service.episodes.settle(10)
    assert service.episodes.list() == []
    [row] = service.episodes.list(states=["quarantined"])
    assert "CorruptError" in row.reason
    assert service.episodes.path(row).read_bytes().startswith(b"no mcap")


def test_upload_resumes_where_the_trainer_was_killed(identities, tmp_path):
    """SIGKILL in the middle of a large episode; the new process goes on with what the old one had."""
    spool = Spool(tmp_path / "spool")
    ids = fill(spool, 1, steps=40, side=512)
    size = spool.entries()[0].size
    assert size > 4_000_000
    process, address = start_service(tmp_path)
    robot = identities("wx-1", "robot")
    sent = 0
    uplink = Uplink(address, robot, spool=spool)
    uplink._stream = None
    staged = tmp_path / "trainer" / "staging" / "default"
    uplink.start()
    wait_until(lambda: any(path.stat().st_size > 0 for path in staged.glob("*.part")) or not spool.entries())
    process.kill()
    process.wait()
    port = int(address.rpartition(":")[2])
    process, _ = start_service(tmp_path, port)
    assert uplink.flush(30)
    sent = uplink.status().sent_bytes
    uplink.stop()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert sent <= size * 2
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service:
        assert service.episodes.settle(20)
        assert [row.episode_id for row in service.episodes.list()] == ids


def start_service(tmp_path: Path, port: int = 0):
    """`gymnast serve` as a process of its own."""
    (tmp_path / "port").unlink(missing_ok=True)
    command = [sys.executable, "-m", "gymnast_cli.main", "serve", "--folder", tmp_path / "trainer", "--no-console"]
    command += ["--port", str(port), "--port-file", tmp_path / "port"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    wait_until(lambda: (tmp_path / "port").exists() or process.poll() is not None, 120)
    assert process.poll() is None
    return process, (tmp_path / "port").read_text()


def test_published_checkpoint_is_staged_swapped_and_rolled_back(service, identities, tmp_path):
    robot = identities("wx-1", "robot")
    store = RobotStore(tmp_path / "robot", robot="wx-1", trusted=Identity.load(robot).trusted_keys(), gate=UNGATED)
    base = make_checkpoint(tmp_path / "base", 0.0)
    assert store.install(tmp_path / "base").name == base.id
    new = make_checkpoint(tmp_path / "new", 1.0, parents=(base.id,), lineage={"episodes": ["ep-1", "ep-2"]})
    with Uplink(service.address, robot, store=store) as uplink:
        with Trainer(service.address, identities("gpu", "trainer")).checkpoints as weights:
            weights.publish(tmp_path / "new")
        wait_until(lambda: store.staged() is not None)
        assert uplink.status().staged == new.id
    assert store.current_id() == base.id
    store.swap(new.id, probation_episodes=2)
    assert store.current_id() == new.id
    assert store.on_episode(good=True)
    assert not store.on_episode(good=False, reason="arm fault")
    assert store.current_id() == base.id
    assert store.staged() is None
    assert store.state.failed == {new.id: "arm fault"}
    graph = service.trails.of("default").graph
    assert new.id in [node.id for node in graph.affected("ep-2")]
    assert (new.id, "parent", base.id) in set(graph.why(new.id).edges())


def test_release_for_another_robot_is_not_seen(service, identities, tmp_path):
    robot = identities("wx-1", "robot")
    store = RobotStore(tmp_path / "robot", robot="wx-1", trusted=Identity.load(robot).trusted_keys(), gate=UNGATED)
    make_checkpoint(tmp_path / "other", 1.0)
    mine = make_checkpoint(tmp_path / "mine", 2.0)
    service.publisher.publish("default", tmp_path / "other", robots=["wx-2"])
    service.publisher.publish("default", tmp_path / "mine", robots=["wx-1"])
    with Uplink(service.address, robot, store=store):
        wait_until(lambda: store.staged() is not None)
    assert store.held() == [mine.id]


def run_echo(context):
    context.emit("progress", {"share": 0.5})
    if context.job.kind == "fail":
        raise RuntimeError("as asked")
    if context.job.kind == "long":
        wait_until(context.cancelled, 20)
        return {}
    return {"echo": dict(context.job.spec)}


def test_jobs_run_report_fail_and_cancel(identities, tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer"), run_echo) as service:
        jobs = Trainer(service.address, identities("ada", "operator")).jobs
        job = jobs.submit("echo", {"a": 1}, "key-1")
        assert jobs.submit("echo", {"a": 1}, "key-1").job_id == job.job_id
        with pytest.raises(RejectedBridgeError, match="another spec"):
            jobs.submit("echo", {"a": 2}, "key-1")
        events = list(jobs.watch(job.job_id))
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.kind for event in events] == ["state", "state", "progress", "state"]
        assert list(jobs.watch(job.job_id, after=2)) == events[2:]
        assert jobs.get(job.job_id).result == {"echo": {"a": 1}}
        failed = jobs.wait(jobs.submit("fail", {}, "key-2").job_id)
        assert (failed.state, failed.error) == ("failed", "RuntimeError: as asked")
        running = jobs.submit("long", {}, "key-3")
        wait_until(lambda: jobs.get(running.job_id).state == "running")
        jobs.cancel(running.job_id)
        assert jobs.wait(running.job_id).state == "cancelled"
        assert {view.job_id for view in jobs.list()} == {job.job_id, failed.job_id, running.job_id}
        jobs.close()


def test_a_job_that_is_silent_for_longer_than_a_call_may_last_is_watched_on(identities, tmp_path, monkeypatch):
    monkeypatch.setattr(client_jobs, "_EVENTS_DEADLINE_S", 0.3)
    go = threading.Event()
    with Service(ServiceConfig(folder=tmp_path / "trainer"), lambda context: {"waited": go.wait(20)}) as service:
        jobs = Trainer(service.address, identities("ada", "operator")).jobs
        job = jobs.submit("quiet", {}, "key")
        threading.Timer(1.5, go.set).start()
        assert [event.kind for event in jobs.watch(job.job_id, patience_s=0.2)][-1] == "state"
        assert jobs.get(job.job_id).result == {"waited": True}
        jobs.close()


def test_jobs_survive_a_restart_and_watchers_go_on(identities, tmp_path):
    config = ServiceConfig(folder=tmp_path / "trainer")
    with Service(config) as service:  # no runner: the job waits
        jobs = Trainer(service.address, identities("ada", "operator")).jobs
        job = jobs.submit("echo", {"a": 1}, "key")
        port = int(service.address.rpartition(":")[2])
    with Service(ServiceConfig(folder=tmp_path / "trainer", port=port), run_echo):
        assert jobs.wait(job.job_id).state == "done"
        jobs.close()


def test_a_trainer_elsewhere_claims_and_reports(service, identities):
    jobs = Trainer(service.address, identities("ada", "operator")).jobs
    trainer = Trainer(service.address, identities("gpu", "trainer")).jobs
    job = jobs.submit("train", {"steps": 3}, "k")
    claimed = trainer.claim(["train"])
    assert claimed is not None
    assert claimed.job_id == job.job_id
    assert trainer.claim() is None
    trainer.report(job.job_id, [("progress", {"step": 1})])
    trainer.report(job.job_id, state="done", result={"loss": 0.1})
    assert jobs.wait(job.job_id).result == {"loss": 0.1}
    with pytest.raises(NotPermittedError):
        jobs.claim()
    jobs.close()
    trainer.close()


def test_operator_labels_under_his_own_name(service, identities, tmp_path):
    spool = Spool(tmp_path / "spool")
    fill(spool, 1)
    with Uplink(service.address, identities("wx-1", "robot"), spool=spool) as uplink:
        assert uplink.flush(10)
    assert service.episodes.settle(10)
    with Trainer(service.address, identities("ada", "operator")).episodes as episodes:
        view = episodes.label("ep-0", Outcome.SUCCESS)
        assert (view.outcome, view.labelled_by) == ("success", "operator:ada")
        assert episodes.list()[0].labelled_by == "operator:ada"
    [row] = service.episodes.list()
    assert service.episodes.read(row).outcome is Outcome.SUCCESS
    assert read_episode(service.episodes.path(row)).outcome is Outcome.UNLABELLED


def test_metrics_count_episodes_calls_and_refusals(identities, tmp_path):
    import urllib.request

    with Service(ServiceConfig(folder=tmp_path / "trainer", metrics_port=0)) as service:
        spool = Spool(tmp_path / "spool")
        fill(spool, 2)
        with Uplink(service.address, identities("wx-1", "robot"), spool=spool) as uplink:
            assert uplink.flush(10)
        with Trainer(service.address, identities("ada", "operator")).jobs as jobs, pytest.raises(RejectedBridgeError):
            jobs.get("job-none")
        with urllib.request.urlopen(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=5) as reply:
            text = reply.read().decode()
    assert 'gymnast_refused_calls_total{error="NotFoundError",method="/gymnast.v1.JobService/Get"}' in text
    line = next(line for line in text.splitlines() if line.startswith("gymnast_episodes_total"))
    assert float(line.split()[1]) >= 2


def test_sixteen_robots_and_a_replacement_are_all_served(service, identities, tmp_path):
    """Every one with its own certificate and stream at the same time; the seventeenth is a replacement's."""
    uplinks = []
    for number in range(16):
        spool = Spool(tmp_path / f"spool-{number}")
        fill(spool, 2, prefix=f"r{number}")
        uplinks.append(Uplink(service.address, identities(f"wx-{number}", "robot"), spool=spool))
    replacement = Spool(tmp_path / "replacement")
    fill(replacement, 2, prefix="again")
    uplinks.append(Uplink(service.address, identities("wx-3", "robot"), spool=replacement))
    for uplink in uplinks:
        uplink.start()
    assert all(uplink.flush(40) for uplink in uplinks)
    for uplink in uplinks:
        uplink.stop()
    assert len(service.meta.episodes(None)) == 34


def test_a_kill_before_the_catalogue_knows_costs_no_resending(tmp_path):
    """The bytes are sealed, the registration fails: the next attempt continues at the end."""
    data = b"0123456789"
    opening = Opening("ep", len(data), blake3(data).hexdigest(), SCHEMA_VERSION)
    robot, meta = Peer("wx-1", "robot", "default"), SqlMetaStore(Database(f"sqlite:///{tmp_path / 'store.db'}"))
    ingest = Ingest(tmp_path / "staging", FolderBlobStore(tmp_path / "blobs"), meta, Limits(min_free_bytes=1))
    receiving = ingest.open(robot, opening)
    receiving.write(Chunk(1, 0, crc32c(data), data))
    meta.close()
    with pytest.raises(StorageError):
        ingest.commit(receiving).result(10)
    ingest.close()
    meta = SqlMetaStore(Database(f"sqlite:///{tmp_path / 'store.db'}"))
    ingest = Ingest(tmp_path / "staging", FolderBlobStore(tmp_path / "blobs"), meta, Limits(min_free_bytes=1))
    receiving = ingest.open(robot, opening)
    assert receiving.offset == len(data)
    assert ingest.commit(receiving).result(10) == "added"
    assert ingest.open(robot, opening) is None
    assert list((tmp_path / "staging" / "default").iterdir()) == []
    ingest.close()
    meta.close()

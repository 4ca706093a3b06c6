"""The spool: nothing leaves it but by acknowledgement or an explicit policy."""

from pathlib import Path

import numpy as np
import pytest

from gymnast_core.episodes import EpisodeRecorder, Spool, file_digest, read_summary, write_episode
from gymnast_core.episodes import durable as durable_module
from gymnast_core.errors import ConfigError, ContractError, DiskFullError
from gymnast_core.types import Episode
from tests.core.test_episodes import observation, step_of


def make_episode(folder: Path, episode_id: str) -> Path:
    episode = Episode(episode_id, "go", {}, np.zeros((3, 7), np.float32), np.zeros((2, 7), np.float32), np.arange(3))
    return write_episode(folder, episode, robot="r")


def test_enqueued_episode_carries_id_size_and_digest(tmp_path):
    spool = Spool(tmp_path)
    path = make_episode(spool.recording_folder, "one")
    size, digest = path.stat().st_size, file_digest(path)
    entry = spool.enqueue(path)
    assert (entry.episode_id, entry.size, entry.digest) == ("one", size, digest)
    assert not path.exists()
    assert Spool(tmp_path).entries() == [entry]
    spool.remove(entry)
    spool.remove(entry)
    assert spool.entries() == []


def test_recover_enqueues_finished_and_cut_recordings(tmp_path):
    spool = Spool(tmp_path)
    finished = make_episode(spool.recording_folder, "finished")
    data = finished.read_bytes()
    (spool.recording_folder / "cut.mcap.partial").write_bytes(data[: len(data) // 2])
    (spool.recording_folder / "empty.mcap.partial").write_bytes(b"")
    entries = {entry.episode_id: entry for entry in spool.recover()}
    assert set(entries) == {"finished", "cut"}
    assert read_summary(entries["cut"].path).end.truncated_reason == "crash"
    assert [path.name for path in (spool.recording_folder / "unreadable").iterdir()] == ["empty.mcap.partial"]
    assert spool.recover() == []


def test_enqueue_after_a_recovery_was_faster_is_the_same_entry(tmp_path):
    spool = Spool(tmp_path)
    path = make_episode(spool.recording_folder, "raced")
    [entry] = spool.recover()
    assert spool.enqueue(path) == entry
    with pytest.raises(ContractError, match="does not exist"):
        spool.enqueue(spool.recording_folder / "never.mcap")


def test_full_spool_pauses_and_drops_nothing(tmp_path):
    spool = Spool(tmp_path, max_bytes=1)
    spool.enqueue(make_episode(spool.recording_folder, "one"))
    assert spool.usage().full
    with pytest.raises(DiskFullError, match="nothing was dropped"):
        spool.check_space()
    assert len(spool.entries()) == 1


def test_drop_oldest_is_explicit_and_counted(tmp_path):
    first = Spool(tmp_path)
    first.enqueue(make_episode(first.recording_folder, "old"))
    size = first.usage().bytes
    spool = Spool(tmp_path, max_bytes=size + 10, on_full="drop_oldest")
    spool.enqueue(make_episode(spool.recording_folder, "new"))
    assert [entry.episode_id for entry in spool.entries()] == ["new"]
    assert spool.usage().dropped == 1
    with pytest.raises(ConfigError, match="forget"):
        Spool(tmp_path, on_full="forget")


def test_refused_episode_is_kept_with_its_reason(tmp_path):
    spool = Spool(tmp_path)
    entry = spool.enqueue(make_episode(spool.recording_folder, "bad"))
    kept = spool.set_aside(entry, "digest differs")
    assert spool.entries() == []
    assert spool.refused() == [kept]
    assert kept.with_suffix(".reason").read_text() == "digest differs\n"


def test_full_disk_neither_stops_the_loop_nor_loses_a_step(tmp_path, monkeypatch):
    """The writer thread waits for space while steps go on; when space is back everything is there."""
    real_write, space = durable_module.os.write, {"left": False}

    def write(descriptor, data):
        if not space["left"]:
            raise OSError(28, "No space left on device")
        return real_write(descriptor, data)

    monkeypatch.setattr(durable_module.os, "write", write)
    recorder = EpisodeRecorder(tmp_path, robot="r", finish_timeout_s=0.3)
    recorder.on_reset(["go"], observation(0))
    for step in range(5):
        requested, result, chunk = step_of(step)
        recorder.on_step(requested, result, chunk, 0)
    space["left"] = True
    assert read_summary(recorder.finish()).steps == 5

    space["left"] = False
    recorder.on_reset(["go"], observation(0))
    with pytest.raises(DiskFullError, match="free some space"):
        recorder.finish()

"""The door a checkpoint goes through: tried in a process of its own, with a deadline on every stage."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gymnast_core.episodes import write_episode
from gymnast_core.records.manifest import write_checkpoint
from gymnast_core.types import Episode
from gymnast_ros.shadow import RefusedCheckpointError, ShadowBook, StageLimits, keep_episode, recorded_observations
from gymnast_ros.shadow import book as book_module

PLANTED = Path(__file__).parents[1] / "journeys" / "planted"
QUICK = StageLimits(first_s=1.0, answer_s=1.0)


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Makes checkpoints of an architecture that this machine's lab has added."""
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))
    monkeypatch.setenv("PLANTED_LOG", str(tmp_path / "asked"))

    def make(does: str) -> Path:
        folder = tmp_path / does
        weights = save({"nothing": np.zeros(1, np.float32)})
        write_checkpoint(folder, weights, kind="policy", architecture="planted", config={"does": does})
        return folder

    return make


def record(folder: Path, name: str, colour: int = 100) -> Path:
    frames = np.full((6, 32, 32, 3), colour, np.uint8)
    episode = Episode(
        name, "lift it", {"over_shoulder": frames}, np.zeros((6, 7), np.float32), np.zeros((5, 7), np.float32),
        np.arange(6, dtype=np.int64) * 200_000_000,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    return write_episode(folder, episode, robot="sim-0", created_ns=time.time_ns())


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("hang", "it hangs: no answer within 1 s"),
        ("crash", "its process was killed, most likely for want of memory"),
        ("nan", "an action is not finite"),
        ("unknown", "it does not load"),
    ],
)
def test_what_may_not_run_is_refused_and_is_no_trouble_of_the_one_who_asks(plant, tmp_path, does, reason):
    checkpoint = plant(does)
    with pytest.raises(RefusedCheckpointError, match=reason):
        ShadowBook(tmp_path / "robot", patience=QUICK).require(checkpoint)
    assert not list((tmp_path / "robot" / "shadow").glob("*.json")), "a failure is not written down: it may be mended"


def test_a_pass_is_written_down_and_holds_for_other_processes(plant, tmp_path, monkeypatch):
    checkpoint = plant("good")
    ShadowBook(tmp_path / "robot").require(checkpoint)
    monkeypatch.setattr(book_module.subprocess, "Popen", None)  # nothing is started again
    ShadowBook(tmp_path / "robot").require(checkpoint)


def test_what_passed_before_anything_was_recorded_is_asked_again_about_recordings(plant, tmp_path):
    book, checkpoint = ShadowBook(tmp_path / "robot"), plant("good")
    first = book.check(checkpoint)
    assert (first.reason, first.recorded) == ("", False)
    assert book.passed(checkpoint_id(checkpoint))
    keep_episode(record(tmp_path / "spool", "ep-1"), book.recent)
    assert not book.passed(checkpoint_id(checkpoint))
    again = book.check(checkpoint)
    assert (again.reason, again.recorded, again.observations) == ("", True, 4)
    assert book.passed(checkpoint_id(checkpoint))


def checkpoint_id(folder: Path) -> str:
    from gymnast_core.records.manifest import read_manifest

    return read_manifest(folder).id


def test_the_last_three_recordings_are_kept_after_the_spool_has_let_go(tmp_path):
    recent = tmp_path / "recent"
    for number in range(5):
        keep_episode(record(tmp_path / "spool", f"ep-{number}", 40 * number), recent)
    shutil.rmtree(tmp_path / "spool")
    assert sorted(path.stem for path in recent.iterdir()) == ["ep-2", "ep-3", "ep-4"]
    (recent / "ep-3.mcap").write_bytes(b"damaged")
    found = recorded_observations(recent)
    assert len(found) == 8
    assert {instruction for _, instruction in found} == {"lift it"}
    assert all(observation.batch_size == 1 for observation, _ in found)

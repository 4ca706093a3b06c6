"""What a robot says of its checkpoints is heard once, written down with its time, and found again after a restart."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from cloud_trainer.records.recorder import Recorder
from cloud_trainer.records.trail import Trails
from cloud_trainer.service import words as words_module
from cloud_trainer.service.words import RobotWords
from cloud_trainer.store.database import Database
from cloud_trainer.store.sql_meta import SqlMetaStore
from gymnast_core.wire.identity import Peer

ROBOT, OTHERS = Peer("wx-1", "robot", "default"), Peer("wx-1", "robot", "another-lab")
NOTHING = {"current": "", "obeyed": 0, "ran": "", "refused": {}}


@pytest.fixture
def trails(tmp_path):
    with closing(Database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        recorder = Recorder(database)
        yield Trails(tmp_path, database, SqlMetaStore(database, recorder), recorder)


def test_a_word_is_noted_once_and_keeps_the_time_it_was_heard_first(trails):
    words = RobotWords(trails)
    said = {**NOTHING, "current": "policy-a", "obeyed": 7, "refused": {"policy-b": "an action is not finite"}}
    for _ in range(3):
        words.heard(ROBOT, said)
    runs, refused = sorted(words.of("default"), key=lambda word: word.word, reverse=True)
    assert (runs.word, runs.checkpoint_id, runs.release) == ("runs", "policy-a", 7)
    assert (refused.word, refused.checkpoint_id, refused.reason) == ("refused", "policy-b", "an action is not finite")
    entries = trails.of("default").log.entries
    assert [(entry.kind, entry.data["by"]) for entry in entries] == [("runs", "wx-1"), ("refused", "wx-1")]
    words.heard(ROBOT, {**said, "obeyed": 8, "refused": {}})
    assert [(word.checkpoint_id, word.release) for word in words.of("default")] == [("policy-a", 8)]
    assert words.of("default")[0].at_ns > runs.at_ns


def test_words_outlive_the_process_and_stay_with_their_tenant(trails):
    words = RobotWords(trails)
    words.heard(ROBOT, {**NOTHING, "current": "policy-a", "ran": "policy-a"})
    words.heard(OTHERS, {**NOTHING, "current": "policy-z"})
    again = RobotWords(trails)
    for was, found in zip(words.of("default"), again.of("default"), strict=True):
        assert replace(found, at_ns=was.at_ns) == was
        assert 0 <= found.at_ns - was.at_ns < 10**9
    assert {word.checkpoint_id for word in again.of("another-lab")} == {"policy-z"}
    assert again.of("default", robot="wx-2") == []


def test_a_robot_that_changes_its_mind_all_the_time_does_not_fill_the_log(trails, monkeypatch):
    monkeypatch.setattr(words_module, "_NOTES_PER_HOUR", 5)
    words = RobotWords(trails)
    for number in range(40):
        words.heard(ROBOT, {**NOTHING, "current": f"policy-{number}"})
    assert len(trails.of("default").log.entries) == 5
    assert [word.checkpoint_id for word in words.of("default")] == ["policy-39"]

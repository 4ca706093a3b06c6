"""Calls for a person on their way: over cut links, kills and restarts of either side, and the answer's way back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_core.paging import Acknowledgement, Page
from gymnast_ros import outbox as outbox_module
from gymnast_ros.outbox import PageOutbox
from gymnast_ros.uplink import PageCourier
from tests.receivers import until


@contextmanager
def courier(address, identity, outbox):
    running = PageCourier(address, identity, outbox)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def service_on(folder, port=0):
    return Service(ServiceConfig(folder=folder / "trainer", port=port))


@pytest.fixture
def identity(tmp_path):
    return enroll(tmp_path / "trainer" / "ca", "wx-1", "robot", out=tmp_path / "ids" / "wx-1")


def calls(service):
    return service.pages.store.calls("default")


def test_a_call_reaches_the_trainer_and_its_answer_the_robot(tmp_path, identity):
    outbox = PageOutbox(tmp_path / "robot", "wx-1")
    before = outbox.page("motor_fault", "elbow", motor="elbow", tries=3)  # raised before there is any link
    with service_on(tmp_path) as service, courier(service.address, identity, outbox):
        row = until(lambda: calls(service), "the call")[0]
        assert (row.page_id, row.robot, row.text, row.detail) == (
            before,
            "wx-1",
            "elbow",
            {"motor": "elbow", "tries": 3},
        )
        assert outbox.answer(before) is None
        service.pages.acknowledge("default", before, "ada", "freed it")
        answer = until(lambda: outbox.answer(before), "the answer")
        assert (answer.by, answer.note) == ("ada", "freed it")
        assert outbox.unanswered() == []


def test_cut_links_and_restarts_of_both_sides_lose_and_double_nothing(tmp_path, identity):
    outbox, names = PageOutbox(tmp_path / "robot", "wx-1"), []
    with service_on(tmp_path) as service:
        port = int(service.address.rpartition(":")[2])
        with courier(service.address, identity, outbox):
            names.append(outbox.page("hard_reset", "first"))
            until(lambda: len(calls(service)) == 1, "the first call")
    names.append(outbox.page("spool_full", "while the trainer is away"))
    with courier(f"127.0.0.1:{port}", identity, outbox):
        names.append(outbox.page("arm_fault", "while the robot tries"))
        with service_on(tmp_path, port) as service:
            until(lambda: len(calls(service)) == 3, "all three")
            service.pages.acknowledge("default", names[0], "ada", "")
            until(lambda: outbox.answer(names[0]), "the answer to the one from before the restart")
            assert {row.page_id for row in calls(service)} == set(names)
            assert {row.count for row in calls(service)} == {1}


def test_answers_given_at_the_robot_while_the_trainer_was_away_answer_no_later_call(tmp_path, identity):
    outbox = PageOutbox(tmp_path / "robot", "wx-1")
    for number in range(3):
        outbox.resolve(outbox.page("hard_reset", f"scene {number}"), "bea")
    last = outbox.page("hard_reset", "scene 3")
    other = outbox.page("lost_object", "the cube")
    with service_on(tmp_path) as service, courier(service.address, identity, outbox):
        until(lambda: len(outbox.unanswered()) == 2 and not outbox.waiting(9), "all of them")
        assert {row.page_id for row in calls(service) if not row.acknowledged_by} == {last, other}
        assert outbox.answer(last) is None, "nobody has looked after this one: the arm must not move"
        service.pages.acknowledge("default", last, "ada", "")
        assert until(lambda: outbox.answer(last), "its own answer").by == "ada"


def test_a_trainer_that_lost_its_database_is_sent_the_open_ones_again(tmp_path, identity):
    outbox = PageOutbox(tmp_path / "robot", "wx-1")
    name = outbox.page("hard_reset", "put the cube back")
    outbox.taken([name])  # as an older backup of the trainer would leave it
    with service_on(tmp_path) as service, courier(service.address, identity, outbox):
        assert until(lambda: calls(service), "the call")[0].page_id == name


def test_an_answer_at_the_robot_ends_the_calls_at_the_trainer(tmp_path, identity):
    outbox = PageOutbox(tmp_path / "robot", "wx-1")
    early, late = outbox.page("hard_reset", "before there was a link"), outbox.page("arm_fault", "camera")
    outbox.resolve(early, "bob")
    with service_on(tmp_path) as service, courier(service.address, identity, outbox):
        until(lambda: len(calls(service)) == 2, "both calls")
        outbox.resolve(late, "bob")
        until(lambda: all(row.acknowledged_ns for row in calls(service)), "both answers")
        assert {(row.acknowledged_by, row.note) for row in calls(service)} == {("robot:wx-1/bob", "at the robot")}
        until(lambda: outbox.resolved([early, late]) == {}, "the robot to know that")
    assert outbox.waiting(9) == []
    answer = outbox.answer(early)
    assert answer is not None
    assert answer.by == "bob"


KILLED = """
import os, signal, sys
from pathlib import Path
from gymnast_ros.outbox import PageOutbox
print(PageOutbox(Path(sys.argv[1]), "wx-1").page("lost_object", "the cube is gone"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_right_after_its_call_has_called(tmp_path, identity):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "robot")], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    outbox = PageOutbox(tmp_path / "robot", "wx-1")
    with service_on(tmp_path) as service, courier(service.address, identity, outbox):
        row = until(lambda: calls(service), "the call")[0]
    assert row.page_id == done.stdout.strip()


class TestOutbox:
    @pytest.fixture
    def outbox(self, tmp_path):
        return PageOutbox(tmp_path, "wx-1")

    def test_it_is_bounded_and_counts_what_joins(self, outbox, monkeypatch):
        monkeypatch.setattr(outbox_module, "MOST", 5)
        for number in range(20):
            outbox.page("over_force", f"push {number}")
        waiting = outbox.waiting(100)
        assert len(waiting) == 5
        assert waiting[-1].text == "push 19"
        assert waiting[-1].detail == {"repeated": 15}
        outbox.page("motor_fault", "elbow")  # another kind always finds room, and goes before the flood
        assert {page.kind for page in outbox.waiting(2)} == {"motor_fault", "over_force"}
        assert sorted(page.kind for page in outbox.waiting(100)) == ["motor_fault", *["over_force"] * 4]

    def test_what_is_no_json_or_too_large_is_left_out_and_the_call_comes(self, outbox):
        outbox.page("arm_fault", "x" * 5000, what=object())  # type: ignore[arg-type]
        outbox.page("estop", "y", many="z" * 100_000)
        texts = {page.kind: (len(page.text), list(page.detail)) for page in outbox.waiting(9)}
        assert texts == {"arm_fault": (1000, ["left_out"]), "estop": (1, ["left_out"])}

    def test_a_full_disk_raises_nothing_and_the_call_comes_later(self, outbox, monkeypatch):
        monkeypatch.setattr(outbox_module, "write_durably", refuse)
        name = outbox.page("spool_full", "no room")
        assert outbox.waiting(9) == []
        assert outbox.answer(name) is None
        monkeypatch.undo()
        assert [page.page_id for page in outbox.waiting(9)] == [name]

    def test_a_file_that_makes_no_sense_is_put_aside(self, outbox, tmp_path):
        name = outbox.page("estop", "stopped")
        for number, text in enumerate(("{", "[]", '{"state": "waiting"}', json.dumps({"state": "x"}))):
            (tmp_path / "pages" / f"page-{number:016x}.json").write_text(text)
        assert [page.page_id for page in outbox.waiting(9)] == [name]
        assert len(list((tmp_path / "pages").glob("*.unreadable"))) == 4

    def test_answers_of_yesterday_are_thrown_away(self, outbox, tmp_path):
        old, new = outbox.page("estop", "old"), outbox.page("arm_fault", "new")
        outbox.answered(old, Acknowledgement("ada", 1))
        outbox.answered(new, Acknowledgement("ada", Page("x", "", "").at_ns))
        assert [path.stem for path in (tmp_path / "pages").glob("*.json")] == [new]
        assert (tmp_path / "pages").stat().st_mode & 0o077 == 0


def refuse(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")

"""Later attempts of a retry count nowhere: training, a scene's records, the ledger, and a job that names episodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_trainer.app.jobs import _recorded
from cloud_trainer.console import Console, User
from cloud_trainer.console.app import create_app
from cloud_trainer.flows.replay_watch import ReplayWatch
from cloud_trainer.flows.scene_records import SceneRecords
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.jobs.submission import check_submission
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_cli.main import main
from gymnast_client import Trainer
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.attempts import Attempt
from gymnast_core.evaluation.recorded_attempts import retried
from gymnast_core.jobs import ImitateSettings, ImitateSpec, ImproveSpec
from gymnast_core.orders import EpisodeAnswer, EvaluationAnswer, answer_of
from tests.bridge.conftest import make_checkpoint
from tests.core.test_attempts import JSON

TASK = "lift the red cube"
PURPOSES = ("collect", "ttt", "evaluate")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A trainer that has, of each purpose, an episode of its own, and the three attempts of a group."""
    folder: Path = tmp_path_factory.mktemp("trainer")
    rows, file = [], folder / "an episode's file"
    file.write_text("nobody reads it here")
    digest = file_digest(file)
    for purpose in PURPOSES:
        tries = [None, *(Attempt(f"g-{purpose}", index, 3).to_json() for index in range(3))]
        for number, attempt in enumerate(tries):
            metadata = {"purpose": purpose, "scene": "bench", **({} if attempt is None else {"attempt": attempt})}
            rows.append(
                EpisodeRow(
                    0, "default", f"{purpose}-{number}", "wx-0", digest, 1, 0, "valid", "", TASK,
                    "success" if number == 3 else "failure", "operator:me", 15, "policy-1", metadata,
                )
            )  # fmt: skip
    with Service(ServiceConfig(folder=folder, insecure=True)) as running:
        running.blobs.put_file(file, digest)
        running.meta.add_episodes(rows)
        yield running


def test_a_job_learns_from_first_attempts(service) -> None:
    context = SimpleNamespace(episodes=service.episodes_of("default"))
    names = {entry.episode_id for entry in _recorded(context, ImproveSpec(policy="policy-1"))}
    assert names == {"collect-0", "collect-1", "ttt-0", "ttt-1"}


def test_imitation_may_be_asked_to_learn_from_later_attempts_too(service) -> None:
    context = SimpleNamespace(episodes=service.episodes_of("default"))
    for retries, count in ((False, 4), (True, 8)):
        spec = ImitateSpec(policy="policy-1", config=ImitateSettings(retries=retries))
        names = {entry.episode_id for entry in _recorded(context, spec)}
        assert (len(names), any(name.startswith("evaluate") for name in names)) == (count, False)


def test_a_scene_is_counted_by_first_attempts(service) -> None:
    """By its successes, too: the one of the third attempt is none."""
    records = SceneRecords(service.episodes_of("default"), "wx-0", "bench", TASK)
    assert {row.episode_id for row in records.labelled()} == {"collect-0", "collect-1", "ttt-0", "ttt-1"}
    assert {row.outcome for row in records.to_look_at(100)} == {"failure"}


def test_the_ledger_gets_first_attempts(service) -> None:
    catalogue = service.episodes_of(None)
    watch = ReplayWatch(catalogue, service.jobs, service.ledgers.of, lambda tenant, policy: True)
    watch.look()
    (job_id,) = watch.look()
    assert service.jobs.get("default", job_id).spec["episodes"] == ["evaluate-0", "evaluate-1"]


def test_a_job_that_names_a_later_attempt_is_refused(service, tmp_path) -> None:
    shelves = Shelves(tmp_path)
    make_checkpoint(tmp_path / "policy", kind="policy")
    policy = shelves.of("default").add(tmp_path / "policy").id
    check = partial(check_submission, shelves, service.episodes_of, "default", "replay")
    check({"policy": policy, "episodes": ["evaluate-0", "evaluate-1"]})
    with pytest.raises(ConfigError, match="episodes evaluate-3 were tried again after a judged failure"):
        check({"policy": policy, "episodes": ["evaluate-1", "evaluate-3"]})


def again(
    group: str, index: int, outcome: str, judged: str, *, by: str = "robot:wx-0/operator:sim", of: int = 3, **more
):
    """An attempt as a robot records it."""
    metadata = {
        "purpose": "evaluate", "attempt": Attempt(group, index, of).to_json(),
        "judge": {"id": "judge-1", "outcome": judged, "score": 0.5, "frame": 3, "reason": ""}, **more,
    }  # fmt: skip
    return EpisodeRow(
        0,
        "default",
        f"{group}-{index}",
        "wx-0",
        "0" * 64,
        1,
        0,
        "valid",
        "",
        TASK,
        outcome,
        by,
        15,
        "policy-9",
        metadata,
    )


def test_a_loop_a_trial_and_a_queue_take_first_attempts_from_a_robots_answer() -> None:
    """They read `episodes`, where a robot puts first attempts alone (tests/ros/test_retry_graph.py)."""
    first = {"episode_id": "a-0", "success": False, "labelled_by": "operator:sim", "truncated_reason": "",
             "task": "lift", "instruction": TASK, "seed": 7}  # fmt: skip
    later = {**first, "episode_id": "a-1", "success": True}
    answer = {"episodes": [first], "groups": [{"group": "a", "ended": "success", "retries": [later]}], "retried": {}}
    read = answer_of(EvaluationAnswer, "wx-0", "evaluate", answer)
    assert [(row.episode_id, row.success) for row in read.episodes] == [("a-0", False)]
    one = answer_of(EpisodeAnswer, "wx-0", "run_episode", {**first, "ended": "success", "retries": [later]})
    assert (one.episode_id, one.success) == ("a-0", False)


RETRIED = [
    again("a", 0, "success", "success"),
    again("b", 0, "failure", "failure"), again("b", 1, "success", "success"),
    again("c", 0, "failure", "success"),  # a false success
    again("d", 0, "failure", "failure"), again("d", 1, "failure", "failure"), again("d", 2, "failure", "failure"),
    again("e", 0, "success", "success", by="judge:judge-1"),  # a judge's word is no ground truth
    again("f", 0, "failure", "failure"),  # cancelled, or the rest is on its way
    again("g", 0, "failure", "failure"), again("g", 1, "unlabelled", "", truncated_reason="estop"),
    again("h", 1, "success", "success"),  # its first attempt was withdrawn
    replace(again("i", 0, "success", "success"), metadata={"purpose": "collect"}),  # nothing to do with it
]  # fmt: skip


@pytest.fixture(scope="module")
def retried_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(ServiceConfig(folder=tmp_path_factory.mktemp("retried"), insecure=True)) as running:
        running.meta.add_episodes(RETRIED)
        yield running


def test_what_trying_again_came_to_is_the_same_for_page_and_client(retried_at) -> None:
    with Trainer(retried_at.address, None, insecure=True) as there:
        (found,) = there.episodes.retried()
    figures = found.figures
    assert (found.policy, figures["groups"], figures["of"]) == ("policy-9", 7, 3)
    assert [(figures[name]["k"], figures[name]["n"]) for name in ("pass_1", "pass_n")] == [(1, 4), (2, 4)]
    assert (figures["false_positives"]["k"], figures["false_positives"]["n"]) == (1, 3)
    assert figures["ended"] == {"estop": 1, "exhausted": 1, "success": 4, "unfinished": 1}
    console = Console(retried_at)
    token = console.gate.issue(User("ada", "operator"))
    page = TestClient(create_app(console.sources, console.gate), headers={"Authorization": f"Bearer {token}"})
    shown = " ".join(re.sub(r"<[^>]+>", " ", page.get("/evaluations").text).split())
    assert "Tried again after a judged failure" in shown
    assert "policy-9 7 25 % 5 % to 70 % 50 % 15 % to 85 % N = 3" in shown
    assert "estop 1, exhausted 1, success 4, unfinished 1" in shown
    listed = page.get("/episodes")
    assert listed.status_code == 200
    assert "attempt 2 of 3" in listed.text
    assert "Attempt" not in page.get("/episodes/i-0").text
    assert "2 of at most 3; after a judged failure, so it counts in no evaluation" in page.get("/episodes/b-1").text


def test_the_page_asks_for_it_with_an_evaluation(retried_at) -> None:
    weights = {"held": ["policy-9"]}
    status = {"state": "idle", "takes_orders": True, "policy_version": "policy-9", "weights": weights}
    retried_at.robots.post(User("wx-0", "robot"), status, b"")
    console = Console(retried_at)
    token = console.gate.issue(User("ada", "operator"))
    page = TestClient(create_app(console.sources, console.gate), headers={"Authorization": f"Bearer {token}"})
    asked = {"kind": "evaluation", "robots": "wx-0", "tasks": "lift"}
    for wrong, said in (({"retry": "1"}, "retry.max"), ({"retry_judge": "judge-1"}, "needs a number of attempts")):
        refused = page.post("/queue", data={**asked, **wrong}, headers={"Accept": "application/json"})
        assert (refused.status_code, said in refused.text) == (422, True), refused.text
    added = page.post("/queue", data={**asked, "retry": "3"}, headers={"Accept": "application/json"})
    assert added.status_code == 200, added.text
    with Trainer(retried_at.address, None, insecure=True) as there:
        (entry,) = there.queue.list()
    assert entry.spec["retry"] == {"max": 3, "judge": ""}


def test_what_trying_again_came_to_is_printed(retried_at, capsys) -> None:
    there = ("--trainer", retried_at.address, "--insecure")
    wrong = ("queue", "add", "practice", "--task", "put", "--reset", "take", "--hours", "1", "--retry", "2")
    assert main([*wrong, *there]) == 2
    assert "practice tries on by itself" in " ".join("".join(capsys.readouterr()).split())
    assert main(["--json", "operate", "retries", *there]) == 0
    (row,) = json.loads(capsys.readouterr().out)["retried"]
    assert (row["policy"], row["figures"]["pass_n"]["k"]) == ("policy-9", 2)
    assert main(["operate", "retries", *there]) == 0
    shown = capsys.readouterr().out
    assert "2/4 = 50%" in shown
    assert "apart from everything else" in shown


@settings(deadline=None)
@given(metadata=st.dictionaries(st.sampled_from(["attempt", "judge", "truncated_reason"]), JSON))
def test_metadata_that_make_no_sense_are_left_out(metadata) -> None:
    """They come from robots."""
    rows = [replace(RETRIED[0], metadata=metadata), *RETRIED[1:3]]
    groups = [found.figures["groups"] for found in retried(rows)]
    assert sum(groups) in (1, 2)

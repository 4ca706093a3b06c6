"""`gymnast operate` against a page that is served: the same handlers, guards and messages as in a browser."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cloud_trainer.console import Console
from cloud_trainer.flows.adaptation_engine import SceneRequest
from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_cli.main import main
from gymnast_client import Trainer
from gymnast_core.errors import ConfigError, OutdatedError
from gymnast_core.wire.errors import NotFoundError


@pytest.fixture
def operate(bench, capsys):
    """Runs `gymnast --json operate ...` as an administrator; returns the exit code and what was printed."""
    address = bench.service.start()
    bench.console.start()

    def run(*words):
        code = main(["--json", "operate", *words, "--trainer", address, "--insecure"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_robots_tell_their_state_and_how_long_ago(bench, operate):
    bench.report({"state": "ready", "policy_version": "policy-a", "spool": {"entries": 2}})
    code, said = operate("robots")
    (row,) = said["robots"]
    assert (code, row["robot"], row["state"], row["policy_version"], row["silent"]) == (
        0, "bridge-1", "ready", "policy-a", False,
    )  # fmt: skip
    assert 0 <= row["age_s"] < 5


def test_an_adaptation_goes_from_scene_to_kept_without_a_browser(bench, operate):
    asked = ("--scene", "evening", "--seed", "7", "--judge", "judge-a", "--config", '{"groups": 4}')
    asked += ("--other-tasks", "push; close the drawer")
    code, view = operate("adapt", "bridge-1", "--instruction", "lift", *asked, "--wait")
    assert (code, view["stage"], view["scene"]) == (0, "ready", "evening")
    assert bench.engine.asked == SceneRequest(
        "bridge-1",
        "lift",
        "evening",
        "",
        "judge-a",
        7,
        {"groups": 4},
        ["push", "close the drawer"],
        "insecure",
    )
    name = view["adaptation_id"]
    code, view = operate("step", name, "train", "--minutes", "2", "--rollouts", "500", "--mode", "lora", "--wait")
    assert (code, view["stage"], view["candidate"]) == (0, "preview", "policy-candidate")
    assert (view["budget"]["seconds"], view["budget"]["rollouts"]) == (120, 500)
    code, view = operate("step", name, "approve", "--wait")
    assert (code, view["stage"]) == (0, "kept")
    assert bench.engine.calls[-1] == "keep"
    assert [row["stage"] for row in operate("adaptations")[1]["adaptations"]] == ["kept"]
    assert operate("evaluations")[1]["cards"][0]["decision"] == "promote"
    done = [entry["action"] for entry in operate("log")[1]["entries"]]
    assert done == ["adapt", "adapt: train", "adapt: approve"]


def test_a_trial_is_begun_followed_and_listed_without_a_browser(bench, operate):
    name = bench.add_policy(0.01)
    assert operate("offer", name, "--robot", "brigde-1")[0] != 0
    assert operate("offer", name, "--robot", "bridge-1")[0] == 0
    words = ("try", name, "--robot", "bridge-1", "--instruction", "lift", "--pairs", "20", "--against")
    code, said = operate(*words, "policy-nowhere")
    assert (code != 0, "'policy-nowhere' is no checkpoint of this trainer" in str(said)) == (True, True), said
    words = (*words, bench.add_policy(0.015))
    code, view = operate(*words, "--wait")
    assert (code, view["state"], view["card"]["decision"]) == (0, "decided", "promote")
    code, said = operate("promote", name, "--robot", "bridge-1")
    assert (code, "on bridge-1" in str(said)) == (0, True), said
    release = json.loads(bench.service.meta.releases("default")[-1].payload)
    assert (release["kind"], release["robots"]) == ("promotion", ["bridge-1"])
    bench.engine.wins = False
    code, view = operate(*words, "--wait")
    assert (code, view["card"]["decision"]) == (3, "futile")
    bench.engine.hold["trial"].clear()
    code, view = operate(*words)
    assert (code, view["state"]) == (0, "running")
    code, said = operate("stop-trial", view["trial_id"])
    assert (code, "ends after the run at hand" in said["said"]) == (0, True)
    states = [row["state"] for row in operate("evaluations")[1]["trials"]]
    assert states == ["stopped", "decided", "decided"]


def test_a_canary_that_does_not_win_exits_with_three(bench, operate):
    bench.engine.wins = False
    name = operate("adapt", "bridge-1", "--instruction", "lift", "--wait")[1]["adaptation_id"]
    operate("step", name, "train", "--wait")
    code, view = operate("step", name, "approve", "--wait")
    assert (code, view["stage"]) == (3, "reverted")


def test_what_the_page_refuses_is_refused_with_its_words(bench, operate):
    name = operate("adapt", "bridge-1", "--instruction", "lift", "--wait")[1]["adaptation_id"]
    code, said = operate("step", name, "train", "--revision", "0")
    assert code == 1
    assert "revision" in said["message"] or "changed" in said["message"] or "page" in said["message"]
    operate("step", name, "cancel")
    for more in (("--world-model", "world_model-nowhere"), ("--seed", "-1")):
        assert operate("adapt", "bridge-1", "--instruction", "lift", *more)[0] == 2
    code, said = operate("adapt", "nobody", "--instruction", "lift")
    assert (code, "has not reported here" in said["message"]) == (1, True)
    code, said = operate("promote", bench.add_policy(0.0))
    assert (code, "has not won a trial" in said["message"]) == (3, True)
    code, said = operate("step", name, "train", "--minutes", "nan")
    assert code != 0


def test_an_empty_ledger_is_an_answer(operate):
    code, said = operate("ledger")
    assert (code, said["overall"], said["tasks"]) == (0, None, {})


def test_people_get_tables(bench, operate, capsys):
    bench.adapt(bench.client("ana", "operator"), "ready")
    address = bench.service.address
    for what, words in {"robots": "bridge-1", "log": "ana", "ledger": "real", "adaptations": "lift"}.items():
        assert main(["operate", what, "--trainer", address, "--insecure"]) == 0
        assert words in capsys.readouterr().out


def test_over_tls_the_certificate_is_the_login(tmp_path, capsys):
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service, Console(service, tls=True):
        for name, code in {"ada": 0, "bridge-1": 77}.items():
            enroll(service.authority, name, "operator" if code == 0 else "robot", out=tmp_path / name)
            words = ["--json", "operate", "robots", "--trainer", service.address, "--identity", str(tmp_path / name)]
            assert main(words) == code
            assert ("robots" in json.loads(capsys.readouterr().out)) == (code == 0)


def test_a_program_is_answered_whether_or_not_there_is_a_page(bench):
    with Trainer(bench.service.start(), None, insecure=True) as trainer:
        with pytest.raises(ConfigError, match="serves no page; start it without --no-console"):
            trainer.log_in()
        (robot,) = trainer.robots.list()
        assert (robot.robot, robot.state, robot.spool.entries, robot.words.runs) == ("bridge-1", "ready", 0, None)
        begun = trainer.adaptations.begin("bridge-1", "lift")
        with pytest.raises(OutdatedError) as refused:
            trainer.adaptations.approve(replace(begun, revision=-1))
        assert refused.value.revision == trainer.adaptations.get(begun.adaptation_id).revision
        with pytest.raises(NotFoundError, match="there is no adaptation 'adapt-0'"):
            trainer.adaptations.get("adapt-0")


def test_a_picture_larger_than_a_message_comes_whole(bench):
    name = bench.adapt(bench.client("ana", "operator"), "ready")
    film = bytes(range(256)) * 20_000
    (bench.ask.flows.adaptations.get("default", name).folder / "old.webp").write_bytes(film)
    with Trainer(bench.service.start(), None, insecure=True) as trainer:
        assert trainer.adaptations.picture(name, "old") == film
        with pytest.raises(NotFoundError, match="there is no picture 'new' yet"):
            trainer.adaptations.picture(name, "new")

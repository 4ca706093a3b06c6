"""`gymnast ttt` against a trainer and its page: whatever an adaptation may come to, and what the command does then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import rich.console

from cloud_trainer.console import Console, User
from cloud_trainer.flows.adaptation_engine import CanaryVerdict
from cloud_trainer.service import Service, ServiceConfig
from gymnast_cli.commands.ttt import Screen, progress
from gymnast_cli.main import main
from gymnast_client import AdaptationView
from tests.console.conftest import Bench, SteeredEngine, wait_for

HERE = ("ttt", "--instruction", "lift", "--scene", "pink_cube")


@pytest.fixture
def ttt(bench: Bench, capsys):
    """Runs `gymnast --json ttt`; returns the exit code and what was printed."""
    address = bench.service.start()
    bench.console.start()

    def run(*words: str):
        code = main(["--json", *HERE, *words, "--trainer", address, "--insecure"])
        return code, json.loads(capsys.readouterr().out)

    return run


def only(bench: Bench):
    (flow,) = bench.ask.flows.adaptations.of("default")
    return flow.view


def test_one_command_goes_from_scene_to_kept(bench, ttt):
    budget = ("--minutes", "2", "--rollouts", "900", "--money", "0.5", "--mode", "full")
    code, said = ttt("--yes", "--seed", "4", "--config", '{"groups": 4}', *budget)
    assert (code, said["kept"], said["stage"], said["robot"], said["scene"]) == (
        0,
        True,
        "kept",
        "bridge-1",
        "pink_cube",
    )
    assert (said["iterations"], said["rollouts"], said["card"]["decision"]) == (3, 300, "promote")
    view = only(bench)
    assert (view.budget["seconds"], view.budget["rollouts"], view.budget["money"], view.mode) == (120, 900, 0.5, "full")
    assert (bench.engine.asked.seed, bench.engine.asked.config) == (4, {"groups": 4})


def test_an_override_reaches_the_job_and_the_log_names_its_reason(bench, ttt, capsys):
    why = ("--override", "jump=the lamp flickers", "--override", "psnr_db=dim light")
    code, said = ttt("--yes", *why, "--config", '{"overrides": {"lag": "was named in the file"}, "groups": 4}')
    ignored = {"lag": "was named in the file", "jump": "the lamp flickers", "psnr_db": "dim light"}
    assert (code, bench.engine.asked.config) == (0, {"groups": 4, "overrides": ignored})
    assert main(["--json", "operate", "log", "--trainer", bench.service.address, "--insecure"]) == 0
    begun = [row for row in json.loads(capsys.readouterr().out)["entries"] if row["action"] == "adapt"]
    assert [(row["adaptation"], row["overrides"]) for row in begun] == [(said["adaptation_id"], ignored)]


@pytest.mark.parametrize("words", ["jump", "jump=", "jump= ", "=tired of it"])
def test_an_override_without_bound_or_reason_moves_no_arm(bench, ttt, words, capsys):
    with pytest.raises(SystemExit) as ended:
        ttt("--yes", "--override", words)
    assert (ended.value.code, bench.engine.calls) == (2, [])
    assert f"{words!r} is no BOUND=REASON" in capsys.readouterr().err


def test_what_the_trust_check_asks_for_is_collected_up_to_the_limit(bench, ttt, monkeypatch):
    bench.engine.trusted = False
    code, said = ttt("--yes", "--collect", "7")
    assert (code, said["stage"]) == (0, "kept")
    assert bench.engine.calls[:4] == ["capture", "trust", "collect 7", "trust"], "ten are asked for, seven allowed"


def test_a_scene_that_stays_refused_is_given_up_and_the_robot_is_free_again(bench, ttt, monkeypatch):
    bench.engine.trusted = False
    monkeypatch.setattr(bench.engine, "collect", lambda *_: None)
    code, said = ttt("--yes", "--collect", "15")
    assert (code, said["kept"], said["stage"]) == (3, False, "refused")
    assert "dreams disagree with this scene" in said["reason"]
    assert only(bench).stage.value == "cancelled"
    assert ttt("--yes", "--collect", "0")[0] == 3, "nothing stands in the way of another"


def test_a_canary_that_does_not_win_exits_with_three(bench, ttt):
    bench.engine.wins = False
    code, said = ttt("--yes")
    assert (code, said["stage"], said["card"]["decision"]) == (3, "reverted", "futile")


def test_a_budget_that_is_out_before_the_first_iteration_says_so(bench, ttt):
    bench.engine.iterations = 0
    code, said = ttt("--yes")
    assert (code, said["stage"], "before the first whole iteration" in said["reason"]) == (3, "failed", True)


@pytest.mark.parametrize("budget", [("--minutes", "0"), ("--money", "-1"), ("--mode", "half")])
def test_a_budget_or_mode_that_is_none_moves_no_arm(bench, ttt, budget):
    with pytest.raises(SystemExit) as ended:
        ttt("--yes", *budget)
    assert (ended.value.code, bench.engine.calls) == (2, [])


@pytest.mark.parametrize("wish", [("--mode", "lora"), ("--rollouts", "-5")])
def test_what_the_trainer_refuses_leaves_the_robot_free(bench, ttt, wish):
    bench.engine.modes = ("full",)
    code, said = ttt("--yes", *wish)
    assert (code, said["error"]) == (2, "ConfigError")
    assert only(bench).stage.value == "cancelled"


def test_without_anybody_to_ask_the_candidate_waits_for_an_operator(bench, ttt):
    code, said = ttt()
    assert (code, said["stage"], said["candidate"]) == (3, "preview", "policy-candidate")
    assert bench.step(bench.client("ana", "operator"), said["adaptation_id"], "approve").status_code == 200
    bench.until(said["adaptation_id"], "kept")


def test_the_kept_adapter_of_a_known_scene_is_tried_instead_of_training(bench, ttt, tmp_path):
    bench.engine.known = ["policy-old", "policy-kept"]
    code, said = ttt("--yes", "--reuse")
    assert (code, said["candidate"], "train" in bench.engine.calls) == (0, "policy-kept", False)
    code, said = ttt("--yes")
    assert (code, said["candidate"]) == (0, "policy-candidate"), "unasked it trains"


def test_the_preview_is_saved_where_it_is_wanted(bench, ttt, tmp_path, monkeypatch):
    def preview(candidate, folder, ended):
        for name in ("old", "new"):
            (folder / f"{name}.webp").write_bytes(b"RIFF" + name.encode())

    monkeypatch.setattr(bench.engine, "preview", preview)
    assert ttt("--yes", "--preview", str(tmp_path / "films"))[0] == 0
    assert (tmp_path / "films" / "new.webp").read_bytes() == b"RIFFnew"


def test_a_robot_must_report_be_named_among_several_and_take_orders(bench, ttt):
    bench.service.robots.post(User("bridge-2", "robot"), {"state": "ready"}, b"")
    code, said = ttt("--yes")
    assert (code, "give --robot NAME; these report: bridge-1, bridge-2" in said["message"]) == (2, True)
    assert ttt("--yes", "--robot", "bridge-2")[1]["robot"] == "bridge-2"
    code, said = ttt("--yes", "--robot", "bridge-3")
    assert (code, "'bridge-3' has not reported here" in said["message"]) == (1, True)
    bench.report({"state": "ready", "takes_orders": False})
    code, said = ttt("--yes", "--robot", "bridge-1")
    assert (code, "start it with `gymnast up --orders`" in said["message"]) == (1, True)


def test_no_robot_at_all_is_said_with_the_remedy(tmp_path, capsys):
    with Service(ServiceConfig(folder=tmp_path, insecure=True)) as service:
        code = main(["--json", *HERE, "--trainer", service.address, "--insecure"])
    said = json.loads(capsys.readouterr().out)
    assert (code, "no robot reports to this trainer; start one: gymnast up" in said["message"]) == (2, True)


def test_a_person_sees_the_check_the_page_and_the_card(bench, capsys, monkeypatch):
    card = {
        "decision": "promote", "n": 12, "trial_id": "t", "candidate_success": {"mean": 0.75, "low": 0.5, "high": 0.9},
        "incumbent_success": {"mean": 0.25, "low": 0.1, "high": 0.5},
        "difference": {"mean": 0.5, "low": 0.1, "high": 0.8},
    }  # fmt: skip
    bench.engine.trusted = False
    monkeypatch.setattr(bench.engine, "canary", lambda *_: CanaryVerdict(True, card))
    address = bench.service.start()
    page = bench.console.start()
    assert main([*HERE, "--yes", "--trainer", address, "--insecure"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "not trusted here yet: dreams disagree", "80% before, 78% after", f"{page}/adapt/adapt-",
        "promote after 12 pairs", "+50%", "kept: policy-candidate drives on bridge-1",
    ):  # fmt: skip
        assert words in shown


def view_of(stage, *, busy=False, **more):
    names = "adaptation_id robot instruction started_by reason scene mode job candidate ended_by decided_by paused"
    texts = dict.fromkeys(names.split(), "")
    rest = {"revision": 1, "known_adapters": (), "cancel_requested": False, "over": False}
    return AdaptationView(**texts, **rest, stage=stage, busy=busy, **more)


def test_every_part_is_shown_while_it_lasts(capsys):
    def seen(stage, last, **more):
        screen.show(view_of(stage, busy=True, history=[{"kind": last}], **more))

    row = {"imagined_reward": 0.3, "rollouts": 100}
    with Screen(rich.console.Console(width=160)) as screen:
        seen("captured", "started")
        seen("captured", "collecting")
        seen("training", "training", iterations=[row, row], budget={"rollouts": 900})
        seen("canary", "pair", canary=[{"pair": 0}])
    shown = capsys.readouterr().out
    for words in ("look at the scene", "collect real episodes", "iteration 2, imagined reward 0.30", "1 pairs; the"):
        assert words in shown
    training = view_of("training", iterations=[row, row], budget={"rollouts": 900})
    assert progress(training)[:2] == (200, 900)
    decided = view_of("kept", card={"decision": "promote"}, canary=[{"pair": 0}] * 12)
    assert progress(decided) == (12, 12, "12 pairs; kept")


@pytest.mark.parametrize(("answer", "stage", "code"), [("n", "reverted", 3), ("y", "kept", 0)])
def test_an_operator_is_asked_and_may_decline(bench, monkeypatch, answer, stage, code):
    asked = []
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    monkeypatch.setattr(rich.console.Console, "input", lambda self, text: asked.append(str(text)) or answer)
    address = bench.service.start()
    bench.console.start()
    assert main([*HERE, "--trainer", address, "--insecure"]) == code
    assert only(bench).stage.value == stage
    assert asked == ["Let policy-candidate onto bridge-1 for a canary? [y/N] "]
    assert ("canary" in bench.engine.calls) == (answer == "y")


def test_ctrl_c_cancels_and_says_what_is_left(bench):
    address = bench.service.start()
    bench.console.start()
    bench.engine.hold["train"].clear()
    # a suite that runs in the background inherits an ignored SIGINT, and so would its children
    command = ["env", "--default-signal=INT", sys.executable, "-m", "gymnast_cli.main", *HERE]
    command += ["--yes", "--trainer", address, "--insecure"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
    assert bench.engine.inside["train"].wait(30)
    running.send_signal(signal.SIGINT)
    wait_for(lambda: only(bench).cancel_requested, "the cancel")
    bench.engine.hold["train"].set()
    said, _ = running.communicate(timeout=30)
    assert (running.returncode, only(bench).stage.value) == (130, "cancelled")
    assert "is cancelled; bridge-1 runs what it ran before" in said


def test_a_trainer_that_is_started_again_in_the_middle_is_waited_for(bench, capsys):
    address = bench.service.start()
    bench.console.start()
    bench.engine.hold["train"].clear()
    codes: list[int] = []
    words = ["--json", *HERE, "--yes", "--trainer", address, "--insecure"]
    command = threading.Thread(target=lambda: codes.append(main(words)))
    command.start()
    assert bench.engine.inside["train"].wait(30)
    (flow,) = bench.ask.flows.adaptations.of("default")
    stopping = threading.Thread(target=bench.ask.flows.close)
    stopping.start()
    wait_for(lambda: flow._closing, "the closing")
    bench.engine.hold["train"].set()
    stopping.join(20)
    bench.service.stop()
    port = int(address.rpartition(":")[2])
    again, engine = Service(ServiceConfig(folder=bench.folder, port=port, insecure=True)), SteeredEngine()
    again.robots.post(User("bridge-1", "robot"), {"state": "ready"}, b"")
    again.handlers.flows.take_up(lambda tenant: engine)
    with again, Console(again):
        command.join(300)
    assert codes == [0]
    assert json.loads(capsys.readouterr().out)["stage"] == "kept"
    assert engine.calls == ["train", "check", "preview", "canary", "keep"]

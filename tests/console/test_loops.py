"""Loops on the trainer: begun, seen and stopped by people, each on its own robot; a restart goes on where it was."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from cloud_trainer.flows.loops import Loops
from gymnast_core.errors import ConfigError, NotPossibleError
from gymnast_core.loop_config import LoopConfig, StopRule
from tests.console.conftest import wait_for
from tests.console.planted_loop import PlantedEngine, planted_config

DATA = Path(__file__).parents[1] / "data"
NAMES = ("policy-a", "policy-b", "policy-c")


def over(loops: Loops, name: str = "night", tenant: str = "lab-a"):
    try:
        wait_for(lambda: loops.get(tenant, name).state != "running", "the loop to end")
    except AssertionError as error:
        raise AssertionError(f"{error}: {loops.get(tenant, name)}") from error
    return loops.get(tenant, name)


def test_a_loop_that_is_cut_off_by_a_restart_goes_on_by_itself_and_repeats_nothing(tmp_path):
    engine = PlantedEngine(NAMES, hold=threading.Event())
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robots=("wx-0",), by="ana")
    assert engine.asked.wait(20)
    loops.close()
    (key, _) = engine.trained[0]
    assert loops.get("lab-a", "night").state == "running", "nothing was concluded"
    engine.hold.set()
    again = Loops(tmp_path, lambda tenant: engine)
    view = over(again)
    assert (view.state, view.robots, view.started_by) == ("done", ("wx-0",), "ana"), view.reason
    assert [name for name, _ in engine.trained].count(key) == 2, "the same job, followed again"
    assert [row["policy"] for row in view.history["rounds"]] == ["policy-b", "policy-b", "policy-b"]
    assert engine.robot.policy_version == "policy-b"
    assert view.history["state"] == view.reason
    alone = PlantedEngine(NAMES)
    straight = Loops(tmp_path / "straight", lambda tenant: alone)
    straight.start("lab-a", planted_config(), robots=("wx-0",), by="ana")
    timeless = {"seconds": 0, "rounds": []}
    assert {**over(straight).history, **timeless} == {**view.history, **timeless}


def test_a_loop_collects_by_practising_where_something_undoes_the_task(tmp_path):
    engine = PlantedEngine(NAMES)
    loops = Loops(tmp_path, lambda tenant: engine)
    config = planted_config().changed(practise={"push": "push_back"}, practise_tries=8, rounds=2)
    loops.start("lab-a", config, robots=("wx-0",), by="ana")
    view = over(loops)
    assert view.state == "done", view.reason
    asked = engine.robot.practised
    assert [(row.task, row.reset, row.episodes, row.tries) for row in asked] == [("push", "push_back", 20, 8)] * 2
    assert len({row.resume for row in asked}) == 2, "each round is a run of its own, and after a restart the same one"
    assert view.history["rounds"][0]["collected"] == {"wx-0": 10 + 20}, "lift from laid-out starts, the pair in turns"
    with pytest.raises(ConfigError, match=r"practise {'open': 'x'} must name one of the tasks"):
        planted_config().changed(practise={"open": "x"})


def test_a_stopped_loop_says_who_stopped_it_and_goes_on_when_it_is_started_again(tmp_path):
    engine = PlantedEngine(NAMES, hold=threading.Event())
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robots=("wx-0",), by="ana")
    assert engine.asked.wait(20)
    assert loops.start("lab-a", planted_config(), robots=("wx-0",), by="bea").started_by == "ana", (
        "one that runs is left alone"
    )
    with pytest.raises(NotPossibleError, match="'night' is not running"):
        loops.stop("lab-b", "night", by="eve")
    assert loops.of("lab-b") == []
    assert loops.stop("lab-a", "night", by="bea").stopping
    view = over(loops)
    assert (view.state, view.reason) == ("stopped", "stopped by bea")
    assert loops.on("lab-a", "wx-0") == []
    engine.hold.set()
    with pytest.raises(ConfigError, match=r"loop night was begun with other \['seed'\]"):
        loops.start("lab-a", planted_config().changed(seed=4), robots=("wx-0",), by="bea")
    with pytest.raises(ConfigError, match="night runs on wx-0, not wx-1"):
        loops.start("lab-a", planted_config(), robots=("wx-1",), by="bea")
    loops.start("lab-a", planted_config().changed(rounds=1), robots=("wx-0",), by="bea")
    view = over(loops)
    assert (view.state, len(view.history["rounds"]), view.started_by) == ("done", 1, "bea")
    assert set(engine.named) == {"ana via loop night", "bea via loop night"}, "jobs and trials name the person"
    assert engine.errands[0].order == "ana via loop night, which `gymnast loop stop night` ends"
    assert engine.errands[-1].person == "bea"


def test_a_step_that_fails_for_good_ends_the_loop_with_its_reason_and_models_left_out_are_the_newest(tmp_path):
    engine = PlantedEngine(NAMES)

    def broken(*_):
        raise ConfigError("the robot's scene 'attic' is not known")

    engine.robot.flush, works = broken, engine.robot.flush
    loops = Loops(tmp_path, lambda tenant: engine)
    config = LoopConfig(name="night", tasks=("lift",), collect=(2,), evaluation=4, rounds=1, stop=StopRule(success=1.0))
    loops.start("lab-a", config, robots=("wx-0",), by="ana")
    view = over(loops)
    assert (view.state, view.reason) == ("failed", "ConfigError: the robot's scene 'attic' is not known")
    engine.robot.flush = works
    loops.start("lab-a", config, robots=("wx-0",), by="ana")
    assert over(loops).state == "done"
    assert engine.trained[0][1]["world_model"] == "world_model-newest"


def test_a_candidate_that_fails_its_gate_meets_no_arm_and_the_round_says_why(tmp_path):
    engine = PlantedEngine(NAMES)
    engine.asks_gate = ["wx-0"]
    engine.gate_says = {NAMES[1]: "gate-00 against policy-a: it races"}
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robots=("wx-0",), by="ana")
    view = over(loops)
    assert view.state == "done", view.reason
    first, second, _ = view.history["rounds"]
    assert first["gate"] == [{"candidate": NAMES[1], "refused": "gate-00 against policy-a: it races"}]
    assert "canary" not in first
    assert second["gate"] == [{"candidate": NAMES[2], "refused": ""}]
    assert [row["candidate"] for row in second["canary"]] == [NAMES[2]]
    assert [spec["offer_to"] for _, spec in engine.trained] == [[], [], []], "nothing is offered before it has passed"
    assert [(candidate, robots) for candidate, robots, _, _ in engine.admitted] == [
        (NAMES[1], ("wx-0",)), (NAMES[2], ("wx-0",)),
    ]  # fmt: skip


def test_a_robot_that_runs_what_the_trainer_lacks_moves_for_no_loop(tmp_path):
    engine = PlantedEngine(NAMES)
    engine.robot.policy_version = "policy-from-elsewhere"
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robots=("wx-0",), by="ana")
    view = over(loops)
    assert (view.state, "has no checkpoint 'policy-from-elsewhere'" in view.reason) == ("failed", True)
    assert engine.robot.runs == 0


def test_whatever_breaks_in_a_step_ends_its_loop_alone(tmp_path):
    engines = {"lab-a": PlantedEngine(NAMES), "lab-b": PlantedEngine(NAMES)}
    engines["lab-a"].improve = lambda *_: {}["no such key"]
    loops = Loops(tmp_path, engines.__getitem__)
    for tenant in engines:
        loops.start(tenant, planted_config(), robots=("wx-0",), by="ana")
    assert over(loops).reason.startswith("KeyError: 'no such key'; the trainer's log")
    assert over(loops, tenant="lab-b").state == "done"
    loops.close()
    assert {view.state for tenant in engines for view in Loops(tmp_path, None).of(tenant)} == {"failed", "done"}


def test_a_checkpoint_that_somebody_else_put_in_force_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_trainer.flows.loop_fleet.REPORTS_S", 0.1)
    monkeypatch.setattr("cloud_trainer.flows.loop_fleet.AGAIN_S", 0.01)
    engine = PlantedEngine(NAMES)
    engine.robot.swap = lambda name, scene=None: "policy-z"
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robots=("wx-0",), by="ana")
    view = over(loops)
    assert (view.state, "wx-0 runs policy-a, not policy-b" in view.reason) == ("failed", True)


BOTH = ("wx-0", "wx-1")


def small(name: str = "night", **changes) -> LoopConfig:
    return planted_config(name).changed(collect=(4,), evaluation=20, piece=5, replayed=6, **changes)


def of_two(monkeypatch=None, **planted) -> PlantedEngine:
    if monkeypatch is not None:
        monkeypatch.setattr("cloud_trainer.flows.loop_shares.GRACE_S", 0.05)
        monkeypatch.setattr("cloud_trainer.flows.loop.REACH_S", 0.05)
    return PlantedEngine(NAMES, names=BOTH, **planted)


def test_several_robots_share_the_episodes_and_all_run_what_the_loop_kept(tmp_path):
    engine = of_two()
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    view = over(loops)
    assert (view.state, view.robots) == ("done", BOTH), view.reason
    assert {name: robot.policy_version for name, robot in engine.robots.items()} == dict.fromkeys(BOTH, "policy-b")
    rounds = view.history["rounds"]
    assert [sum(row["collected"].values()) for row in rounds] == [8, 8, 8]
    assert rounds[0]["evaluated"] == {"wx-0": 22, "wx-1": 18}, "the same start states on the same arm every time"
    assert min(robot.runs for robot in engine.robots.values()) > 20
    assert view.history["behind"] == {}
    assert engine.trained[0][1]["offer_to"] == list(BOTH)
    assert set(engine.tried_on) == {"wx-0"}, "a trial is on one arm"
    alone = PlantedEngine(NAMES)
    straight = Loops(tmp_path / "alone", lambda tenant: alone)
    straight.start("lab-a", small(), robots=("wx-0",), by="ana")
    same = ("before", "after", "difference", "episodes", "policy")
    assert {name: over(straight).history[name] for name in same} == {name: view.history[name] for name in same}


def test_a_robot_that_is_away_is_passed_over_by_name_and_runs_what_was_kept_once_it_is_back(tmp_path):
    engine = of_two(hold=threading.Event())
    away = engine.robots["wx-1"]
    loops = Loops(tmp_path, lambda tenant: engine)
    away.unable = "silent for over 30 s"
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    assert engine.asked.wait(20)
    assert (away.runs, engine.robot.runs) == (0, 48), "its share was done by the other"
    notes = []
    advance = loops._loops["lab-a", "night"].advance
    loops._loops["lab-a", "night"].advance = lambda *news: (notes.append(news[2]), advance(*news))[1]
    engine.hold.set()
    wait_for(lambda: engine.robot.policy_version == "policy-b", "the swap")
    assert away.policy_version == "policy-a"
    wait_for(lambda: any("passes over wx-1 (silent for over 30 s)" in note for note in notes), "its name")
    away.unable = ""
    view = over(loops)
    assert (view.state, away.policy_version, view.history["behind"]) == ("done", "policy-b", {}), view.reason
    assert "policy-b" in away.staged


def test_a_share_is_taken_over_from_a_robot_that_falls_away_with_it(tmp_path, monkeypatch):
    engine = of_two(monkeypatch)
    stuck = engine.robots["wx-1"]
    stuck.stuck = threading.Event()
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", small(rounds=1), robots=BOTH, by="ana")
    assert stuck.at_work.wait(20)
    stuck.unable, stuck.stopped = "stopped (button); re-arm it at the robot", True
    view = over(loops)
    assert (view.state, stuck.runs) == ("done", 0), view.reason
    assert view.history["rounds"][0]["collected"] == {"wx-0": 8}
    assert view.history["behind"] == {"wx-1": stuck.unable}, "it is named: nobody could reach it"
    stuck.unable, stuck.stuck = "", None
    loops.start("lab-a", small(rounds=1), robots=BOTH, by="ana")
    view = over(loops)
    assert (view.history["behind"], stuck.policy_version) == ({}, "policy-b"), "started again, it reaches it"


def test_where_no_robot_is_there_the_loop_waits_for_one_by_name_and_may_be_stopped(tmp_path, monkeypatch):
    engine = of_two(monkeypatch)
    for robot in engine.robots.values():
        robot.unable = "silent for over 30 s"
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    both = "waits for wx-0 (silent for over 30 s), wx-1 (silent for over 30 s)"
    wait_for(lambda: loops.get("lab-a", "night").note == both, "the names of whom it waits for")
    loops.stop("lab-a", "night", by="bea")
    assert over(loops).reason == "stopped by bea"
    monkeypatch.setattr("cloud_trainer.flows.loop_fleet.AWAY_S", 0.0)
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    view = over(loops)
    assert view.state == "failed"
    assert "RobotsAwayError: no robot took an order for 0 minutes: wx-0 (silent" in view.reason
    engine.robots["wx-1"].unable = ""
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    assert over(loops).state == "done"
    assert engine.robots["wx-0"].runs == 0
    assert set(engine.tried_on) == {"wx-1"}


def test_a_restart_of_the_trainer_repeats_no_share_and_remembers_whom_it_has_to_reach(tmp_path):
    engine = of_two(hold=threading.Event())
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    assert engine.asked.wait(20)
    runs = {name: robot.runs for name, robot in engine.robots.items()}
    assert sum(runs.values()) == 48
    loops.close()
    engine.asked.clear()
    again = Loops(tmp_path, lambda tenant: engine)
    assert engine.asked.wait(20)
    assert {name: robot.runs for name, robot in engine.robots.items()} == runs
    engine.robots["wx-1"].unable = "silent for over 30 s"
    engine.hold.set()
    wait_for(lambda: engine.robot.policy_version == "policy-b", "the swap")
    again.close()
    engine.robots["wx-1"].unable = ""
    view = over(Loops(tmp_path, lambda tenant: engine))
    assert (view.state, view.history["behind"]) == ("done", {}), view.reason
    assert {robot.policy_version for robot in engine.robots.values()} == {"policy-b"}


def test_what_turns_out_worse_is_taken_back_on_every_robot(tmp_path):
    engine = of_two()
    for robot in engine.robots.values():
        robot.rates = {**robot.rates}

    def worse_from_now_on(asked, ended, advance):
        card = PlantedEngine.try_out(engine, asked, ended, advance)
        for robot in engine.robots.values():
            robot.rates["policy-b"] = 0.0
        return card

    engine.try_out = worse_from_now_on
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", small(rounds=1), robots=BOTH, by="ana")
    view = over(loops)
    assert (view.state, view.history["policy"]) == ("done", "policy-a"), view.reason
    assert "policy-b" in engine.robots["wx-1"].staged, "it ran there"
    assert {robot.policy_version for robot in engine.robots.values()} == {"policy-a"}


def test_robots_that_run_different_policies_begin_no_loop_and_one_that_was_changed_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_trainer.flows.loop_fleet.AGAIN_S", 0.01)
    monkeypatch.setattr("cloud_trainer.flows.loop_fleet.REPORTS_S", 0.05)
    engine = of_two(monkeypatch, hold=threading.Event())
    other = engine.robots["wx-1"]
    other.policy_version = "policy-c"
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    assert "wx-0 runs policy-a, wx-1 runs policy-c: have all run the same" in over(loops).reason
    other.policy_version = "policy-a"
    loops.start("lab-a", small(), robots=BOTH, by="ana")
    assert engine.asked.wait(20)
    other.swap("policy-c")
    engine.hold.set()
    engine.robots["wx-1"].swap = lambda name, scene=None: name
    view = over(loops)
    assert (view.state, other.policy_version) == ("done", "policy-c"), "what somebody else put in force stays"
    assert "wx-1 runs policy-c, not policy-b" in view.history["behind"]["wx-1"]


def test_a_loop_that_0_1_left_half_done_goes_on_where_it_was(tmp_path):
    shutil.copytree(DATA / "loop_0_1", tmp_path / "loops")
    engine = PlantedEngine(NAMES)
    engine.robot.swap("policy-b")
    loops = Loops(tmp_path / "loops", lambda tenant: engine)
    view = over(loops)
    assert (view.state, view.robots, view.started_by) == ("done", ("wx-0",), "ana"), view.reason
    kept = json.loads((DATA / "loop_0_1" / "lab-a" / "night" / "history.json").read_text())
    first = {name: value for name, value in view.history["rounds"][0].items() if name not in ("collected", "evaluated")}
    assert first == kept["rounds"][0]
    assert [number for number, _ in enumerate(engine.trained)] == [0, 1], "round 1 was trained then"
    assert engine.robot.runs == 8 + 2 * view.history["rounds"][1]["canary"][0]["n"], "and evaluated"
    view = loops.start("lab-a", small().changed(piece=2, replayed=15, rounds=1), robots=("wx-0",), by="bea")
    assert over(loops).started_by == "bea"

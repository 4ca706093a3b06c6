"""Loops on the trainer: begun, seen and stopped by people, each on its own robot; a restart goes on where it was."""

from __future__ import annotations

import json
import threading

import pytest

from cloud_trainer.flows.loops import Loops
from gymnast_core.errors import ConfigError, NotPossibleError, OccupiedError
from gymnast_core.loop_config import LoopConfig, StopRule
from tests.console.conftest import JSON, wait_for
from tests.console.planted_loop import PlantedEngine, planted_config

NAMES = ("policy-a", "policy-b", "policy-c")


def over(loops: Loops, name: str = "night", tenant: str = "lab-a"):
    wait_for(lambda: loops.get(tenant, name).state != "running", "the loop to end")
    return loops.get(tenant, name)


def test_a_loop_that_is_cut_off_by_a_restart_goes_on_by_itself_and_repeats_nothing(tmp_path):
    engine = PlantedEngine(NAMES, hold=threading.Event())
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robot="wx-0", by="ana")
    assert engine.asked.wait(20)
    loops.close()
    (key, _) = engine.trained[0]
    assert loops.get("lab-a", "night").state == "running", "nothing was concluded"
    engine.hold.set()
    again = Loops(tmp_path, lambda tenant: engine)
    view = over(again)
    assert (view.state, view.robot, view.started_by) == ("done", "wx-0", "ana"), view.reason
    assert [name for name, _ in engine.trained].count(key) == 2, "the same job, followed again"
    assert [row["policy"] for row in view.history["rounds"]] == ["policy-b", "policy-b", "policy-b"]
    assert engine.robot.policy_version == "policy-b"
    assert view.history["state"] == view.reason
    alone = PlantedEngine(NAMES)
    straight = Loops(tmp_path / "straight", lambda tenant: alone)
    straight.start("lab-a", planted_config(), robot="wx-0", by="ana")
    timeless = {"seconds": 0, "rounds": []}
    assert {**over(straight).history, **timeless} == {**view.history, **timeless}


def test_a_stopped_loop_says_who_stopped_it_and_goes_on_when_it_is_started_again(tmp_path):
    engine = PlantedEngine(NAMES, hold=threading.Event())
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robot="wx-0", by="ana")
    assert engine.asked.wait(20)
    assert loops.start("lab-a", planted_config(), robot="wx-0", by="bea").started_by == "ana", (
        "one that runs is left alone"
    )
    with pytest.raises(OccupiedError, match="wx-0 is in loop night of ana"):
        loops.start("lab-a", planted_config("day"), robot="wx-0", by="bea")
    with pytest.raises(NotPossibleError, match="'night' is not running"):
        loops.stop("lab-b", "night", by="eve")
    assert loops.of("lab-b") == []
    assert loops.stop("lab-a", "night", by="bea").stopping
    view = over(loops)
    assert (view.state, view.reason) == ("stopped", "stopped by bea")
    assert loops.on("lab-a", "wx-0") is None
    engine.hold.set()
    with pytest.raises(ConfigError, match=r"loop night was begun with other \['seed'\]"):
        loops.start("lab-a", planted_config().changed(seed=4), robot="wx-0", by="bea")
    with pytest.raises(ConfigError, match="night runs on wx-0, not wx-1"):
        loops.start("lab-a", planted_config(), robot="wx-1", by="bea")
    loops.start("lab-a", planted_config().changed(rounds=1), robot="wx-0", by="bea")
    view = over(loops)
    assert (view.state, len(view.history["rounds"]), view.started_by) == ("done", 1, "bea")
    assert set(engine.named) == {"ana via loop night", "bea via loop night"}, "jobs and trials name the person"
    assert engine.errands[0].order == "ana via loop night, which `gymnast operate stop-loop night` ends"
    assert engine.errands[-1].person == "bea"


def test_a_step_that_fails_for_good_ends_the_loop_with_its_reason_and_models_left_out_are_the_newest(tmp_path):
    engine = PlantedEngine(NAMES)

    def broken(*_):
        raise ConfigError("the robot's scene 'attic' is not known")

    engine.robot.flush, works = broken, engine.robot.flush
    loops = Loops(tmp_path, lambda tenant: engine)
    config = LoopConfig(name="night", tasks=("lift",), collect=(2,), evaluation=4, rounds=1, stop=StopRule(success=1.0))
    loops.start("lab-a", config, robot="wx-0", by="ana")
    view = over(loops)
    assert (view.state, view.reason) == ("failed", "ConfigError: the robot's scene 'attic' is not known")
    engine.robot.flush = works
    loops.start("lab-a", config, robot="wx-0", by="ana")
    assert over(loops).state == "done"
    assert engine.trained[0][1]["world_model"] == "world_model-newest"


def test_a_robot_that_runs_what_the_trainer_lacks_moves_for_no_loop(tmp_path):
    engine = PlantedEngine(NAMES)
    engine.robot.policy_version = "policy-from-elsewhere"
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robot="wx-0", by="ana")
    view = over(loops)
    assert (view.state, "has no checkpoint 'policy-from-elsewhere'" in view.reason) == ("failed", True)
    assert engine.robot.runs == 0


def test_whatever_breaks_in_a_step_ends_its_loop_alone(tmp_path):
    engines = {"lab-a": PlantedEngine(NAMES), "lab-b": PlantedEngine(NAMES)}
    engines["lab-a"].improve = lambda *_: {}["no such key"]
    loops = Loops(tmp_path, engines.__getitem__)
    for tenant in engines:
        loops.start(tenant, planted_config(), robot="wx-0", by="ana")
    assert over(loops).reason.startswith("KeyError: 'no such key'; the trainer's log")
    assert over(loops, tenant="lab-b").state == "done"
    loops.close()
    assert {view.state for tenant in engines for view in Loops(tmp_path, None).of(tenant)} == {"failed", "done"}


def test_a_robot_in_a_loop_is_left_to_it_and_the_page_stops_it(bench):
    bench.looping = PlantedEngine(NAMES, hold=threading.Event())
    ana, root = bench.client("ana", "operator"), bench.client("trainer-1", "trainer")
    asked = {"config": json.dumps(planted_config().to_json())}
    assert root.post("/loop", data=asked, headers=JSON).status_code == 403
    wrong = ana.post("/loop", data={"name": "night", "config": '{"rouds": 3}'}, headers=JSON)
    assert (wrong.status_code, "loop: unknown settings ['rouds']" in wrong.json()["error"]) == (422, True)
    assert ana.post("/loop", data=asked, headers=JSON).status_code == 200
    assert bench.looping.asked.wait(20)
    taken = ana.post("/adapt", data={"robot": "bridge-1", "instruction": "lift"}, headers=JSON)
    assert (taken.status_code, "bridge-1 is in loop night of ana" in taken.json()["error"]) == (409, True)
    assert "round 1, train" in ana.get("/loop").text
    robots, adapt = ana.get("/").text, ana.get("/adapt").text
    assert '<button class="main" disabled>Adapt to this scene</button>' in robots
    assert "bridge-1 is in loop night of ana" in robots
    assert '<option value="bridge-1" disabled>bridge-1, busy</option>' in adapt
    assert "bridge-1 is in loop night of ana" in adapt
    assert root.post("/loop/night/stop", data={}, headers=JSON).status_code == 403
    assert ana.post("/loop/night/stop", data={}, headers=JSON).status_code == 200
    wait_for(lambda: bench.ask.flows.loops.get("default", "night").state == "stopped", "the loop to stop")
    assert "stopped by ana" in ana.get("/loop").text
    assert '<a class="button main" href="/adapt?robot=bridge-1">' in ana.get("/").text
    trail = [entry.kind for entry in bench.service.trails.of("default").log.entries]
    assert ("loop" in trail, "stop loop" in trail) == (True, True)


def test_a_robot_that_is_being_adapted_or_silent_takes_no_loop(bench):
    ana = bench.client("ana", "operator")
    bench.engine.trusted = False
    begun = ana.post("/adapt", data={"robot": "bridge-1", "instruction": "lift"}, headers=JSON)
    assert begun.status_code == 200
    asked = {"config": json.dumps(planted_config().to_json())}
    refused = ana.post("/loop", data=asked, headers=JSON)
    assert (refused.status_code, "bridge-1 is being adapted by ana" in refused.json()["error"]) == (409, True)
    nobody = ana.post("/loop", data={**asked, "robot": "wx-9"}, headers=JSON)
    assert (nobody.status_code, "'wx-9' has not reported here" in nobody.json()["error"]) == (409, True)


def test_a_checkpoint_that_somebody_else_put_in_force_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_trainer.flows.loop.REPORTS_S", 0.1)
    monkeypatch.setattr("cloud_trainer.flows.loop.AGAIN_S", 0.01)
    engine = PlantedEngine(NAMES)
    engine.robot.swap = lambda name, scene=None: "policy-z"
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config(), robot="wx-0", by="ana")
    view = over(loops)
    assert (view.state, "wx-0 runs policy-a, not policy-b" in view.reason) == ("failed", True)

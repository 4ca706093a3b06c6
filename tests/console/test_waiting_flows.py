"""Flows that change what one robot runs: they wait in its queue behind each other, on the page as in the queue."""

from __future__ import annotations

import json
import threading

from cloud_trainer.console import User
from tests.console.conftest import JSON, Bench, wait_for
from tests.console.planted_loop import PlantedEngine, planted_config
from tests.console.test_loops import NAMES, over


def test_an_adaptation_waits_behind_a_loop_and_begins_when_it_is_stopped(bench):
    bench.looping = PlantedEngine(NAMES, hold=threading.Event())
    ana, root = bench.client("ana", "operator"), bench.client("trainer-1", "trainer")
    asked = {"config": json.dumps(planted_config().to_json())}
    assert root.post("/loop", data=asked, headers=JSON).status_code == 403
    wrong = ana.post("/loop", data={"name": "night", "config": '{"rouds": 3}'}, headers=JSON)
    assert (wrong.status_code, "loop: unknown settings ['rouds']" in wrong.json()["error"]) == (422, True)
    assert ana.post("/loop", data=asked, headers=JSON).status_code == 200
    assert bench.looping.asked.wait(20)
    assert "round 1, train" in ana.get("/loop").text
    robots, form = ana.get("/").text, ana.get("/adapt").text
    assert "another adaptation begins after loop night of ana" in robots
    assert '<option value="bridge-1">bridge-1, behind others</option>' in form
    begun = ana.post("/adapt", data={"robot": "bridge-1", "instruction": "lift"}, headers=JSON)
    adaptation_id = str(begun.json()["go"]).rsplit("/", 1)[-1]
    wait_for(lambda: bench.view(adaptation_id).reason, "the adaptation to wait")
    assert bench.view(adaptation_id).reason == "begins after loop night of ana on bridge-1"
    assert "It begins after loop night of ana on bridge-1" in ana.get(f"/adapt/{adaptation_id}").text
    assert "begins after loop night of ana on bridge-1" in ana.get("/queue").text
    assert "capture" not in bench.engine.calls
    assert root.post("/loop/night/stop", data={}, headers=JSON).status_code == 403
    assert ana.post("/loop/night/stop", data={}, headers=JSON).status_code == 200
    bench.until(adaptation_id, "ready")
    assert bench.ask.flows.loops.get("default", "night").state == "stopped", "it began after that"
    assert "Stopped by ana" in ana.get("/loop").text
    assert bench.view(adaptation_id).reason == ""
    trail = [entry.kind for entry in bench.service.trails.of("default").log.entries]
    assert ("loop" in trail, "stop loop" in trail) == (True, True)


def test_a_loop_waits_behind_an_adaptation_and_one_on_a_silent_robot_is_refused(bench):
    ana = bench.client("ana", "operator")
    bench.engine.trusted = False
    adaptation_id = bench.adapt(ana, "refused")
    asked = {"config": json.dumps(planted_config().to_json())}
    assert ana.post("/loop", data=asked, headers=JSON).status_code == 200
    wait_for(lambda: "begins after" in bench.ask.flows.loops.get("default", "night").note, "the loop to wait")
    assert f"queue, begins after adaptation {adaptation_id} of ana on bridge-1" in ana.get("/loop").text
    [waits] = [one for one in bench.ask.queue.all(User("ana", "operator")) if one.row.kind == "loop"]
    assert (waits.state, waits.note) == ("waiting", f"begins after adaptation {adaptation_id} of ana on bridge-1")
    [keeps] = [one for one in bench.ask.queue.all(User("ana", "operator")) if one.row.kind == "adaptation"]
    assert keeps.state == "resting"
    assert keeps.note.startswith("refused (")
    assert f"wait for its end: gymnast operate step {adaptation_id} cancel" in ana.get("/queue").text
    assert not bench.looping.asked.is_set()
    assert bench.step(ana, adaptation_id, "cancel").status_code == 200
    assert over(bench.ask.flows.loops, tenant="default").state == "done"
    nobody = ana.post("/loop", data={**asked, "robot": "wx-9"}, headers=JSON)
    assert (nobody.status_code, "'wx-9' has not reported here" in nobody.json()["error"]) == (409, True)


def test_a_second_adaptation_begins_when_the_first_is_decided_and_a_restart_keeps_their_order(bench, tmp_path):
    ana, bea = bench.client("ana", "operator"), bench.client("bea", "operator")
    first = bench.adapt(ana, "ready")
    begun = bea.post("/adapt", data={"robot": "bridge-1", "instruction": "push"}, headers=JSON)
    second = str(begun.json()["go"]).rsplit("/", 1)[-1]
    wait_for(lambda: bench.view(second).waits, "it to wait")
    why = f"begins after adaptation {first} of ana on bridge-1"
    assert bench.view(second).reason == why
    robots = ana.get("/").text
    assert ("Adapting: ready" in robots, "Adapting: waits" in robots) == (True, True)
    assert all(why in bea.get(page).text for page in ("/queue", f"/adapt/{second}"))
    assert bench.engine.calls.count("capture") == 1
    bench.console.stop()
    bench.service.stop()
    again = Bench(tmp_path / "trainer")
    try:
        wait_for(lambda: again.view(second).waits, "it to wait again")
        assert (again.view(second).reason, again.view(first).stage.value) == (why, "ready")
        assert again.step(again.client("ana", "operator"), first, "cancel").status_code == 200
        again.until(second, "ready")
        assert (again.engine.asked.instruction, again.engine.calls.count("capture")) == ("push", 1)
    finally:
        again.console.stop()
        again.service.stop()


def test_a_second_loop_begins_when_the_first_is_stopped(bench):
    bench.looping = PlantedEngine(NAMES, hold=threading.Event())
    ana = bench.client("ana", "operator")
    for name in ("night", "day"):
        asked = {"config": json.dumps(planted_config(name).to_json())}
        assert ana.post("/loop", data=asked, headers=JSON).status_code == 200
        assert bench.looping.asked.wait(20)
    loops = bench.ask.flows.loops
    wait_for(lambda: loops.get("default", "day").note == "begins after loop night of ana on bridge-1", "it to wait")
    assert "begins after loop night of ana on bridge-1" in ana.get("/queue").text
    assert len(bench.looping.trained) == 1
    assert ana.post("/loop/night/stop", data={}, headers=JSON).status_code == 200
    wait_for(lambda: len(bench.looping.trained) == 2, "the second to train")
    assert loops.get("default", "night").state == "stopped", "it began after that"
    assert ana.post("/loop/day/stop", data={}, headers=JSON).status_code == 200


def test_a_loop_that_waits_is_taken_out_of_the_queue(bench):
    ana = bench.client("ana", "operator")
    bench.engine.trusted = False
    bench.adapt(ana, "refused")
    assert ana.post("/loop", data={"config": json.dumps(planted_config().to_json())}, headers=JSON).status_code == 200
    wait_for(lambda: "begins after" in bench.ask.flows.loops.get("default", "night").note, "the loop to wait")
    [waits] = [one for one in bench.ask.queue.all(User("ana", "operator")) if one.row.kind == "loop"]
    assert ana.post(f"/queue/{waits.row.entry_id}/cancel", data={}, headers=JSON).status_code == 200
    assert over(bench.ask.flows.loops, tenant="default").reason == "stopped by ana"
    assert not bench.looping.asked.is_set()

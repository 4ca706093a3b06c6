"""Bad operator moves: each ends in a clear message and a consistent state."""

import json
import socket
import threading

import pytest

from cloud_trainer.console import User
from gymnast_core.web.server import PageServer
from tests.console.conftest import JSON, ROBOT, wait_for
from tests.console.planted_loop import PlantedEngine, planted_config

ANA = User("ana", "operator")


def kinds(bench, adaptation_id):
    return [entry["kind"] for entry in bench.view(adaptation_id).history]


def test_double_click_approves_once(bench):
    ana = bench.client("ana", "operator")
    flow = bench.adapt(ana, "preview")
    revision = bench.view(flow).revision
    first, second = (bench.step(ana, flow, "approve", revision) for _ in "ab")
    assert (first.status_code, second.status_code) == (200, 409)
    assert "look again, then decide" in second.json()["error"]
    bench.until(flow, "kept")
    assert kinds(bench, flow).count("approved") == 1
    assert bench.engine.calls.count("canary") == 1


def test_two_operators_at_once_the_second_is_told_what_the_first_did(bench):
    ana, bea = bench.client("ana", "operator"), bench.client("bea", "operator")
    flow = bench.adapt(ana, "preview")
    revision = bench.view(flow).revision
    assert bench.step(ana, flow, "reject", revision).status_code == 200
    late = bench.step(bea, flow, "approve", revision)
    assert late.status_code == 409
    assert "reverted (rejected by ana)" in late.json()["error"]
    assert "canary" not in bench.engine.calls


def test_cancel_while_training_stops_after_the_iteration_and_leaves_the_robot_alone(bench):
    ana = bench.client("ana", "operator")
    bench.engine.hold["train"].clear()
    flow = bench.adapt(ana, "training")
    assert bench.engine.inside["train"].wait(10)
    assert bench.step(ana, flow, "cancel").status_code == 200
    bench.engine.hold["train"].set()
    bench.until(flow, "cancelled")
    assert len(bench.view(flow).iterations) == 1
    assert "canary" not in bench.engine.calls
    again = bench.step(ana, flow, "cancel")
    assert again.status_code == 409
    assert "nothing to cancel" in again.json()["error"]


def test_cancel_in_the_middle_of_a_canary_reverts(bench):
    ana = bench.client("ana", "operator")
    bench.engine.hold["canary"].clear()
    flow = bench.adapt(ana, "preview")
    bench.step(ana, flow, "approve")
    assert bench.engine.inside["canary"].wait(10)
    assert bench.step(ana, flow, "cancel").status_code == 200
    bench.engine.hold["canary"].set()
    bench.until(flow, "cancelled")
    assert bench.engine.calls[-1] == "revert"
    assert "keep" not in bench.engine.calls


def test_publishing_twice_at_once_publishes_once(bench, monkeypatch):
    admin = bench.client("root", "admin")
    policy = bench.add_policy(0.01, stage="sft")
    inside, go = threading.Event(), threading.Event()
    publish = bench.service.publisher.publish

    def slow(*args, **kwargs):
        inside.set()
        assert go.wait(10)
        return publish(*args, **kwargs)

    monkeypatch.setattr(bench.service.publisher, "publish", slow)
    answers = []
    first = threading.Thread(
        target=lambda: answers.append(admin.post(f"/checkpoints/{policy}/publish", data={"robots": "*"}, headers=JSON))
    )
    first.start()
    assert inside.wait(10)
    second = bench.client("root2", "admin").post(f"/checkpoints/{policy}/publish", headers=JSON)
    go.set()
    first.join(10)
    assert second.status_code == 409
    assert "being published at this moment" in second.json()["error"]
    assert answers[0].status_code == 200
    assert len(bench.service.meta.releases("default")) == 1


def test_cancelling_a_job_that_has_ended_changes_nothing_and_says_so(bench):
    ana = bench.client("ana", "operator")
    job = bench.service.jobs.submit("default", "improve", {}, "k", "ana")
    bench.service.jobs.claim(None, "w")
    bench.service.jobs.finish("default", job.job_id, "done", {"ok": True})
    said = ana.post(f"/jobs/{job.job_id}/cancel", headers=JSON).json()["said"]
    assert "had ended already (done)" in said
    assert bench.service.jobs.get("default", job.job_id).state == "done"


def test_a_label_changed_after_promotion_names_what_was_made_with_it(bench):
    ana = bench.client("ana", "operator")
    bench.add_episode("ep-1", "failure")
    policy = bench.add_policy(0.01, stage="grpo", episodes=["ep-1"])
    assert ana.get(f"/checkpoints/{policy}").status_code == 200
    said = ana.post("/episodes/ep-1/label", data={"outcome": "success"}, headers=JSON).json()["said"]
    assert policy in said
    assert "1 checkpoints were made with the old label" in said
    page = ana.get(f"/checkpoints/{policy}").text
    assert "1 of its labels changed since" in page
    assert "failure is now success (operator:ana)" in page
    assert bench.service.meta.episode("default", "ep-1").outcome == "success"


def test_a_browser_closed_in_the_middle_of_an_action_does_nothing(bench):
    ana = bench.gate.issue(User("ana", "operator"))
    bench.add_episode("ep-1", "failure")
    server = PageServer(bench.app)
    address = server.start()
    host, port = address.removeprefix("http://").split(":")
    try:
        with socket.create_connection((host, int(port)), 5) as half:
            head = f"POST /episodes/ep-1/label HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {ana}\r\n"
            form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4000\r\n\r\noutcome=success"
            half.sendall(f"{head}{form}".encode())
        answer = bench.client("bea", "operator").post("/episodes/ep-1/label", data={"outcome": "abstain"}, headers=JSON)
        assert answer.status_code == 200
    finally:
        server.stop()
    assert bench.service.meta.episode("default", "ep-1").labelled_by == "operator:bea"
    assert [entry.data["by"] for entry in bench.service.trails.of("default").log.entries] == ["bea"]


@pytest.mark.parametrize("robot", ["bridge-9", "../bridge-1"])
def test_adapting_the_wrong_robot_is_refused(bench, robot):
    ana = bench.client("ana", "operator")
    answer = ana.post("/adapt", data={"robot": robot, "instruction": "lift"}, headers=JSON)
    assert answer.status_code == 409
    assert "has not reported here" in answer.json()["error"]
    assert bench.ask.flows.adaptations.of("default") == []


def test_publishing_to_a_robot_nobody_knows_is_refused(bench):
    policy = bench.add_policy(0.01, stage="sft")
    answer = bench.client("root", "admin").post(
        f"/checkpoints/{policy}/publish", data={"robots": "bridge-1, brigde-2"}, headers=JSON
    )
    assert answer.status_code == 409
    assert "no robot 'brigde-2' reports here; known: bridge-1" in answer.json()["error"]
    assert bench.service.meta.releases("default") == []


def test_an_expired_token_and_an_expired_session_do_nothing_and_say_why(bench):
    ana = bench.client("ana", "operator")
    flow = bench.adapt(ana, "preview")
    old = bench.gate.issue(User("ana", "operator"), days=-1)
    answer = ana.post(
        f"/adapt/{flow}/approve", data={"revision": "4"}, headers={**JSON, "Authorization": f"Bearer {old}"}
    )
    assert answer.status_code == 401
    assert "token has expired" in answer.json()["error"]
    cookie = bench.gate.open_session(bench.gate.issue(User("ana", "operator")), seconds=-1)
    late = ana.post(
        f"/adapt/{flow}/approve", headers={**JSON, "Authorization": "", "Cookie": f"gymnast_trainer_session={cookie}"}
    )
    assert late.status_code == 401
    assert "nothing was done" in late.json()["error"]
    assert bench.view(flow).stage.value == "preview"


def test_promoting_what_has_not_won_and_what_is_tainted_is_refused(bench):
    admin = bench.client("root", "admin")
    bench.add_episode("ep-1")
    policy = bench.add_policy(0.01, stage="grpo", episodes=["ep-1"])
    early = admin.post(f"/checkpoints/{policy}/promote", headers=JSON)
    assert early.status_code == 412
    assert "has not won a trial yet" in early.json()["error"]
    assert admin.post("/episodes/ep-1/retract", data={"reason": " "}, headers=JSON).status_code == 422
    said = admin.post("/episodes/ep-1/retract", data={"reason": "gripper was loose"}, headers=JSON).json()["said"]
    assert f"promotion of 1 checkpoints is blocked: {policy}" in said
    blocked = admin.post(f"/checkpoints/{policy}/publish", headers=JSON)
    assert blocked.status_code == 412
    assert "retracted by operator:root: gripper was loose" in blocked.json()["error"]
    assert bench.service.meta.releases("default") == []


def test_an_operator_may_not_publish_and_nobody_may_without_logging_in(bench):
    policy = bench.add_policy(0.01, stage="sft")
    answer = bench.client("ana", "operator").post(f"/checkpoints/{policy}/publish", headers=JSON)
    assert answer.status_code == 403
    assert "may not publish; who may: admin" in answer.json()["error"]
    nobody = bench.client("x", "operator")
    assert nobody.get("/", headers={"Authorization": ""}).headers["location"].startswith("/login?next=/")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[", "http://[x]/"])
def test_a_request_from_another_site_does_nothing(bench, origin):
    ana = bench.client("ana", "operator")
    answer = ana.post("/adapt", data={"robot": "bridge-1", "instruction": "x"}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert bench.ask.flows.adaptations.of("default") == []


def test_adapting_behind_a_latched_estop_is_refused(bench):
    bench.report({"estop": True})
    answer = bench.client("ana", "operator").post(
        "/adapt", data={"robot": "bridge-1", "instruction": "lift"}, headers=JSON
    )
    assert answer.status_code == 409
    assert "re-arm it at the robot" in answer.json()["error"]


@pytest.mark.parametrize(
    "values", [{"minutes": "soon"}, {"minutes": "-5"}, {"rollouts": "2.5"}, {"mode": "everything"}]
)
def test_a_budget_that_makes_no_sense_starts_nothing(bench, values):
    ana = bench.client("ana", "operator")
    flow = bench.adapt(ana, "ready")
    answer = bench.step(ana, flow, "train", **values)
    assert answer.status_code == 422
    assert bench.view(flow).stage.value == "ready"
    assert "train" not in bench.engine.calls


def test_what_is_kept_here_or_ran_on_a_robot_can_be_rolled_back_to_and_nothing_else(bench):
    policy, admin = bench.add_policy(0.01, stage="sft"), bench.client("root", "admin")

    def roll_back(name, robots="*"):
        return admin.post(f"/checkpoints/{name}/rollback", data={"reason": "oops", "robots": robots}, headers=JSON)

    assert roll_back(policy).status_code == 200, "on the shelf, never published"
    unknown = roll_back("policy-0123456789abcdef")
    assert unknown.status_code == 404
    assert "never published here, and no robot that reports here holds it" in unknown.json()["error"]
    weights = {"current": "policy-own", "held": ["policy-own"], "refused": {}, "ran": "", "obeyed": 0}
    bench.service.robots.post(ROBOT, {"weights": weights}, b"")
    assert roll_back("policy-own").status_code == 200
    assert roll_back("policy-own", "brigde-1").status_code == 409
    kept, own = (json.loads(row.payload) for row in bench.service.meta.releases("default"))
    assert (kept["kind"], kept["robots"], kept["checkpoint_id"]) == ("rollback", ["*"], policy)
    assert (own["manifest"], own["robots"]) == ({}, ["bridge-1"]), "by its id, for who holds it alone"


def test_every_action_is_in_the_log_and_the_log_is_a_chain(bench):
    admin = bench.client("root", "admin")
    bench.add_episode("ep-1")
    admin.post("/episodes/ep-1/label", data={"outcome": "success"}, headers=JSON)
    admin.post("/episodes/ep-1/retract", data={"reason": "test"}, headers=JSON)
    flow = bench.adapt(admin, "ready")
    bench.step(admin, flow, "cancel")
    entries = bench.service.trails.of("default").log.entries
    assert [(entry.kind, entry.data["by"]) for entry in entries] == [
        ("label", "root"),
        ("retract", "root"),
        ("adapt", "root"),
        ("adapt: cancel", "root"),
    ]
    assert all(word in admin.get("/log").text for word in ("retract", "ep-1", "root"))


def test_another_tenants_episodes_are_not_there(bench):
    bench.add_episode("ep-1")
    token = bench.gate.issue(User("zoe", "admin", "other-lab"))
    zoe = bench.client("zoe", "admin")
    answer = zoe.get("/episodes/ep-1", headers={**JSON, "Authorization": f"Bearer {token}"})
    assert answer.status_code == 404
    assert "there is no episode" in answer.json()["error"]


def test_an_open_page_hears_of_changes_made_by_others(bench):
    server = PageServer(bench.app)
    address = server.start()
    host, port = address.removeprefix("http://").split(":")
    token = bench.gate.issue(User("ana", "operator"))
    heard: list[bytes] = []

    def listen():
        with socket.create_connection((host, int(port)), 60) as stream:
            stream.sendall(f"GET /events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            while b"".join(heard).count(b"\ndata: ") < 2 and (data := stream.recv(4096)):
                heard.append(data)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        wait_for(lambda: b"".join(heard).count(b"\ndata: ") == 1, "the first version", 60)
        bench.add_episode("ep-new")
        listener.join(60)
        assert not listener.is_alive()
    finally:
        server.stop()


def test_only_the_robots_page_follows_every_word_of_a_robot(bench):
    robots, other = bench.console.sources.version(ANA, "/"), bench.console.sources.version(ANA, "/checkpoints")
    bench.report({"state": "ready"})
    assert bench.console.sources.version(ANA, "/") != robots
    assert bench.console.sources.version(ANA, "/checkpoints") == other
    bench.report({"state": "ready", "policy_version": "policy-b"})
    assert bench.console.sources.version(ANA, "/checkpoints") != other


def test_the_loops_history_is_shown_with_intervals_and_refusals(bench):
    ana = bench.client("ana", "operator")
    assert "No loop yet. Start one below" in ana.get("/loop").text
    before, after = {"successes": 30, "n": 100}, {"successes": 60, "n": 100}
    rounds = [
        {
            "round": 1,
            "policy": "policy-b",
            "before": before,
            "after": after,
            "difference": {"mean": 0.3, "low": 0.17, "high": 0.42},
            "audit": {"agreement": 0.84, "optimism": 0.05},
            "judge_trust": {"tasks": [{"task": "*", "precision": {"mean": 0.91, "low": 0.8, "high": 0.97}}]},
            "sight": {"policy": "policy-a", "sight": 0.68, "low": 0.51, "high": 0.79, "succeeded": 24, "failed": 48},
            "canary": [
                {"candidate": "policy-b", "decision": "promote", "n": 34, "difference": {"low": 0.02, "high": 0.5}}
            ],
            "promoted": True,
            "refused": "",
        },
        {"round": 2, "policy": "policy-b", "before": after, "refused": "agreement 0.61 is below 0.70"},
    ]
    history = {"state": "running", "base_policy": "policy-a", "before": before, "rounds": rounds}
    bench.looping = PlantedEngine(("policy-a", "policy-b", "policy-c"), hold=threading.Event())
    known = bench.console.sources.version(ANA, "/loop")
    assert ana.post("/loop", data={"config": json.dumps(planted_config().to_json())}, headers=JSON).status_code == 200
    assert bench.looping.asked.wait(20)
    (bench.folder / "console" / "loops" / "default" / "night" / "history.json").write_text(json.dumps(history))
    page = ana.get("/loop").text
    assert bench.console.sources.version(ANA, "/loop") != known
    words = ("30 %", "60 %", "50 % to 69 %", "+30.0", "16 %", "91 %", "+5", "promoted", "after 34 pairs")
    for text in (*words, "0.51 to 0.79", "agreement 0.61 is below 0.70"):
        assert text in page

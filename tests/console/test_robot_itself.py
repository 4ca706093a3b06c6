"""What a robot's certificate may ask of the page: its own adaptation, and nothing else."""

from __future__ import annotations

from collections import defaultdict

import pytest

from cloud_trainer.console import User, pages
from cloud_trainer.console.app import create_app
from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_client import Adaptation, Terms, Trainer
from gymnast_core.wire.errors import NotFoundError, NotPermittedError
from tests.console.conftest import JSON, ROBOT, Bench, SteeredEngine


@pytest.fixture
def robot(bench: Bench):
    return bench.client("bridge-1", "robot")


def begun(bench: Bench, client, robot: str = "bridge-1"):
    return client.post("/adapt", data={"robot": robot, "instruction": "lift"}, headers=JSON)


def test_a_robot_takes_itself_from_refusal_to_kept(bench, robot):
    bench.engine.trusted = False
    name = bench.adapt(robot, "refused")
    assert bench.step(robot, name, "collect", episodes="3").status_code == 200
    bench.until(name, "ready")
    assert bench.step(robot, name, "train", minutes="1").status_code == 200
    bench.until(name, "preview")
    assert bench.ask.adaptations.find(ROBOT, name).view.candidate == "policy-candidate"
    assert bench.step(robot, name, "approve").status_code == 200
    bench.until(name, "kept")
    assert bench.view(name).decided_by == "bridge-1"


def test_a_robot_begins_nothing_for_another(bench, robot):
    bench.service.robots.post(User("bridge-2", "robot"), {"state": "ready"}, b"")
    answer = begun(bench, robot, "bridge-2")
    assert (answer.status_code, "may have itself adapted alone, not 'bridge-2'" in answer.text) == (403, True)
    assert bench.ask.flows.adaptations.of("default") == []


@pytest.mark.parametrize("step", ["collect", "train", "reuse", "approve", "reject", "cancel"])
def test_a_robot_cannot_touch_or_see_anothers_adaptation(bench, robot, step):
    name = bench.adapt(robot, "ready")
    other = bench.client("bridge-2", "robot")
    answer = bench.step(other, name, step)
    assert (answer.status_code, "there is no adaptation" in answer.text) == (404, True)
    stranger = User("bridge-2", "robot")
    assert bench.ask.adaptations.all(stranger) == []
    with pytest.raises(NotFoundError, match="there is no adaptation"):
        bench.ask.adaptations.find(stranger, name)
    assert bench.view(name).stage.value == "ready"


def test_a_robot_sees_what_an_operator_began_with_it_but_decides_nothing_there(bench, robot):
    name = bench.adapt(bench.client("ana", "operator"), "preview")
    assert [flow.view.adaptation_id for flow in bench.ask.adaptations.all(ROBOT)] == [name]
    for step in ("approve", "reject", "cancel"):
        answer = bench.step(robot, name, step)
        assert (answer.status_code, "begun by 'ana'; an operator may" in answer.text) == (403, True)
    assert bench.view(name).stage.value == "preview"


@pytest.mark.parametrize("step", ["reuse", "reject"])
def test_some_steps_are_an_operators_even_where_the_robot_began(bench, robot, step):
    name = bench.adapt(robot, "preview" if step == "reject" else "ready")
    answer = bench.step(robot, name, step, adapter="policy-candidate")
    assert (answer.status_code, "may do collect, train, approve, cancel" in answer.text) == (403, True)
    assert bench.step(bench.client("ana", "operator"), name, "cancel").status_code == 200


def test_another_tenants_robot_and_operator_do_not_meet_it(bench, robot):
    name = bench.adapt(robot, "ready")
    for role, who in (("robot", "bridge-1"), ("operator", "ana")):
        stranger = User(who, role, "elsewhere")
        token = {"Authorization": f"Bearer {bench.gate.issue(stranger)}", **JSON}
        client = bench.client("ana", "operator")
        assert bench.ask.adaptations.all(stranger) == []
        answer = client.post(f"/adapt/{name}/cancel", data={"revision": "1"}, headers=token)
        assert (answer.status_code, "there is no adaptation" in answer.text) == (404, True)


def test_a_robot_sees_no_page_no_picture_and_does_nothing_else(bench, robot):
    name = bench.adapt(robot, "ready")
    addresses = {*pages.PAGES, *pages.PICTURES, "/checkpoints/{checkpoint_id}/lineage.json"}
    for address in addresses:
        path = address.replace("{adaptation_id}", name)
        answer = robot.get(path.replace("{", "").replace("}", ""), headers=JSON)
        assert (answer.status_code, "(robot) may not look" in answer.text) == (403, True), address
    assert robot.get("/events?at=/", headers=JSON).status_code == 403
    posts = {
        route.path
        for route in create_app(bench.console.sources, bench.gate).routes
        if "POST" in (getattr(route, "methods", None) or ())
    }
    rest = posts - {"/adapt", "/adapt/{adaptation_id}/{step}", "/login", "/logout"}
    assert len(rest) >= 8
    bench.add_episode("ep-1")
    checkpoint = bench.add_policy(0.01)
    job = bench.service.jobs.submit("default", "improve", {}, "k", "ana").job_id
    known = {
        "episode_id": "ep-1",
        "checkpoint_id": checkpoint,
        "job_id": job,
        "trial_id": "trial-1",
        "name": "loop-1",
        "step": "cancel",
    }
    for address in rest:
        for how in ("publish", "promote", "rollback"):
            path = address.format_map(defaultdict(lambda: "some-1", {**known, "how": how}))
            answer = robot.post(path, data={"outcome": "success", "reason": "x"}, headers=JSON)
            if address == "/jobs/{job_id}/cancel":  # which a robot may do, of jobs it knows
                assert (answer.status_code, "there is no job" in answer.text) == (404, True)
                continue
            assert (answer.status_code, "(robot) may not" in answer.text) == (403, True), path


def test_over_mutual_tls_the_certificate_says_which_robot_asks(tmp_path):
    engine = SteeredEngine()
    service = Service(ServiceConfig(folder=tmp_path / "trainer"))
    service.handlers.flows.take_up(lambda tenant: engine)
    with service:
        clients = {}
        for name in ("bridge-1", "bridge-2"):
            identity = enroll(service.authority, name, "robot", out=tmp_path / name)
            clients[name] = Trainer(service.address, identity)
            service.robots.post(User(name, "robot"), {"state": "ready"}, b"")
        one, other = clients.values()
        with pytest.raises(NotPermittedError, match="'bridge-2' may have itself adapted alone, not 'bridge-1'"):
            other.adaptations.begin("bridge-1", "lift")
        begun = one.adaptations.begin("bridge-1", "lift")
        adaptation = Adaptation(one.adaptations, begun.adaptation_id)
        view = adaptation.settled()
        with pytest.raises(NotFoundError, match="there is no adaptation"):
            other.adaptations.cancel(view)
        with pytest.raises(NotFoundError, match="there is no adaptation"):
            other.adaptations.get(view.adaptation_id)
        with pytest.raises(NotPermittedError, match="may not look"):
            list(one.robots.list())
        with pytest.raises(NotPermittedError, match="LogIn"):
            one.log_in()
        assert adaptation.drive(Terms(), approve=lambda view: True).stage == "kept"
        for client in clients.values():
            client.close()

"""The service bridge/test_time_train: real nodes, real mutual TLS, a real page, an engine steered by the test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_core.web.auth import User
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient, RobotRefusedError
from tests.cloud.learning_fakes import tiny_policy
from tests.console.conftest import SteeredEngine
from tests.ros.conftest import wait_until

CALL, CANCEL = "bridge/test_time_train", "bridge/cancel_test_time_train"
HERE = {"ttt_instruction": "lift", "ttt_scene": "evening", "ttt_collect": 40, "ttt_approve": False, "ttt_mode": ""}


@dataclass
class Lab:
    """A robot, its trainer, and what a test asks of them."""

    service: Service
    engine: SteeredEngine
    graph: Graph
    client: GraphClient
    before: int = 0

    def call(self, **values: Any) -> str:
        self.before = len(self.service.handlers.flows.adaptations.of("default"))
        self.client.set("bridge", {**HERE, **values})
        return self.client.call(CALL)

    def result(self, run_id: str) -> dict[str, Any]:
        return self.client.wait_for("bridge/result", lambda value: value["run_id"] == run_id, 30.0)

    def until(self, stage: str) -> dict[str, Any]:
        def there(status: dict[str, Any]) -> bool:
            newest = self.service.handlers.flows.adaptations.of("default")
            known = {"stage": stage, "id": newest[0].view.adaptation_id} if len(newest) > self.before else {}
            return bool(known) and known.items() <= status["adaptation"].items()

        return dict(self.client.wait_for("bridge/status", there, 30.0)["adaptation"])

    def newest(self) -> Any:
        return self.service.handlers.flows.adaptations.of("default")[0]


def started(folder: Path, domain_id: int, *, orders: bool, namespace: str = "") -> Iterator[Lab]:
    tiny_policy(0).save(folder / "base")
    engine = SteeredEngine()
    service = Service(ServiceConfig(folder=folder / "trainer"))
    service.handlers.flows.take_up(lambda tenant: engine)
    with service:
        robot = enroll(service.authority, "sim-0", "robot", out=folder / "robot-identity")
        config = GraphConfig(
            folder=folder / "robot", domain_id=domain_id, trainer=service.address, identity=robot,
            policy=str(folder / "base"), orders=orders, namespace=namespace,
            parameters={"bridge": {"open_services": True}},
        )  # fmt: skip
        with Graph(config) as graph, GraphClient(domain_id=domain_id, namespace=namespace) as client:
            client.wait_ready(60.0)
            wait_until(lambda: service.robots.find("default", "sim-0") is not None, 20.0, "a report")
            yield Lab(service, engine, graph, client)


@pytest.fixture(scope="module")
def running(domain_id, tmp_path_factory) -> Iterator[Lab]:
    yield from started(tmp_path_factory.mktemp("ttt"), domain_id, orders=True)


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    fresh = SteeredEngine()
    running.engine.__dict__.update(fresh.__dict__)
    yield running
    for event in running.engine.hold.values():
        event.set()
    for flow in running.service.handlers.flows.adaptations.of("default"):
        if not flow.view.stage.over:
            flow.cancel(by="test")
        assert flow.wait(20)


def test_a_call_collects_practises_and_waits_until_a_second_one_lets_it_onto_the_arm(lab) -> None:
    lab.engine.trusted = False
    asked = {"ttt_seed": 3, "ttt_minutes": 2.0, "ttt_rollouts": 900, "ttt_mode": "full", "ttt_config": '{"groups": 4}'}
    run_id = lab.call(**asked, ttt_collect=6)
    told = lab.until("preview")
    assert "collect 6" in lab.engine.calls
    assert (told["iterations"], told["rollouts"], told["candidate"]) == (3, 300, "policy-candidate")
    assert f"/adapt/{told['id']}; call test_time_train again" in told["next"]
    view = lab.newest().view
    assert (view.robot, view.started_by, view.instruction, view.scene) == ("sim-0", "sim-0", "lift", "evening")
    assert (view.budget["seconds"], view.budget["rollouts"], view.mode) == (120, 900, "full")
    assert (lab.engine.asked.seed, lab.engine.asked.config) == (3, {"groups": 4})
    assert "canary" not in lab.engine.calls
    assert lab.client.call(CALL) == "approved policy-candidate; the canary decides on the arm"
    result = lab.result(run_id)
    assert (result["ok"], result["kept"], result["adaptation"]["stage"]) == (True, True, "kept")
    assert lab.newest().view.decided_by == "sim-0"
    lab.client.set("bridge", {"ttt_seed": 0, "ttt_minutes": 10.0, "ttt_rollouts": 5000, "ttt_config": "{}"})


def test_with_ttt_approve_nobody_is_asked_and_a_lost_canary_is_told(lab) -> None:
    lab.engine.wins = False
    result = lab.result(lab.call(ttt_approve=True))
    assert (result["ok"], result["kept"], result["adaptation"]["stage"]) == (True, False, "reverted")
    assert "its canary ended: futile" in result["adaptation"]["reason"]


def test_an_operator_may_decide_at_the_page_what_the_robot_began(lab) -> None:
    run_id = lab.call()
    lab.until("preview")
    flow = lab.newest()
    ana = User("ana", "operator")
    lab.service.handlers.adaptations.reject(ana, flow.view.adaptation_id, flow.view.revision)
    result = lab.result(run_id)
    assert (result["kept"], result["adaptation"]["reason"]) == (False, "rejected by the operator")


def test_a_scene_that_stays_refused_is_told_and_leaves_the_robot_free(lab) -> None:
    lab.engine.trusted = False
    result = lab.result(lab.call(ttt_collect=0))
    assert (result["ok"], result["adaptation"]["stage"]) == (True, "refused")
    assert "dreams disagree with this scene" in result["adaptation"]["reason"]
    assert lab.newest().view.stage.value == "cancelled"


def test_a_second_call_while_it_works_is_refused_and_cancel_ends_it(lab) -> None:
    lab.engine.hold["train"].clear()
    run_id = lab.call()
    lab.until("training")
    with pytest.raises(RobotRefusedError, match=r"busy with test_time_train \(training\)"):
        lab.client.call(CALL)
    lab.client.call(CANCEL)
    wait_until(lambda: lab.newest().view.cancel_requested, 20.0, "the cancel")
    lab.engine.hold["train"].set()
    result = lab.result(run_id)
    assert (result["kept"], result["adaptation"]["stage"]) == (False, "cancelled")
    with pytest.raises(RobotRefusedError, match="no test_time_train is under way"):
        lab.client.call(CANCEL)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"ttt_mode": "half"}, "must be one of"),
        ({"ttt_minutes": 0.0}, "ttt_minutes"),
        ({"ttt_rollouts": -1}, "ttt_rollouts"),
        ({"ttt_config": "[1]"}, "must be a JSON object"),
        ({"ttt_instruction": "  "}, "instruction='  ': must not be blank"),
    ],
)
def test_bad_values_are_refused_by_name(lab, values, named) -> None:
    with pytest.raises(RobotRefusedError, match=named):
        lab.call(**values)
    assert lab.engine.calls == []


def test_what_the_trainer_refuses_is_told_in_its_words(lab) -> None:
    result = lab.result(lab.call(ttt_world_model="world_model-nowhere"))
    lab.client.set("bridge", {"ttt_world_model": ""})
    assert (result["ok"], "no checkpoint 'world_model-nowhere'" in result["error"]) == (False, True)


def test_a_bridge_that_was_killed_goes_on_with_what_it_began_when_it_is_called_again(lab) -> None:
    lab.engine.hold["train"].clear()
    lab.call()
    lab.until("training")
    restarts = lab.graph.restarts["bridge"]
    os.kill(lab.graph.pids["bridge"], signal.SIGKILL)
    wait_until(lambda: lab.graph.restarts["bridge"] > restarts, 20.0, "respawn")
    lab.client.wait_for("bridge/status", lambda status: status["adaptation"] == {}, 20.0)
    run_id = lab.call(ttt_approve=True)
    lab.before -= 1
    lab.until("training")
    lab.engine.hold["train"].set()
    result = lab.result(run_id)
    assert (result["kept"], lab.engine.calls.count("capture")) == (True, 1), "one adaptation, not two"


def test_a_robot_that_takes_no_orders_says_how_to_start_it(tmp_path, domain_id) -> None:
    for lab in started(tmp_path, domain_id, orders=False, namespace="quiet"):
        with pytest.raises(RobotRefusedError, match=r"takes no orders.*start it with `gymnast up --orders`"):
            lab.call()
        assert lab.service.handlers.flows.adaptations.of("default") == []

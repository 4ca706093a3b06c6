"""Processes of the real arm on the stand-in: each transition, each end leaves the arm lying, or held and reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from gymnast_ros.keyring import VARIABLE, Keyring, recover_word
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.reset_permit import ResetPermits
from tests.ros.conftest import wait_until

ANSWER_S = 60.0


@dataclass
class Arm:
    """One process, and what an operator asks of it."""

    name: str
    folder: Path
    operator: Node
    heard: int = 0
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self, domain_id: int, *parameters: str) -> None:
        keyring = Keyring.make(self.folder / "gate")
        keyring.latch.farewell()  # its gate went in good order: no silence to be afraid of
        environment = {
            **os.environ, VARIABLE: str(keyring.folder), "ROS_DOMAIN_ID": str(domain_id),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "STANDIN_FAULTS": str(self.folder / "faults.json"), "STANDIN_REPORT": str(self.folder / "report.json"),
        }  # fmt: skip
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gymnast_ros.nodes.widowx_arm", "--ros-args", "-r", f"__ns:=/{self.name}", "-p",
                 "vendor:=tests.ros.standin", *parameters], env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        self.operator.create_subscription(JointState, f"/{self.name}/{topics.TARGET}", self._hear, topics.STREAM)

    def _hear(self, _: JointState) -> None:
        self.heard += 1

    def ask(self, kind: type, service: str, request: object) -> object:
        client = self.operator.create_client(kind, f"/{self.name}/{service}")
        executor = SingleThreadedExecutor(context=self.operator.context)
        executor.add_node(self.operator)
        try:
            wait_until(client.service_is_ready, ANSWER_S, service)
            future = client.call_async(request)
            executor.spin_until_future_complete(future, timeout_sec=ANSWER_S)
            assert future.done(), f"{service} does not answer\n{self.log}"
            return future.result()
        finally:
            executor.remove_node(self.operator)
            executor.shutdown()
            self.operator.destroy_client(client)

    def set(self, transition: int) -> bool:
        """`ros2 lifecycle set /arm ...`."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.ask(ChangeState, "arm/change_state", request).success

    @property
    def state(self) -> str:
        return self.ask(GetState, "arm/get_state", GetState.Request()).current_state.label

    def call(self, service: str) -> tuple[bool, str]:
        answer = self.ask(Trigger, service, Trigger.Request())
        return answer.success, answer.message

    def reset(self) -> tuple[bool, str]:
        """As the rollout does."""
        self.tell(**ResetPermits(Keyring.load(self.folder / "gate")).new())
        return self.call("arm/reset")

    def recover(self) -> tuple[bool, str]:
        """As its operator does."""
        self.tell(recover_word=recover_word(self.folder / "gate"))
        return self.call("arm/recover")

    def tell(self, **values: str) -> None:
        """Set parameters."""
        told = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        self.ask(SetParameters, "arm/set_parameters", SetParameters.Request(parameters=told))

    def break_down(self, **faults: object) -> None:
        (self.folder / "faults.json").write_text(json.dumps(faults))

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(ANSWER_S)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def report(self) -> dict[str, object]:
        return json.loads((self.folder / "report.json").read_text())


@pytest.fixture(scope="module")
def arms(domain_id: int, context: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Arm]]:
    """All of them configured; each test activates its own."""
    operator = Node("operator", context=context)
    arms = {name: Arm(name, tmp_path_factory.mktemp(name), operator) for name in ("ended", "dead", "blocked")}
    for arm in arms.values():
        arm.start(domain_id)
    for arm in arms.values():
        assert arm.set(Transition.TRANSITION_CONFIGURE), arm.log
    yield arms
    for arm in arms.values():
        arm.process.kill()
        arm.process.wait()
    operator.destroy_node()


def test_shutdown_transition_lays_the_arm_down_and_nothing_moves_it_again(arms: dict[str, Arm]) -> None:
    arm = arms["ended"]
    assert arm.set(Transition.TRANSITION_ACTIVATE), arm.log
    assert "not active" not in arm.reset()[1]
    assert arm.set(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert arm.state == "finalized"
    for call in (arm.reset, lambda: arm.call("arm/recover")):
        done, message = call()
        assert (done, "not active" in message) == (False, True), message
    heard = arm.heard
    deadline = time.monotonic() + 1.0
    executor = SingleThreadedExecutor(context=arm.operator.context)
    executor.add_node(arm.operator)
    while time.monotonic() < deadline:  # absence takes time: five ticks
        executor.spin_once(timeout_sec=0.1)
    executor.remove_node(arm.operator)
    assert arm.heard - heard <= 10, "the gate still hears an arm, and would re-arm"  # what was queued before
    assert arm.interrupt() == 0
    assert not arm.report["dropped"]
    assert not arm.report["torque"]["shoulder"]


def test_with_a_dead_driver_services_answer_and_the_end_is_reported(arms: dict[str, Arm]) -> None:
    arm = arms["dead"]
    assert arm.set(Transition.TRANSITION_ACTIVATE), arm.log
    arm.break_down(dead=True)
    wait_until(lambda: "xs_sdk" in arm.recover()[1], ANSWER_S, "the watch to notice, and recover to say so")
    assert not arm.recover()[0]
    assert arm.process.poll() is None, arm.log
    assert not arm.set(Transition.TRANSITION_ACTIVE_SHUTDOWN) or arm.state == "finalized"
    assert arm.interrupt() == 1
    assert "[FATAL]" in arm.log
    assert "unsupervised" in arm.log


def test_blocked_arm_keeps_its_torque_through_cleanup_and_exit(arms: dict[str, Arm]) -> None:
    arm = arms["blocked"]
    assert arm.set(Transition.TRANSITION_ACTIVATE), arm.log
    arm.break_down(block=["elbow"])
    assert arm.set(Transition.TRANSITION_DEACTIVATE)
    assert not arm.set(Transition.TRANSITION_CLEANUP)
    assert arm.state == "inactive"
    assert arm.interrupt() == 1
    assert "unsupervised" in arm.log
    assert "elbow is" in arm.log
    assert not arm.report["dropped"]
    assert arm.report["torque"]["shoulder"]


def test_transition_that_fails_says_why(arms: dict[str, Arm], tmp_path: Path, domain_id: int) -> None:
    arm = Arm("nameless", tmp_path, arms["dead"].operator)
    arm.break_down(explode=True)
    arm.start(domain_id)
    try:
        assert not arm.set(Transition.TRANSITION_CONFIGURE)
        assert arm.state == "unconfigured"
        assert "configure failed: core.robot_get_joint_states() of interbotix_xs_modules failed (KeyError(" in arm.log
        assert arm.interrupt() == 0
    finally:
        arm.process.kill()
        arm.process.wait()


def test_dry_run_works_with_the_vendors_simulation(arms: dict[str, Arm], tmp_path: Path, domain_id: int) -> None:
    """It knows no velocity, no effort and no registers."""
    arm = Arm("dry", tmp_path, arms["dead"].operator)
    arm.break_down(bare=True)
    arm.start(domain_id, "-p", "dry_run:=true")
    try:
        assert arm.set(Transition.TRANSITION_CONFIGURE), arm.log
        assert arm.set(Transition.TRANSITION_ACTIVATE), arm.log
        assert arm.interrupt() == 0, arm.log
        assert not arm.report["dropped"]
        assert not arm.report["torque"]["shoulder"]
    finally:
        arm.process.kill()
        arm.process.wait()

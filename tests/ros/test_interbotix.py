"""Connecting through the vendor's package: constructed before it spins, once, with waits that end and leave nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.node import Node
from std_srvs.srv import Trigger

from gymnast_core.errors import ConfigError
from gymnast_ros.drivers import interbotix
from gymnast_ros.drivers.contract import check_vendor
from gymnast_ros.nodes.runtime import Spinner
from tests.ros.conftest import wait_until
from tests.ros.vendor_package import SERVICE, install


@pytest.fixture(autouse=True)
def _process(domain_id, monkeypatch) -> Iterator[None]:
    """The vendor's node lives in the default context, as in a process of its own."""
    rclpy.init(domain_id=domain_id)
    yield
    rclpy.try_shutdown()
    interbotix.disconnect()
    interbotix.connect.cache_clear()


@pytest.fixture
def xs_sdk(_process) -> Iterator[threading.Event]:
    """A register service that hangs until told otherwise."""
    answer = threading.Event()
    node = Node("xs_sdk")

    def serve(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        answer.wait(10.0)
        response.success = True
        return response

    node.create_service(Trigger, SERVICE, serve)
    spinner = Spinner(node)
    yield answer
    answer.set()
    spinner.close()


def test_second_configure_gets_the_same_robot_and_its_thread_is_joined_at_the_end(monkeypatch) -> None:
    common = install(monkeypatch)
    robot = interbotix.connect("wx250s", "wx250s")
    check_vendor(robot)
    assert interbotix.connect("wx250s", "wx250s") is robot
    assert common.thread.is_alive()
    rclpy.try_shutdown()
    interbotix.disconnect()
    assert not common.thread.is_alive()


def test_answers_leave_no_timers_behind(monkeypatch, xs_sdk) -> None:
    install(monkeypatch)
    xs_sdk.set()
    robot = interbotix.connect("wx250s", "wx250s")
    wait_until(robot.client.service_is_ready, 10.0, "the register service")
    assert all(robot.ask().success for _ in range(5))
    assert list(robot.node.timers) == []


def test_hanging_service_is_waited_for_no_longer_than_told(monkeypatch, xs_sdk) -> None:
    install(monkeypatch)
    monkeypatch.setattr(interbotix, "ANSWER_S", 0.2)
    robot = interbotix.connect("wx250s", "wx250s")
    wait_until(robot.client.service_is_ready, 10.0, "the register service")
    asked_s = time.monotonic()
    assert robot.ask() is None
    assert time.monotonic() - asked_s < 5.0


def test_missing_xs_sdk_is_told_with_its_launch_command_and_ends_nobody(monkeypatch) -> None:
    install(monkeypatch, answers=False)
    with pytest.raises(ConfigError, match=r"xsarm_control.launch.py robot_model:=wx250s robot_name:=left"):
        interbotix.connect("wx250s", "left")


def test_missing_or_old_package_is_named(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="interbotix_xs_modules is not importable"):
        interbotix.connect("wx250s", "wx250s")
    common = install(monkeypatch)
    del common.InterbotixRobotNode.wait_until_future_complete
    with pytest.raises(ConfigError, match="update interbotix_ros_toolboxes"):
        interbotix.connect("wx250s", "wx250s")

"""Connects to a real WidowX through interbotix_xs_modules; the only file that imports it."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_ros.drivers.contract import VendorRobot

CONNECT_S = 30.0
"""The vendor's constructor waits without end for services and joint states."""
NODE_NAME = "interbotix_robot_manipulation"
"""Kept where the process's own node is renamed from outside: a rule of the node comes before those of the process."""
ANSWER_S = 3.0
"""Longest wait for one answer of xs_sdk; writing registers of six motors takes 0.1 s."""

_SPINNING: list[threading.Thread] = []


@functools.cache
def connect(robot_model: str, robot_name: str) -> VendorRobot:
    """Return the vendor's robot object, constructed in the order it needs; once per process, as its node is.

    The constructor waits for xs_sdk and joint_states and spins the vendor's own node, so it comes before
    robot_startup(), which moves that node to a thread. rclpy must be initialised; our node stays apart.

    Raises:
        ConfigError: the vendor package is not installed or too old, or xs_sdk does not answer.
    """
    try:
        arm: Any = importlib.import_module("interbotix_xs_modules.xs_robot.arm")
        common: Any = importlib.import_module("interbotix_common_modules.common_robot.robot")
    except ImportError as error:
        raise ConfigError(
            f"interbotix_xs_modules is not importable ({error}); install Interbotix's ROS 2 packages and source them"
        ) from error
    node = _patient_node(common)(node_name=NODE_NAME, cli_args=["--ros-args", "-r", f"__node:={NODE_NAME}"])
    robot: VendorRobot = _in_time(
        lambda: arm.InterbotixManipulatorXS(robot_model=robot_model, robot_name=robot_name, node=node),
        f"xs_sdk of /{robot_name} does not answer; is `ros2 launch interbotix_xsarm_control xsarm_control.launch.py "
        f"robot_model:={robot_model} robot_name:={robot_name}` running, and the arm powered?",
    )
    before = set(threading.enumerate())
    common.robot_startup(node)
    _SPINNING.extend(set(threading.enumerate()) - before)
    return robot


def disconnect() -> None:
    """Join the vendor's spin thread; call it when rclpy is down, which ends that thread.

    robot_shutdown() would shut rclpy down for the whole process while our nodes still live, and a thread that spins
    while the process ends aborts it.
    """
    while _SPINNING:
        _SPINNING.pop().join(5.0)


def _patient_node(common: Any) -> Any:
    """The vendor's node class with a wait that ends.

    Its own makes a 20 Hz rate for every service call and never destroys its timer (two calls a second for the motors'
    health are a thousand timers after ten minutes), and waits for ever where the service hangs.
    """
    if not hasattr(common.InterbotixRobotNode, "wait_until_future_complete"):
        raise ConfigError("the installed interbotix_common_modules is of before 2024; update interbotix_ros_toolboxes")

    class PatientNode(common.InterbotixRobotNode):  # type: ignore[misc]
        def wait_until_future_complete(self, future: Any, timeout_sec: float | None = None) -> None:
            seconds = ANSWER_S if timeout_sec is None or timeout_sec < 0 else timeout_sec
            if not common.interbotix_is_up():
                super().wait_until_future_complete(future, timeout_sec=seconds)  # nobody else spins the node yet
                return
            done = threading.Event()
            future.add_done_callback(lambda _: done.set())
            done.wait(seconds)

    return PatientNode


def _in_time(make: Callable[[], Any], otherwise: str) -> Any:
    """What make() returns, or ConfigError after CONNECT_S; a vendor's exit() ends nobody."""
    made: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.append(make())
        except (SystemExit, RuntimeError, AttributeError) as error:  # AttributeError: an answer that did not come
            failed.append(error)

    thread = threading.Thread(target=run, name="interbotix-connect", daemon=True)
    thread.start()
    thread.join(CONNECT_S)
    if not made:
        raise ConfigError(f"{otherwise} ({failed[0]!r})" if failed else otherwise)
    return made[0]

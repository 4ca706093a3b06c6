"""Interbotix's two Python modules as an installation has them, for the one file of ours that imports them.

The robot object is the stand-in; the node and its start-up are real rclpy with the vendor's manners: one start per
process, a 20 Hz rate made for every wait, a thread that spins until rclpy is down.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import rclpy
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from tests.ros.standin import StandIn

SERVICE = "/wx250s/get_motor_registers"


def install(monkeypatch: Any, *, answers: bool = True) -> ModuleType:
    """Put the modules where an import finds them; returns common_robot.robot."""
    common, arm = ModuleType("robot"), ModuleType("arm")
    common.up, common.thread = False, None

    class InterbotixRobotNode(Node):
        def wait_until_future_complete(self, future: Any, timeout_sec: float | None = None) -> None:
            if common.up:
                rate = self.create_rate(20.0)
                while not future.done():
                    rate.sleep()
            else:
                rclpy.spin_until_future_complete(self, future, timeout_sec=timeout_sec)

    class InterbotixManipulatorXS(StandIn):
        def __init__(self, robot_model: str, robot_name: str, node: Node) -> None:
            assert not common.up, "constructed after robot_startup: it would wait for ever"
            if not answers:
                sys.exit(1)  # as the vendor's core does when xs_sdk is missing
            super().__init__()
            self.node = node
            self.client = node.create_client(Trigger, SERVICE)

        def ask(self) -> Any:
            future = self.client.call_async(Trigger.Request())
            self.node.wait_until_future_complete(future)
            return future.result()

    def robot_startup(node: Node) -> None:
        assert not common.up, "Startup has already been requested."
        common.up = True
        executor = MultiThreadedExecutor()

        def spin() -> None:
            while rclpy.ok():
                executor.add_node(node)
                executor.spin()

        common.thread = threading.Thread(target=spin, daemon=True)
        common.thread.start()

    common.InterbotixRobotNode, common.robot_startup = InterbotixRobotNode, robot_startup
    common.interbotix_is_up = lambda: common.up
    arm.InterbotixManipulatorXS = InterbotixManipulatorXS
    monkeypatch.setitem(sys.modules, "interbotix_common_modules.common_robot.robot", common)
    monkeypatch.setitem(sys.modules, "interbotix_xs_modules.xs_robot.arm", arm)
    return common

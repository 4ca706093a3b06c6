"""Connects to a real WidowX through interbotix_xs_modules; the only file that imports it."""

from __future__ import annotations

import importlib
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_ros.drivers.contract import VendorRobot


def connect(robot_model: str, robot_name: str) -> VendorRobot:
    """Return the vendor's robot object, constructed in the order it needs.

    The constructor waits for xs_sdk and joint_states and spins the vendor's own node, so it comes before
    robot_startup(), which moves that node to a thread. rclpy must be initialised; our node stays apart.

    Raises:
        ConfigError: the vendor package is not installed, or xs_sdk does not answer.
    """
    try:
        arm: Any = importlib.import_module("interbotix_xs_modules.xs_robot.arm")
        common: Any = importlib.import_module("interbotix_common_modules.common_robot.robot")
    except ImportError as error:
        raise ConfigError(
            f"interbotix_xs_modules is not importable ({error}); install Interbotix's ROS 2 packages and source them"
        ) from error
    node = common.create_interbotix_global_node()
    try:
        robot: VendorRobot = arm.InterbotixManipulatorXS(robot_model=robot_model, robot_name=robot_name, node=node)
    except SystemExit as error:
        raise ConfigError(f"xs_sdk of {robot_name} does not answer; is xsarm_control.launch.py running?") from error
    common.robot_startup(node)
    return robot


def disconnect(robot: VendorRobot) -> None:
    """End the vendor's spin thread.

    robot_shutdown() would shut rclpy down for the whole process and leave its thread unjoined.
    """
    common: Any = importlib.import_module("interbotix_common_modules.common_robot.robot")
    executor = getattr(common, "__executor", None)
    if executor is not None:
        executor.shutdown()

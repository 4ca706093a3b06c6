"""What we use of Interbotix's Python API, declared once: checked against the live package, and the tests' stand-in.

Source: Interbotix/interbotix_ros_toolboxes, interbotix_xs_modules/xs_robot (arm.py, core.py, gripper.py), ROS 2.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

from gymnast_core.errors import ContractError


@dataclass(frozen=True)
class Call:
    """One method.

    Attributes:
        part: attribute of the robot object: arm, gripper or core.
        name: method.
        parameters: the names we pass; the package may have more with defaults.
        fails: how it reports failure: "false" (returns False), "silent" (never does), "raises".
    """

    part: str
    name: str
    parameters: tuple[str, ...] = ()
    fails: str = "silent"


VENDOR_API = (
    Call("arm", "set_joint_positions", ("joint_positions", "moving_time", "accel_time", "blocking"), "false"),
    Call("arm", "set_trajectory_time", ("moving_time", "accel_time")),
    Call("arm", "go_to_sleep_pose", ("moving_time", "accel_time", "blocking")),
    Call("arm", "capture_joint_positions"),
    Call("gripper", "grasp", ("delay",)),
    Call("gripper", "release", ("delay",)),
    Call("gripper", "set_pressure", ("pressure",)),
    Call("core", "robot_get_joint_states"),
    Call("core", "robot_write_commands", ("group_name", "commands")),
    Call("core", "robot_torque_enable", ("cmd_type", "name", "enable")),
    Call("core", "robot_reboot_motors", ("cmd_type", "name", "enable", "smart_reboot")),
    Call("core", "robot_get_motor_registers", ("cmd_type", "name", "reg"), "raises"),
    Call("core", "robot_set_motor_registers", ("cmd_type", "name", "reg", "value")),
    Call(
        "core",
        "robot_set_operating_modes",
        ("cmd_type", "name", "mode", "profile_type", "profile_velocity", "profile_acceleration"),
    ),
)


class VendorRobot(Protocol):
    """InterbotixManipulatorXS as far as VENDOR_API goes."""

    arm: Any
    gripper: Any
    core: Any


def check_vendor(robot: VendorRobot) -> None:
    """Refuse a vendor package that lacks something we call, before anything moves.

    Raises:
        ContractError: the message lists every method or parameter that is missing.
    """
    missing = []
    for call in VENDOR_API:
        method = getattr(getattr(robot, call.part, None), call.name, None)
        if method is None:
            missing.append(f"{call.part}.{call.name}()")
            continue
        known = inspect.signature(method).parameters
        anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
        missing += [
            f"{call.part}.{call.name}({name}=)" for name in call.parameters if name not in known and not anything
        ]
    if missing:
        raise ContractError(
            f"the installed interbotix_xs_modules lacks {', '.join(missing)}; update interbotix_ros_toolboxes"
        )

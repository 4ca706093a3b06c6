"""What the motors report, read out of joint_states as the vendor's driver may send it: partial, or none at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.arm.kinematics import forward
from gymnast_core.arm.targets import EndEffectorTarget, proprioception
from gymnast_core.errors import SafetyError, StaleCommandError
from gymnast_core.spec import JOINT_NAMES, RobotSpec
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.contract import VendorRobot

Array = npt.NDArray[np.float64]
FINGER = "left_finger"


@dataclass(frozen=True, eq=False)
class ArmReading:
    """One joint_states message.

    Attributes:
        joints_J: (6,) [rad].
        velocity_J: (6,) [rad/s]; None where the driver reports none (its own simulation does not).
        effort_J: (6,) [mA]; None likewise.
        finger_m: left finger's position.
        stamp_ns: of the message.
    """

    joints_J: Array
    velocity_J: Array | None
    effort_J: Array | None
    finger_m: float
    stamp_ns: int

    def opening(self, spec: RobotSpec) -> float:
        """Of the gripper, 0 closed to 1 open."""
        span = spec.finger_open_m - spec.finger_closed_m
        return float(np.clip((self.finger_m - spec.finger_closed_m) / span, 0.0, 1.0))

    def proprio_P(self, spec: RobotSpec) -> FloatArray:
        """Bridge's proprioception, measured."""
        return proprioception(*forward(self.joints_J, spec), self.opening(spec))

    def standing(self, spec: RobotSpec) -> EndEffectorTarget:
        """Where the arm really is, as a target."""
        return EndEffectorTarget(*forward(self.joints_J, spec), self.opening(spec))


def read(robot: VendorRobot) -> ArmReading:
    """Return the newest joint states.

    Raises:
        StaleCommandError: there are none.
        SafetyError: they lack a joint, or a position is not a number.
    """
    message: Any = robot.core.robot_get_joint_states()
    if message is None:
        raise StaleCommandError("no joint_states from xs_sdk; is it running?")
    index = {name: number for number, name in enumerate(message.name)}
    missing = [
        name for name in (*JOINT_NAMES, FINGER) if index.get(name, len(message.position)) >= len(message.position)
    ]
    if missing:
        raise SafetyError(f"joint_states of xs_sdk have no position of {', '.join(missing)}; they name {sorted(index)}")
    joints = [index[name] for name in JOINT_NAMES]
    positions = np.asarray(message.position, np.float64)
    if not np.isfinite(positions[joints]).all():
        raise SafetyError(
            f"joint_states of xs_sdk are not numbers: {dict(zip(JOINT_NAMES, positions[joints], strict=True))}"
        )
    stamp = message.header.stamp
    return ArmReading(
        positions[joints],
        _of(message.velocity, joints),
        _of(message.effort, joints),
        float(positions[index[FINGER]]),
        int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec),
    )


def _of(values: Any, joints: list[int]) -> Array | None:
    """An optional array of the message, in our order."""
    return np.asarray(values, np.float64)[joints] if len(values) > max(joints) else None

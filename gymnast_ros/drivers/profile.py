"""The time profile in the motors' registers: written through the vendor's package, then read back."""

from __future__ import annotations

from dataclasses import dataclass

from gymnast_core.errors import SafetyError
from gymnast_core.spec import JOINT_NAMES
from gymnast_ros.drivers.contract import VendorRobot


@dataclass(frozen=True)
class Profile:
    """How long a move to a new goal takes; the motors take it over with the next goal.

    Attributes:
        moving_s: from goal to goal.
        acceleration_s: of it.
        checked: read the registers back.
    """

    moving_s: float
    acceleration_s: float
    checked: bool = True

    def write(self, robot: VendorRobot) -> None:
        """Put it into the motors.

        Raises:
            SafetyError: they report another one, or none.
        """
        robot.arm.set_trajectory_time(moving_time=self.moving_s, accel_time=self.acceleration_s)
        if not self.checked or self._read(robot) == self._wanted():
            return
        for register, value in zip(
            REGISTERS, self._wanted(), strict=True
        ):  # the package writes only what it thinks new
            robot.core.robot_set_motor_registers(cmd_type="group", name="arm", reg=register, value=value)
        if (found := self._read(robot)) != self._wanted():
            raise SafetyError(
                f"the motors keep the profile {found} ms, {self._wanted()} ms was written; is xs_sdk alive?"
            )

    def _wanted(self) -> tuple[int, ...]:
        return int(self.moving_s * 1000), int(self.acceleration_s * 1000)

    def _read(self, robot: VendorRobot) -> tuple[int, ...]:
        """Both registers where all motors agree; else as many values as there are."""
        found: list[int] = []
        for register in REGISTERS:
            values = registers(robot, "group", "arm", register)
            found += values[:1] if len(values) == len(JOINT_NAMES) and len(set(values)) == 1 else values
        return tuple(found)


REGISTERS = ("Profile_Velocity", "Profile_Acceleration")
"""In the time-based mode that the vendor's configuration sets, both are milliseconds."""


def registers(robot: VendorRobot, kind: str, name: str, register: str) -> list[int]:
    """Register values; the package returns them bare or inside a response, or nothing."""
    answer = robot.core.robot_get_motor_registers(cmd_type=kind, name=name, reg=register)
    values = getattr(answer, "values", answer)
    return [] if values is None else [int(value) for value in values]

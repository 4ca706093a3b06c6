"""The gripper of a WidowX: opens and closes without waiting, and eases off what it holds."""

from __future__ import annotations

from collections.abc import Callable

from gymnast_ros.drivers.contract import VendorRobot

PRESSURE, HOLDING_PRESSURE = 0.5, 0.2
"""While it closes, and while it keeps what it has: full pressure overloads the motor in minutes."""
SETTLE_S = 1.0


class GripperLoop:
    """Opens and closes without waiting; eases off once it holds something.

    Args:
        robot: the vendor's object.
        now_s: monotonic clock.
    """

    def __init__(self, robot: VendorRobot, now_s: Callable[[], float]) -> None:
        self._robot, self._now_s = robot, now_s
        self._closed: bool | None = None
        self._closed_at_s: float | None = None

    def command(self, opening: float) -> None:
        """Go to an opening, 0 closed to 1 open; nothing is sent twice."""
        closed = opening < 0.5
        if closed == self._closed:
            return
        self._closed = closed
        self._closed_at_s = self._now_s() if closed else None
        self._robot.gripper.set_pressure(pressure=PRESSURE)
        if closed:
            self._robot.gripper.grasp(delay=0.0)
        else:
            self._robot.gripper.release(delay=0.0)

    def tick(self) -> None:
        """Call at the control rate."""
        if self._closed_at_s is not None and self._now_s() - self._closed_at_s > SETTLE_S:
            self._closed_at_s = None
            self._robot.gripper.set_pressure(pressure=HOLDING_PRESSURE)
            self._robot.gripper.grasp(delay=0.0)

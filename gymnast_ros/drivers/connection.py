"""A connected arm: its driver, and the watch over its motors; stands up, recovers, lies down."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from gymnast_core.errors import ConfigError, SafetyError
from gymnast_core.spec import RobotSpec
from gymnast_ros.drivers.contract import VendorRobot
from gymnast_ros.drivers.guard import guarded
from gymnast_ros.drivers.health import MAX_RECOVERIES, MotorHealth, MotorWatch, ask_motors, recover
from gymnast_ros.drivers.keeper import hold
from gymnast_ros.drivers.widowx import WidowXDriver


def hold_lock(path: str) -> TextIO | None:
    """Hold the file by which the driver's keeper knows that this process lives; an empty name holds none.

    Raises:
        ConfigError: another process holds it.
    """
    if not path:
        return None
    file = hold(Path(path))
    if file is None:
        raise ConfigError(f"{path} is held: another process drives this arm; end it first")
    return file


class Connection:
    """One arm from configure to cleanup.

    Args:
        robot: the vendor's object.
        spec: of the arm.
        dry_run: its own simulation, which has no motors to ask.

    Raises:
        ContractError: the vendor package is not the one we know.
        SafetyError: its joint states are missing or make no sense.
    """

    def __init__(self, robot: VendorRobot, spec: RobotSpec, *, dry_run: bool) -> None:
        self._robot, self._dry_run = guarded(robot), dry_run
        self.driver = WidowXDriver(self._robot, spec=spec, dry_run=dry_run)
        self._watch = None if dry_run else MotorWatch(self._robot)

    @property
    def problem(self) -> str:
        """What the motors last reported, or an empty string; never waits."""
        return self._watch.latest().problem if self._watch is not None else ""

    def by_motor(self) -> Mapping[str, tuple[int, str, Mapping[str, object]]]:
        """Level, words and values of every motor, as diagnostics have them."""
        return self._watch.latest().by_motor() if self._watch is not None else {}

    def stand_up(self) -> None:
        """Torque on and up to neutral; motors in error are rebooted first.

        Raises:
            SafetyError: a motor stays in error, the driver is gone, or the arm does not get there.
        """
        if self._ask().errors:
            self.recover()
        else:
            self.driver.start_up()
        health = self._ask()
        if health.problem:
            self.driver.hold()
            raise SafetyError(health.problem)
        self._note(health)

    def recover(self, tries: int = MAX_RECOVERIES) -> None:
        """Bring the arm back to neutral, motors rebooted where they need it.

        Args:
            tries: at most.

        Raises:
            SafetyError: that did not help; the message names what is wrong.
        """
        if self._dry_run:
            self.driver.go_neutral()
        else:
            self._note(recover(self._robot, self.driver, tries=tries))

    def lie_down(self) -> None:
        """Sleep pose, torque off, and no more questions to the motors.

        Raises:
            SafetyError: the arm may not move, does not get there, or its driver is gone; torque stays on.
        """
        self.driver.hold()
        self.driver.sleep()
        if self._watch is not None:
            self._watch.close()

    def _ask(self) -> MotorHealth:
        """What the motors answer now."""
        return MotorHealth() if self._dry_run else ask_motors(self._robot, time.monotonic())

    def _note(self, health: MotorHealth) -> None:
        if self._watch is not None:
            self._watch.note(health)

"""Are the motors all right? Asked beside the control loop, never in it; and the way back when they are not.

Source of the recovery order (torque on, else sleep, reboot, verify; three tries, then a human): AutoEval,
Zhou et al. 2025, zhouzypaul/auto_eval.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gymnast_core.errors import SafetyError
from gymnast_core.spec import JOINT_NAMES
from gymnast_ros.drivers.contract import VendorRobot
from gymnast_ros.drivers.profile import registers
from gymnast_ros.drivers.widowx import WidowXDriver, torque_on

LOG = logging.getLogger(__name__)

MAX_RECOVERIES = 3
HARDWARE_ERRORS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload"}
"""Bits of Hardware_Error_Status. Source: ROBOTIS e-Manual, X series, control table address 70."""


class NeedsHumanError(SafetyError):
    """Recovering did not help as often as it was tried: somebody must look at the arm."""


@dataclass(frozen=True)
class MotorHealth:
    """Answer of one round of questions.

    Attributes:
        torque: motor -> whether it holds.
        errors: motor -> words for its error bits; only motors that have some.
        silent: motors that did not answer, or "all" when the bus did not.
        asked_s: monotonic time of the answer.
    """

    torque: Mapping[str, bool] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    asked_s: float = 0.0

    @property
    def problem(self) -> str:
        """What is wrong, or an empty string."""
        off = [name for name, on in self.torque.items() if not on]
        parts = [f"{name} reports {words}" for name, words in self.errors.items()]
        parts += [f"{name} lost torque" for name in off]
        parts += [f"{'xs_sdk' if name == 'all' else name} does not answer" for name in self.silent]
        return "; ".join(parts)

    def by_motor(self) -> Mapping[str, tuple[int, str, Mapping[str, object]]]:
        """Level, words and values of every motor, as diagnostics have them; a bus that is silent makes all stale."""
        silent = {"all": self.torque, "arm": JOINT_NAMES}
        deaf = {motor for name in self.silent for motor in silent.get(name, (name,))}
        health: dict[str, tuple[int, str, Mapping[str, object]]] = {}
        for motor, on in self.torque.items():
            words = self.errors.get(motor, "")
            values = {"torque": on, "hardware_error": words or "none"}
            if motor in deaf:
                health[motor] = (3, "does not answer", values)
            else:
                health[motor] = (2, words or "lost torque", values) if words or not on else (0, "holds", values)
        return health


def ask_motors(robot: VendorRobot, now_s: float) -> MotorHealth:
    """Read Torque_Enable and Hardware_Error_Status of every motor; slow, so never call it from the control loop."""
    torque: dict[str, bool] = {}
    errors: dict[str, str] = {}
    for kind, name, motors in (("group", "arm", JOINT_NAMES), ("single", "gripper", ("gripper",))):
        on = registers(robot, kind, name, "Torque_Enable")
        status = registers(robot, kind, name, "Hardware_Error_Status")
        if len(on) < len(motors) or len(status) < len(motors):
            return MotorHealth(torque, errors, (name,), now_s)
        torque |= {motor: bool(value) for motor, value in zip(motors, on, strict=False)}
        errors |= {motor: _words(value) for motor, value in zip(motors, status, strict=False) if value}
    return MotorHealth(torque, errors, (), now_s)


class MotorWatch:
    """Asks in a thread of its own and keeps the newest answer.

    Args:
        robot: the vendor's object, guarded.
        period_s: pause between rounds.
        stuck_s: a round that takes longer is a fault: the bus or the service hangs.
    """

    def __init__(self, robot: VendorRobot, *, period_s: float = 0.5, stuck_s: float = 3.0) -> None:
        self._robot, self._period_s, self._stuck_s = robot, period_s, stuck_s
        self._health = MotorHealth(asked_s=time.monotonic())
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="motor-health", daemon=True)
        self._thread.start()

    def latest(self) -> MotorHealth:
        """The newest answer; never waits."""
        if time.monotonic() - self._health.asked_s > self._stuck_s:
            return MotorHealth(self._health.torque, self._health.errors, ("all",), self._health.asked_s)
        return self._health

    def note(self, health: MotorHealth) -> None:
        """Take an answer somebody else got; rounds begun before it are out of date."""
        self._health = health

    def close(self) -> None:
        """Stop asking; a hanging round is abandoned with the process."""
        self._closing.set()
        self._thread.join(1.0)

    def _watch(self) -> None:
        while not self._closing.wait(self._period_s):
            begun_s = time.monotonic()
            try:
                health = ask_motors(self._robot, begun_s)
            except SafetyError as error:  # a lost service
                if not self._health.silent:  # reported once, not twice a second
                    LOG.warning("motor_health error=%s", error)
                health = MotorHealth(self._health.torque, self._health.errors, ("all",), time.monotonic())
            if begun_s >= self._health.asked_s:
                self._health = health


def recover(
    robot: VendorRobot,
    driver: WidowXDriver,
    *,
    tries: int = MAX_RECOVERIES,
    pause: Callable[[float], object] = time.sleep,
) -> MotorHealth:
    """Bring the arm back: hold, sleep pose, reboot, rewrite the modes a reboot forgets, torque on, verify.

    Returns:
        The health it ended with: no problem.

    Args:
        robot: guarded.
        driver: of it.
        tries: at most.
        pause: waits so many seconds.

    Raises:
        NeedsHumanError: that many tries did not help; torque is left as it is.
        SafetyError: the driver is gone, or the arm may not move.
    """
    driver.check_alive()
    ask_motors(robot, time.monotonic())  # where the services hang this ends at once, not after the last of them
    for attempt in range(1, tries + 1):
        _rest(driver)
        robot.core.robot_reboot_motors(cmd_type="group", name="arm", enable=True, smart_reboot=True)
        robot.core.robot_reboot_motors(cmd_type="single", name="gripper", enable=True, smart_reboot=True)
        pause(1.0)  # motors are deaf while they boot
        _rewrite_modes(robot)
        driver.forget_profile()
        torque_on(robot)
        health = ask_motors(robot, time.monotonic())
        LOG.warning("recovery attempt=%d problem=%s", attempt, health.problem or "none")
        if not health.problem:
            driver.go_neutral()
            return health
    raise NeedsHumanError(f"recoveries failed ({tries}): {health.problem}; look at the arm")


def _rest(driver: WidowXDriver) -> None:
    """Sleep pose as far as the arm gets: with a dead motor it does not, and the reboot must come all the same.

    Raises:
        SafetyError: somebody stopped the arm.
    """
    try:
        driver.hold()
        driver.sleep(torque_off=False)
    except SafetyError as error:
        if driver.stopped:
            raise
        LOG.warning("recovery_rest error=%s", error)


def _rewrite_modes(robot: VendorRobot) -> None:
    set_modes = robot.core.robot_set_operating_modes
    set_modes(
        cmd_type="group", name="arm", mode="position", profile_type="time", profile_velocity=2000,
        profile_acceleration=500,
    )  # fmt: skip
    set_modes(
        cmd_type="single", name="gripper", mode="pwm", profile_type="velocity", profile_velocity=0,
        profile_acceleration=0,
    )  # fmt: skip


def _words(status: int) -> str:
    known = [words for bit, words in HARDWARE_ERRORS.items() if status >> bit & 1]
    return ", ".join(known) or f"error bits {status:#x}"

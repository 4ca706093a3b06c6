"""The real arm from tick to tick: what is seen is published, what the gate sends is executed, and what stops it.

One class, and so a long file: one lock orders whatever moves the arm or stops it, and all of that is here. The latch of
the emergency stop is looked at in a thread of its own (_look) and ends a slow move without the lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rclpy.node import Node
from rclpy.task import Future

from gymnast_core.arm.cameras import Frame
from gymnast_core.arm.envelope import ArmState
from gymnast_core.errors import EstopLatchedError, GymnastError, SafetyError
from gymnast_core.robots import robot_named
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.auto_recovery import AutoRecovery, RecoveryCount
from gymnast_ros.drivers.connection import Connection
from gymnast_ros.drivers.force import ForceWatch
from gymnast_ros.drivers.reading import ArmReading
from gymnast_ros.drivers.widowx import SLOW_S, WidowXDriver
from gymnast_ros.nodes.arm_port import SESSION, SILENCE, ArmDescription, ArmPort, ArmReport
from gymnast_ros.nodes.cameras import CameraPort
from gymnast_ros.nodes.ears import note_drop
from gymnast_ros.nodes.gate_ear import GateEar
from gymnast_ros.nodes.recovery import RecoveryGuard
from gymnast_ros.nodes.runtime import Health
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.nodes.widowx_settings import camera_limits, camera_sources, force_bounds
from gymnast_ros.outbox import PageOutbox
from gymnast_ros.run.plan import MOTOR_FAULT, OVER_FORCE
from gymnast_ros.run.ticker import Ticker

NOTHING_A: FloatArray = np.zeros(7, np.float32)
LATENCIES_KEPT = 1000
LOOK_NS = 20_000_000
"""How often the stop latch is looked at."""
SILENCE_NS = 1_000_000_000
"""A gate that has not ticked for so long is gone, or frozen: the arm stays."""


class WidowXLoop:
    """Owns one WidowXDriver; commands come from the gate alone. Outside `active` nothing moves the arm.

    Args:
        node: of the arm.
        settings: its parameters.
        recovery: asks for the operator's word before the arm recovers.
        gate: whether it is open; the arm recovers by itself only then.
        folder: of the robot: calls for a person, and the count of recoveries.
        robot: its name.
    """

    def __init__(
        self, node: Node, settings: NodeSettings, recovery: RecoveryGuard, gate: GateEar, folder: Path, robot: str
    ) -> None:
        self._node, self._settings, self._recovery = node, settings, recovery
        self._spec = robot_named(settings["robot_model"])
        sources, size = camera_sources(settings), int(settings["image_size"])
        self._cameras = CameraPort(node, sources, size, camera_limits(settings))
        description = ArmDescription(
            self._spec.name, tuple(source.name for source in sources), size, size, settings["max_steps"],
            self._spec.control_hz, False, 2 * SLOW_S,
        )  # fmt: skip
        self._lock = threading.RLock()
        self._gate = gate
        self._force = ForceWatch(*force_bounds(settings, self._spec))
        self._connection: Connection | None = None
        self._active = self._running = self._leaving = self._motors_failed = False
        """A fault of the motors waits for ~/recover; one of cameras or joint states passes with its cause."""
        self._fault = self._fault_kind = self.stopped = ""
        self._moving: Future | None = None
        self._after: deque[Future] = deque()
        """Resets that wait until the arm has recovered by itself."""
        self._moved_at_s = self._joints_changed_s = 0.0
        self._episode = self._steps = self._stamp_ns = self._captured_ns = self._joints_stamp_ns = 0
        self._executed_A, self._source = NOTHING_A, ""
        self._latencies_ms: list[float] = []
        self._port = ArmPort(
            node, description, self._on_command, self._spec, table_height_m=settings["table_height_m"],
            max_age_s=2 * self._spec.step_s,
        )  # fmt: skip
        self._auto = AutoRecovery(
            RecoveryCount(folder / "recoveries.json"), PageOutbox(folder, robot), enabled=settings["auto_recover"],
            closed=self._closed, attempt=self._recover_by_itself, ended=self._let_resets_go_on,
        )  # fmt: skip
        self._look()
        self._eye = Ticker(LOOK_NS, self._look, name="latch").start()
        self._ticker = Ticker(self._spec.step_ns, self._tick, failed=self._tick_failed).start()

    def connect(self, connection: Connection) -> None:
        """Take an arm that is connected; nothing moves."""
        self._connection = connection
        connection.driver.stopped = self.stopped

    def activate(self) -> None:
        """Torque on, stand up to the neutral pose and start observing; motors in error are rebooted first.

        Raises:
            SafetyError: it did not get there.
        """
        with self._lock:
            self._connected().stand_up()
            self._active, self._fault, self._motors_failed = True, "", False
            self._auto.over()

    def deactivate(self) -> None:
        """Hold where the arm is."""
        with self._lock:
            self._active = self._running = False
            self._settle("the arm was deactivated")
            self._auto.over()
            self._hold(self._connected().driver)

    def lie_down(self) -> bool:
        """Sleep pose and torque off; an arm that does not get there keeps its torque. Returns whether it lies."""
        with self._lock:
            self._active = self._running = False
            self._settle("the arm lies down")
            self._auto.over()
            if self._connection is None:
                return True
            try:
                self._connection.lie_down()
            except SafetyError as error:
                self._node.get_logger().fatal(
                    "NOT LYING DOWN, the arm is unsupervised: torque stays on and nothing watches it; support it by "
                    f"hand, then switch it off: {error}"
                )
                return False
            self._connection = None
        self._node.get_logger().info("the arm lies in its sleep pose, torque is off")
        return True

    def close(self) -> bool:
        """Lie down and end every thread; returns whether it lies. The gate's silence stops nothing any more."""
        self._ticker.close()
        self._auto.close()
        self._leaving = True
        self._look()
        lies = self.lie_down()
        self._eye.close()
        self._cameras.close()
        return lies

    def begin_neutral(self, moving: Future) -> Future:
        """Start moving to neutral, while cameras, motors and e-stop are still listened to.

        Args:
            moving: gets what interrupted the way, or an empty string.

        Raises:
            GymnastError: the arm may not move, or is not fit to.
        """
        if self._auto.under_way:  # without the lock, which a recovery has for seconds
            self._after.append(moving)
            if not self._auto.under_way:
                self._let_resets_go_on()
            return moving
        with self._lock:
            self._check_fit()
            self._running, self._fault = False, ""
            self._moving = moving
            try:
                self._moved_at_s = time.monotonic() + self._connected().driver.begin_neutral()
            except SafetyError:
                self._moving = None
                raise
        return moving

    def begin_episode(self) -> int:
        """Start an episode at neutral; returns the stamp of its first observation.

        Raises:
            GymnastError: the arm is not there, or the first observation is not fit to act on.
        """
        with self._lock:
            driver = self._connected().driver
            driver.end_neutral()
            self._episode += 1
            self._steps = 0
            self._executed_A, self._source = NOTHING_A, ""
            self._force.reset()
            self._observe(driver)
            self._running = True
            return self._stamp_ns

    def recover(self) -> None:
        """Bring an arm whose motors failed back to neutral, at the operator's word.

        Raises:
            SafetyError: it may not move, needs no recovery, or that did not help.
        """
        with self._lock:
            self._check_active()
            if self.stopped:
                raise SafetyError(f"the arm may not move: {self.stopped}")
            if not self._motors_failed:
                raise SafetyError("no motor has failed, there is nothing to recover from; start an episode")
            self._recovery.spend()
            self._running = False
            self._connected().recover()
            self._fault, self._motors_failed = "", False
            self._auto.over()
            self._auto.count.person_came()

    def _recover_by_itself(self) -> None:
        """One try, for AutoRecovery.

        Raises:
            EstopLatchedError: the arm may not move.
            SafetyError: that did not help.
        """
        with self._lock:
            self._check_active()
            if reason := self._closed():
                raise EstopLatchedError(f"the arm may not move: {reason}")
            if self._motors_failed:
                self._running = False
                self._connected().recover(tries=1)
                self._fault, self._motors_failed = "", False

    def _closed(self) -> str:
        """Why the arm may not move by itself now; empty when it may."""
        return self.stopped or self._gate.closed() or ("" if self._active else "the arm is not active")

    def _let_resets_go_on(self) -> None:
        """The arm stands at neutral after a recovery of its own, or waits for a person."""
        while self._after:
            self._after.popleft().set_result(self._fault)

    @property
    def stalled_s(self) -> float:
        """Since the last tick."""
        return time.monotonic() - self._ticker.ticked_s

    def health(self) -> Health:
        """For diagnostics: level, words, and how late commands come."""
        values: dict[str, object] = {"episode": self._episode, "fault": self._fault}
        if self._latencies_ms:
            values["capture_to_command_ms_p50"] = float(np.percentile(self._latencies_ms, 50))
            values["capture_to_command_ms_p99"] = float(np.percentile(self._latencies_ms, 99))
        values["motors_failed"] = self._motors_failed
        values["recoveries_by_itself"] = self._auto.count.total
        values["recoveries_since_a_person"] = self._auto.count.tries
        if self._connection is not None:
            values["failures"] = self._connection.driver.failures
        level = 2 if self._fault else (0 if self._active else 1)
        return level, self._fault or ("active" if self._active else "not active"), values

    def motors(self) -> Mapping[str, Health]:
        """The same of every motor."""
        return self._connection.by_motor() if self._connection is not None else {}

    def _look(self) -> None:
        """See the gate's latch: no message can hide it, and a gate that is silent is a stop, except on the way out."""
        latch, reason = self._port.latch, ""
        if latch.stopped:
            reason = "the emergency stop is latched; re-arm the gate"
        elif not self._leaving and latch.silence_ns(time.monotonic_ns()) > SILENCE_NS:
            reason = "the command gate is silent; is it running?"
        if reason != self.stopped:
            self._stay(reason)

    def _stay(self, reason: str) -> None:
        """Let nothing move while there is a reason; ends slow moves."""
        self.stopped = reason
        connection = self._connection
        if connection is not None:
            connection.driver.stopped = reason
        if reason:
            with self._lock:
                if self._moving is not None:
                    self._hold(self._connected().driver)
                    self._settle(f"{reason}, on the way to neutral")

    def _on_command(self, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        """Execute at once what answers the newest observation first: every millisecond waited would be latency."""
        with self._lock:
            if not self._active or self.stopped or not self._running or stamp_ns != self._stamp_ns or self._source:
                return
            late_ms = (self._now_ns() - self._captured_ns) / 1e6
            self._latencies_ms = [*self._latencies_ms[-LATENCIES_KEPT + 1 :], late_ms]
            try:
                driver = self._connected().driver
                self._port.check(action_A, driver.target, driver.target_joints_J)
                self._source = source
                self._executed_A = driver.step(action_A)
            except SafetyError as error:
                self._end(str(error))

    def _tick(self) -> None:
        if not self._lock.acquire(timeout=self._spec.step_s):
            return  # a slow move has it; a tick that waits for it would look like one that hangs
        try:
            if self._active and self._connection is not None:
                self._tick_once(self._connection.driver, self._connection.problem)
        finally:
            self._lock.release()

    def _tick_failed(self, error: Exception) -> None:
        """Whatever an input or the vendor's package raised: hold, count, report, and tick on."""
        note_drop(self._node, "tick", error)
        with self._lock:
            self._end(f"the arm's tick failed: {type(error).__name__}: {error}")
            if self._connection is not None:
                self._hold(self._connection.driver)

    def _tick_once(self, driver: WidowXDriver, problem: str) -> None:
        driver.tick()
        if problem and not self._motors_failed:
            self._motors_failed, self._fault = True, ""
            self._end(problem, MOTOR_FAULT)
            self._hold(driver)
            self._settle(problem)
            self._auto.failed(problem)
        if self._moving is not None and time.monotonic() >= self._moved_at_s:
            self._settle("")
        if not self._running:
            state = ArmState(self._now_ns(), driver.target, driver.target_joints_J, None, self._episode, False, SESSION)
            self._port.publish_state(state)  # nothing is observed, but the gate hears that the arm is alive
            return
        self._steps += 1
        self._source = self._source or SILENCE  # no command came in time: the arm held its target
        try:
            self._observe(driver, self._fault)
        except GymnastError as error:
            self._end(f"observation failed: {error}")

    def _observe(self, driver: WidowXDriver, fault: str = "") -> None:
        """Publish what is seen now.

        Raises:
            GymnastError: a camera or the joints are not fit to act on.
        """
        now_ns = self._now_ns()
        reading, frames = self._seen(driver)
        if not fault and (fault := self._force.note(reading.effort_J)):
            self._end(fault, OVER_FORCE)
            self._hold(driver)
        self._stamp_ns, self._captured_ns = now_ns, min(frame.stamp_ns for frame in frames.values())
        truncated = self._steps >= self._settings["max_steps"]
        self._port.publish(self._report(driver, reading, frames, fault, truncated))
        self._running = self._running and not truncated and not fault
        self._executed_A, self._source = NOTHING_A.copy(), ""

    def _seen(self, driver: WidowXDriver) -> tuple[ArmReading, Mapping[str, Frame]]:
        """What joints and cameras show now.

        Raises:
            GymnastError: a camera or the joints are not fit to act on.
        """
        now_ns = self._now_ns()
        reading = driver.read()
        self._check_joints(reading.stamp_ns, now_ns)
        if reading.effort_J is None and not self._settings["dry_run"]:
            raise SafetyError("xs_sdk reports no effort, an overload would not be seen; dry_run is for its simulation")
        return reading, self._cameras.newest(now_ns)

    def _check_joints(self, stamp_ns: int, now_ns: int) -> None:
        """By their stamp, and by when they last changed on this machine's monotonic clock."""
        most_s, monotonic_s = self._settings["joint_max_age_s"], time.monotonic()
        if stamp_ns != self._joints_stamp_ns:
            if not self._joints_stamp_ns:
                offset_s = (stamp_ns - now_ns) / 1e9
                self._node.get_logger().info(f"joint_states are stamped {offset_s:+.3f} s from this machine's clock")
            self._joints_stamp_ns, self._joints_changed_s = stamp_ns, monotonic_s
        age_s, silent_s = (now_ns - stamp_ns) / 1e9, monotonic_s - self._joints_changed_s
        if silent_s > max(most_s, 2 * self._spec.step_s):  # they are looked at once a step
            raise SafetyError(f"no new joint_states for {silent_s:.2f} s; is xs_sdk alive?")
        if age_s > most_s:
            raise SafetyError(f"joint_states are {age_s:.2f} s old; is xs_sdk alive?")
        if age_s < -most_s:
            raise SafetyError(f"joint_states are stamped {-age_s:.2f} s in the future; check the clocks (NTP)")

    def _report(
        self, driver: WidowXDriver, reading: ArmReading, frames: Mapping[str, Frame], fault: str, truncated: bool
    ) -> ArmReport:
        executed_A = self._executed_A
        if self._source in ("hold", SILENCE):
            executed_A = np.append(np.zeros(6, np.float32), np.float32(driver.target.gripper))
        return ArmReport(
            stamp_ns=self._stamp_ns,
            images={name: frame.image_HWC for name, frame in frames.items()},
            proprio_P=reading.proprio_P(self._spec),
            joints_J=reading.joints_J,
            target=driver.target,
            target_joints_J=driver.target_joints_J,
            executed_A=executed_A,
            executed_source=self._source,
            episode=self._episode,
            terminated=bool(fault),
            truncated=truncated,
            effort_J=reading.effort_J,
            velocity_J=reading.velocity_J,
            captured_ns={name: frame.stamp_ns for name, frame in frames.items()},
            fault=fault,
            fault_kind=self._fault_kind if fault else "",
        )

    def _check_fit(self) -> None:
        self._check_active()
        if self._motors_failed:
            raise SafetyError(f"{self._fault}; to recover: {self._recovery.remedy}")
        if self._moving is not None:
            raise SafetyError("the arm is already moving to neutral")
        self._seen(self._connected().driver)  # what was missing may be back by itself

    def _check_active(self) -> None:
        if not self._active:
            name = self._node.get_fully_qualified_name()
            raise SafetyError(f"the arm is not active: ros2 lifecycle set {name} activate")

    def _connected(self) -> Connection:
        if self._connection is None:
            raise SafetyError("the arm is not connected; configure the node first")
        return self._connection

    def _settle(self, interrupted: str) -> None:
        """Let the waiting reset go on."""
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.set_result(interrupted)

    def _hold(self, driver: WidowXDriver) -> None:
        """Hold; where the driver is gone there is nobody to raise to."""
        try:
            driver.hold()
        except SafetyError as error:
            self._node.get_logger().fatal(f"the arm may not hold: {error}", throttle_duration_sec=5.0)

    def _end(self, reason: str, kind: str = "") -> None:
        """End the episode with a fault, reported once; what else fails follows from it."""
        if self._fault:
            return
        self._fault, self._fault_kind = reason, kind
        go_on = "the next episode may begin when that is over"
        if self._motors_failed:
            go_on = f"look at it, then: {self._recovery.remedy}"
            if self._settings["auto_recover"]:
                go_on = f"it recovers by itself while the gate is armed: stop it before you reach in; else {go_on}"
        self._node.get_logger().error(f"the arm holds: {reason}; {go_on}")

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

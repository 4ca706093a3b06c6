"""The real WidowX 250s as a node: the same topics and services as sim_world, so that nothing else knows which runs.

Lifecycle: configure connects, activate puts torque on and stands up to neutral, deactivate holds, cleanup, shutdown and
the end of the process go to the sleep pose before torque goes off. Outside `active` nothing moves the arm.

One class, and so a long file: one lock orders whatever moves the arm or stops it, and all of that is here.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.task import Future
from std_srvs.srv import Trigger

from gymnast_core.errors import GymnastError, SafetyError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.connection import Connection, hold_lock
from gymnast_ros.drivers.widowx import WidowXDriver
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.ears import note_drop
from gymnast_ros.nodes.lifecycle import named
from gymnast_ros.nodes.recovery import RecoveryGuard
from gymnast_ros.nodes.reset_permit import ResetGuard
from gymnast_ros.nodes.runtime import Diagnostics, Health, NodeFailedError, run
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.nodes.widowx_episodes import WidowXEpisodes
from gymnast_ros.nodes.widowx_settings import declare
from gymnast_ros.run.ticker import Ticker

LOOK_NS = 20_000_000
"""How often the stop latch is looked at."""
SILENCE_NS = 1_000_000_000
"""A gate that has not ticked for so long is gone, or frozen: the arm stays."""
GATE_WAIT_S = 20.0
"""An arm that starts by itself waits so long for its gate."""


class WidowXArm(LifecycleNode):  # type: ignore[misc]
    """Owns one WidowXDriver; commands come from the gate alone.

    Whatever moves the arm or reads it holds one lock: the tick, and the executor (commands, services). The emergency
    stop's latch is looked at in a thread of its own (_look) and ends a slow move without it.
    """

    def __init__(self, **node: Any) -> None:
        super().__init__(topics.ARM_NODE, **node)
        self._settings = settings = NodeSettings(self)
        declare(settings)
        self._held_to_the_end = hold_lock(settings["lock_file"])
        self._episodes = WidowXEpisodes(self, settings, self._on_command)
        keyring = Keyring.of_environment()
        self._guard = ResetGuard(settings, keyring)
        self._recovery = RecoveryGuard(settings, keyring, self.get_fully_qualified_name())
        # a waiting coroutine blocks its group: reset needs one of its own
        self.create_service(Trigger, topics.RESET, self._reset, callback_group=MutuallyExclusiveCallbackGroup())
        self.create_service(Trigger, "~/recover", self._recover)
        self._vendor: Any = importlib.import_module(settings["vendor"])
        self._connection: Connection | None = None
        self._fault = self._stopped = ""
        self._active = self._motors_failed = False
        """A fault of the motors waits for ~/recover; one of cameras or joint states passes with its cause."""
        self._moving: Future | None = None
        self._moved_at_s = 0.0
        self._lock = threading.RLock()
        self._leaving = False
        self._look()
        self._eye = Ticker(LOOK_NS, self._look, name="latch").start()
        self._diagnostics = Diagnostics(self, WIDOWX_250S.name, self._health, self._motors)
        self._ticker = Ticker(WIDOWX_250S.step_ns, self._tick, failed=self._tick_failed).start()
        self._starter = self.create_timer(0.0, self._start_up) if settings["autostart"] else None

    @named
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Connect; nothing moves and torque stays as it is."""
        robot = self._vendor.connect(self._settings["robot_model"], self._settings["robot_name"])
        self._connection = Connection(robot, dry_run=self._settings["dry_run"])
        self._connection.driver.stopped = self._stopped
        self.get_logger().info("connected, nothing moves and torque is as it was; activate puts it on and stands up")
        return TransitionCallbackReturn.SUCCESS

    @named
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Torque on, stand up to the neutral pose and start observing; motors in error are rebooted first."""
        with self._lock:
            self._connected().stand_up()
            self._active, self._fault, self._motors_failed = True, "", False
        self.get_logger().info("active, torque is on and the arm stands at neutral; it moves when the gate is armed")
        return super().on_activate(state)

    @named
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold where the arm is."""
        with self._lock:
            self._active = self._episodes.running = False
            self._settle("the arm was deactivated")
            self._hold(self._connected().driver)
        return super().on_deactivate(state)

    @named
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Sleep pose, then torque off."""
        return TransitionCallbackReturn.SUCCESS if self._lie_down() else TransitionCallbackReturn.FAILURE

    @named
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same, from any state; the node is finalized either way."""
        return self.on_cleanup(state)

    def stop(self) -> int:
        """Lie down before the process ends; called on SIGINT and SIGTERM while rclpy still works.

        Returns:
            The exit code: 1 where the arm is left standing with nobody to watch it.
        """
        self._ticker.close()
        self._leaving = True
        self._look()
        lies = self._lie_down()
        self._eye.close()
        self._episodes.close()
        return 0 if lies else 1

    def closed(self) -> None:
        """Let the vendor go when rclpy is down."""
        self._vendor.disconnect()

    def stay(self, reason: str) -> None:
        """Let nothing move while there is a reason; ends slow moves, and may be called from any thread."""
        self._stopped = reason
        connection = self._connection
        if connection is not None:
            connection.driver.stopped = reason
        if reason:
            with self._lock:
                if self._moving is not None:
                    self._hold(self._connected().driver)
                    self._settle(f"{reason}, on the way to neutral")

    def _look(self) -> None:
        """See the gate's latch: no message can hide it, and a gate that is silent is a stop, except on the way out."""
        latch = self._episodes.port.latch
        reason = ""
        if latch.stopped:
            reason = "the emergency stop is latched; re-arm the gate"
        elif not self._leaving and latch.silence_ns(time.monotonic_ns()) > SILENCE_NS:
            reason = "the command gate is silent; is it running?"
        if reason != self._stopped:
            self.stay(reason)

    def _start_up(self) -> None:
        """Once, when the executor runs: configure and activate, when there is a gate.

        Raises:
            NodeFailedError: the arm did not come up; ends the process.
        """
        deadline_s = time.monotonic() + GATE_WAIT_S
        while self._stopped and time.monotonic() < deadline_s:
            time.sleep(LOOK_NS / 1e9)
        if self._starter is not None:
            self.destroy_timer(self._starter)
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() is not TransitionCallbackReturn.SUCCESS:
                raise NodeFailedError("the arm did not come up; see the log above")

    def _lie_down(self) -> bool:
        """Sleep pose and torque off; an arm that does not get there keeps its torque. Returns whether it lies."""
        with self._lock:
            self._active = self._episodes.running = False
            self._settle("the arm lies down")
            if self._connection is None:
                return True
            try:
                self._connection.lie_down()
            except SafetyError as error:
                self.get_logger().fatal(
                    "NOT LYING DOWN, the arm is unsupervised: torque stays on and nothing watches it; support it by "
                    f"hand, then switch it off: {error}"
                )
                return False
            self._connection = None
        self.get_logger().info("the arm lies in its sleep pose, torque is off")
        return True

    def _connected(self) -> Connection:
        if self._connection is None:
            raise SafetyError("the arm is not connected; configure the node first")
        return self._connection

    def _hold(self, driver: WidowXDriver) -> None:
        """Hold; where the driver is gone there is nobody to raise to."""
        try:
            driver.hold()
        except SafetyError as error:
            self.get_logger().fatal(f"the arm may not hold: {error}", throttle_duration_sec=5.0)

    async def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Go to neutral while cameras, motors and e-stop are still listened to."""
        if not self._guard.admits(response):
            return response
        try:
            with self._lock:
                self._check_fit()
                self._episodes.running, self._fault = False, ""
                moving = self._moving = Future(executor=self.executor)
                try:
                    self._moved_at_s = time.monotonic() + self._connected().driver.begin_neutral()
                except SafetyError:
                    self._moving = None
                    raise
            interrupted = await moving
            if interrupted:
                raise SafetyError(str(interrupted))
            with self._lock:
                self._connected().driver.end_neutral()
                stamp_ns = self._episodes.begin(self._connected().driver)
        except GymnastError as error:
            response.success, response.message = False, str(error)
            return self._guard.spent(response)
        response.success, response.message = True, json.dumps({"stamp_ns": stamp_ns})
        return self._guard.spent(response)

    def _check_fit(self) -> None:
        self._check_active()
        if self._motors_failed:
            raise SafetyError(f"{self._fault}; to recover: {self._recovery.remedy}")
        if self._moving is not None:
            raise SafetyError("the arm is already moving to neutral")
        self._episodes.look(self._connected().driver)  # what was missing may be back by itself

    def _check_active(self) -> None:
        if not self._active:
            raise SafetyError(f"the arm is not active: ros2 lifecycle set {self.get_fully_qualified_name()} activate")

    def _settle(self, interrupted: str) -> None:
        """Let the waiting reset go on."""
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.set_result(interrupted)

    def _recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            with self._lock:
                self._check_active()
                if self._stopped:
                    raise SafetyError(f"the arm may not move: {self._stopped}")
                if not self._motors_failed:
                    raise SafetyError("no motor has failed, there is nothing to recover from; start an episode")
                self._recovery.spend()
                self._episodes.running = False
                self._connected().recover()
                self._fault, self._motors_failed = "", False
        except GymnastError as error:
            self.get_logger().error(f"recovery failed: {error}")
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, "standing at neutral"
        return response

    def _on_command(self, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        """Execute at once: every millisecond waited would be latency."""
        with self._lock:
            if not self._active or self._stopped:
                return
            try:
                self._episodes.execute(self._connected().driver, action_A, stamp_ns, source)
            except SafetyError as error:
                self._end(str(error))

    @property
    def stalled_s(self) -> float:
        """Since the last tick."""
        return time.monotonic() - self._ticker.ticked_s

    def _tick(self) -> None:
        if not self._lock.acquire(timeout=WIDOWX_250S.step_s):
            return  # a slow move has it; a tick that waits for it would look like one that hangs
        try:
            if self._active and self._connection is not None:
                self._tick_once(self._connection.driver, self._connection.problem)
        finally:
            self._lock.release()

    def _tick_failed(self, error: Exception) -> None:
        """Whatever an input or the vendor's package raised: hold, count, report, and tick on."""
        note_drop(self, "tick", error)
        with self._lock:
            self._end(f"the arm's tick failed: {type(error).__name__}: {error}")
            if self._connection is not None:
                self._hold(self._connection.driver)

    def _tick_once(self, driver: WidowXDriver, problem: str) -> None:
        driver.tick()
        if problem and not self._motors_failed:
            self._motors_failed, self._fault = True, ""
            self._end(problem)
            self._hold(driver)
            self._settle(problem)
        if self._moving is not None and time.monotonic() >= self._moved_at_s:
            self._settle("")
        if not self._episodes.running:
            self._episodes.rest(driver)
            return
        try:
            self._episodes.step(driver, self._fault)
        except GymnastError as error:
            self._end(f"observation failed: {error}")

    def _end(self, reason: str) -> None:
        """End the episode with a fault, said once; what else fails follows from it."""
        if self._fault:
            return
        self._fault = reason
        go_on = "the next episode may begin when that is over"
        if self._motors_failed:
            go_on = f"look at it, then: {self._recovery.remedy}"
        self.get_logger().error(f"the arm holds: {reason}; {go_on}")

    def _health(self) -> Health:
        values = {**self._episodes.figures(), "fault": self._fault, "motors_failed": self._motors_failed}
        if self._connection is not None:
            values["failures"] = self._connection.driver.failures
        level = 2 if self._fault else (0 if self._active else 1)
        return level, self._fault or ("active" if self._active else "not active"), values

    def _motors(self) -> Mapping[str, Health]:
        return self._connection.by_motor() if self._connection is not None else {}


def main() -> int:
    """Run the node."""
    return run(WidowXArm)


if __name__ == "__main__":
    raise SystemExit(main())

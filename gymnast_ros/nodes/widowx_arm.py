"""The real WidowX 250s as a node: the same topics and services as sim_world, so that nothing else knows which runs.

Lifecycle: configure connects and asks the motors, activate stands up to neutral and starts observing, deactivate
holds, cleanup and shutdown go to the sleep pose before torque goes off.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.errors import GymnastError, SafetyError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.health import MotorWatch, recover
from gymnast_ros.drivers.widowx import WidowXDriver
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.runtime import Diagnostics, Health, Settings, own_name, run
from gymnast_ros.nodes.ticker import Ticker
from gymnast_ros.nodes.widowx_episodes import WidowXEpisodes
from gymnast_ros.nodes.widowx_settings import declare


class WidowXArm(LifecycleNode):  # type: ignore[misc]
    """Owns one WidowXDriver; commands come from the gate alone.

    Whatever moves the arm or reads it holds one lock: the tick, and the executor (commands, services). The emergency
    stop is heard in a thread of its own (EstopEar) and ends a slow move without it. Cameras are only asked.
    """

    def __init__(self, **node: Any) -> None:
        super().__init__(topics.ARM_NODE, **node)
        self._settings = settings = Settings(self)
        declare(settings)
        self._episodes = WidowXEpisodes(self, settings, self._on_command)
        # a waiting coroutine blocks its group: reset needs one of its own
        self.create_service(Trigger, topics.RESET, self._reset, callback_group=MutuallyExclusiveCallbackGroup())
        self.create_service(Trigger, "~/recover", self._recover)
        self._vendor: Any = importlib.import_module(settings["vendor"])
        self._robot: Any = None
        self._driver: WidowXDriver | None = None
        self._watch: MotorWatch | None = None
        self._active = False
        self._fault = self._stopped = ""
        self._moving: Future | None = None
        self._moved_at_s = 0.0
        self._lock = threading.RLock()
        self._diagnostics = Diagnostics(self, WIDOWX_250S.name, self._health, self._motors)
        self._ticker = Ticker(WIDOWX_250S.step_ns, self._tick).start()
        self._starter = self.create_timer(0.0, self._start_up) if settings["autostart"] else None

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Connect; nothing moves."""
        try:
            self._robot = self._vendor.connect(self._settings["robot_model"], self._settings["robot_name"])
            self._driver = WidowXDriver(self._robot)
        except GymnastError as error:
            self.get_logger().error(f"configure failed: {error}")
            return TransitionCallbackReturn.FAILURE
        self._driver.stopped = self._stopped
        self._watch = MotorWatch(self._robot)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stand up to the neutral pose and start observing."""
        try:
            with self._lock:
                self._arm().start_up()
                self._active, self._fault = True, ""
        except GymnastError as error:
            self.get_logger().error(f"activate failed: {error}")
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold where the arm is."""
        with self._lock:
            self._active = self._episodes.running = False
            self._arm().hold()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Sleep pose, then torque off."""
        return TransitionCallbackReturn.SUCCESS if self._lie_down() else TransitionCallbackReturn.FAILURE

    def stop(self) -> None:
        """Lie down before the process ends; called on SIGINT and SIGTERM while rclpy still works."""
        self._ticker.close()
        self._lie_down()
        self._episodes.close()

    def closed(self) -> None:
        """Let the vendor go when rclpy is down."""
        if self._robot is not None:
            self._vendor.disconnect()

    def stay(self, reason: str) -> None:
        """Let nothing move while there is a reason; ends slow moves, and may be called from any thread."""
        self._stopped = reason
        driver = self._driver
        if driver is not None:
            driver.stopped = reason
        if reason:
            with self._lock:
                if self._moving is not None:
                    self._arm().hold()
                    self._settle(f"{reason}, on the way to neutral")

    def _start_up(self) -> None:
        """Once, when the executor runs: configure and activate.

        Raises:
            SafetyError: the arm did not come up; ends the process.
        """
        if self._starter is not None:
            self.destroy_timer(self._starter)
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() is not TransitionCallbackReturn.SUCCESS:
                raise SafetyError("the arm did not come up; see the log above")

    def _lie_down(self) -> bool:
        """Sleep pose and torque off; an arm that may not move keeps its torque and stays. Returns whether it lies."""
        with self._lock:
            self._active = self._episodes.running = False
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            if self._driver is None:
                return True
            self._driver.hold()
            try:
                self._driver.sleep()
            except SafetyError as error:
                self.get_logger().fatal(f"not lying down, every motor keeps holding; support the arm by hand: {error}")
                return False
            self._driver = None
            return True

    def _arm(self) -> WidowXDriver:
        if self._driver is None:
            raise SafetyError("the arm is not connected; configure the node first")
        return self._driver

    async def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Go to neutral while cameras, motors and e-stop are still listened to."""
        try:
            with self._lock:
                self._check_fit()
                self._episodes.running = False
                moving = self._moving = Future(executor=self.executor)
                try:
                    self._moved_at_s = time.monotonic() + self._arm().begin_neutral()
                except SafetyError:
                    self._moving = None
                    raise
            interrupted = await moving
            if interrupted:
                raise SafetyError(str(interrupted))
            with self._lock:
                self._arm().end_neutral()
                stamp_ns = self._episodes.begin(self._arm())
        except GymnastError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, json.dumps({"stamp_ns": stamp_ns})
        return response

    def _check_fit(self) -> None:
        if not self._active:
            raise SafetyError("the arm is not active; activate the node (ros2 lifecycle set /arm activate)")
        if self._fault:
            raise SafetyError(f"{self._fault}; call arm/recover")
        if self._moving is not None:
            raise SafetyError("the arm is already moving to neutral")

    def _settle(self, interrupted: str) -> None:
        """Let the waiting reset go on."""
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.set_result(interrupted)

    def _recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            with self._lock:
                self._episodes.running = False
                health = recover(self._robot, self._arm())
                if self._watch is not None:
                    self._watch.note(health)
                self._fault = ""
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
                self._episodes.execute(self._arm(), action_A, stamp_ns, source)
            except SafetyError as error:
                self._end(str(error))

    def _tick(self) -> None:
        with self._lock:
            if self._active and self._driver is not None:
                self._tick_once(self._driver)

    def _tick_once(self, driver: WidowXDriver) -> None:
        driver.tick()
        problem = self._watch.latest().problem if self._watch is not None else ""
        if problem and not self._fault:
            self._end(problem)
            driver.hold()
            self._settle(problem)
        if self._moving is not None and time.monotonic() >= self._moved_at_s:
            self._settle("")
        if not self._episodes.running:
            self._episodes.rest(driver)
            return
        try:
            self._episodes.step(driver, self._fault)
        except GymnastError as error:
            self.get_logger().error(f"observation failed: {error}", throttle_duration_sec=1.0)
            self._end(str(error))

    def _end(self, reason: str) -> None:
        self._fault = reason
        recover_service = f"{self.get_fully_qualified_name()}/recover"
        self.get_logger().error(f"the arm holds: {reason}; look at it, then call {recover_service} (std_srvs/Trigger)")

    def _health(self) -> Health:
        values: dict[str, object] = {"episode": self._episodes.number, "fault": self._fault}
        if self._driver is not None:
            values["failures"] = self._driver.failures
        if latencies_ms := self._episodes.latencies_ms:
            values["capture_to_command_ms_p50"] = float(np.percentile(latencies_ms, 50))
            values["capture_to_command_ms_p99"] = float(np.percentile(latencies_ms, 99))
        level = 2 if self._fault else (0 if self._active else 1)
        return level, self._fault or ("active" if self._active else "not active"), values

    def _motors(self) -> Mapping[str, Health]:
        return self._watch.latest().by_motor() if self._watch is not None else {}


class EstopEar(Node):  # type: ignore[misc]
    """Hears the gate in a thread of its own, so that an emergency stop ends every move, whoever started it."""

    def __init__(self, arm: WidowXArm) -> None:
        super().__init__(**own_name(f"{arm.get_name()}_estop"), namespace=arm.get_namespace(), context=arm.context)
        self._arm = arm
        self.create_subscription(String, topics.GATE_STATUS, self._on_gate, topics.LATCHED)

    def _on_gate(self, message: String) -> None:
        stopped = messages.from_json(message).get("state") == "estop"
        self._arm.stay("the emergency stop is latched; re-arm the gate" if stopped else "")


def _with_ear(node: WidowXArm) -> Sequence[Node]:
    return [EstopEar(node)]


def main() -> int:
    """Run the node."""
    return run(WidowXArm, also=_with_ear)


if __name__ == "__main__":
    raise SystemExit(main())

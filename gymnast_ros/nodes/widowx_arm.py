"""The real WidowX 250s as a node: the same topics and services as sim_world, so that nothing else knows which runs.

Lifecycle: configure connects and asks the motors, activate stands up to neutral and starts observing, deactivate
holds, cleanup and shutdown go to the sleep pose before torque goes off.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from typing import Any

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.cameras import CameraLimits
from gymnast_core.errors import ConfigError, GymnastError, SafetyError
from gymnast_core.safety import ArmState
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray
from gymnast_ros.drivers.health import MotorWatch, recover
from gymnast_ros.drivers.widowx import ArmReading, WidowXDriver
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import SESSION, SILENCE, ArmDescription, ArmPort, ArmReport
from gymnast_ros.nodes.cameras import CameraPort, CameraSource
from gymnast_ros.nodes.runtime import Diagnostics, Settings, run
from gymnast_ros.nodes.ticker import Ticker

NOTHING_A: FloatArray = np.zeros(7, np.float32)


class WidowXArm(LifecycleNode):  # type: ignore[misc]
    """Owns one WidowXDriver; commands come from the gate alone.

    Three threads meet at one lock: the tick, the executor (commands, services), and no more; cameras have their own
    thread and are only asked. Whatever moves the arm or reads it holds the lock.
    """

    def __init__(self, **node: Any) -> None:
        super().__init__(topics.ARM_NODE, **node)
        self._settings = settings = Settings(self)
        _declare(settings)
        self._spec = WIDOWX_250S
        names = tuple(settings["cameras"]) or ("over_shoulder",)
        self._size = int(settings["image_size"])
        limits = CameraLimits(
            round(settings["camera_max_age_s"] * 1e9),
            round(settings["camera_max_frozen_s"] * 1e9),
            round(settings["camera_max_skew_s"] * 1e9),
        )
        self._cameras = CameraPort(
            self, camera_sources(names, list(settings["camera_topics"]), settings), self._size, limits
        )
        description = ArmDescription(
            self._spec.name, names, self._size, self._size, settings["max_steps"], self._spec.control_hz, False
        )
        self._port = ArmPort(self, description, self._on_command)
        # a waiting coroutine blocks its group: reset needs one of its own
        self.create_service(Trigger, topics.RESET, self._reset, callback_group=MutuallyExclusiveCallbackGroup())
        self.create_subscription(String, topics.GATE_STATUS, self._on_gate, topics.LATCHED)
        self.create_service(Trigger, "~/recover", self._recover)
        self._vendor: Any = importlib.import_module(settings["vendor"])
        self._robot: Any = None
        self._driver: WidowXDriver | None = None
        self._watch: MotorWatch | None = None
        self._active = self._running = False
        self._fault = ""
        self._moving: Future | None = None
        self._moved_at_s = 0.0
        self._episode = self._steps = 0
        self._stamp_ns = 0
        self._executed_A, self._source = NOTHING_A, ""
        self._latencies_ms: list[float] = []
        self._lock = threading.RLock()
        self._diagnostics = Diagnostics(self, self._spec.name, self._health)
        self._ticker = Ticker(self._spec.step_ns, self._tick).start()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Connect; nothing moves."""
        try:
            self._robot = self._vendor.connect(self._settings["robot_model"], self._settings["robot_name"])
            self._driver = WidowXDriver(self._robot, monotonic_s=time.monotonic)
        except GymnastError as error:
            self.get_logger().error(f"configure failed error={error}")
            return TransitionCallbackReturn.FAILURE
        self._watch = MotorWatch(self._robot)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stand up to the neutral pose and start observing."""
        try:
            with self._lock:
                self._arm().start_up()
                self._active, self._fault = True, ""
        except GymnastError as error:
            self.get_logger().error(f"activate failed error={error}")
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold where the arm is."""
        with self._lock:
            self._active = self._running = False
            self._arm().hold()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Sleep pose, then torque off."""
        self._lie_down()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """Lie down before the process ends; called on SIGINT and SIGTERM while rclpy still works."""
        self._ticker.close()
        self._lie_down()
        self._cameras.close()

    def _lie_down(self) -> None:
        with self._lock:
            self._active = self._running = False
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            if self._driver is not None:
                self._driver.hold()
                self._driver.sleep()
                self._vendor.disconnect(self._robot)
                self._driver = None

    def _arm(self) -> WidowXDriver:
        if self._driver is None:
            raise SafetyError("the arm is not connected; configure the node first")
        return self._driver

    async def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Go to neutral while cameras, motors and e-stop are still listened to."""
        try:
            with self._lock:
                self._check_fit()
                self._running = False
                moving = self._moving = Future(executor=self.executor)
                self._moved_at_s = time.monotonic() + self._arm().begin_neutral()
            interrupted = await moving
            if interrupted:
                raise SafetyError(str(interrupted))
            with self._lock:
                self._arm().end_neutral()
                self._begin_episode()
        except GymnastError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, json.dumps({"stamp_ns": self._stamp_ns})
        return response

    def _check_fit(self) -> None:
        if not self._active:
            raise SafetyError("the arm is not active; activate the node (ros2 lifecycle set /arm activate)")
        if self._fault:
            raise SafetyError(f"{self._fault}; call arm/recover")
        if self._moving is not None:
            raise SafetyError("the arm is already moving to neutral")

    def _begin_episode(self) -> None:
        self._episode += 1
        self._steps, self._running = 0, True
        self._executed_A, self._source = NOTHING_A, ""
        try:
            self._observe()
        except GymnastError:
            self._running = False
            raise

    def _on_gate(self, message: String) -> None:
        """An emergency stop also ends a move to neutral, which no command of the gate started."""
        with self._lock:
            if messages.from_json(message).get("state") == "estop" and self._moving is not None:
                self._arm().hold()
                self._settle("stopped by the emergency stop on the way to neutral")

    def _settle(self, interrupted: str) -> None:
        """Let the waiting reset go on."""
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.set_result(interrupted)

    def _recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            with self._lock:
                self._running = False
                health = recover(self._robot, self._arm())
                if self._watch is not None:
                    self._watch.note(health)
                self._fault = ""
        except GymnastError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, "standing at neutral"
        return response

    def _on_command(self, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        """Execute at once: every millisecond waited would be latency."""
        with self._lock:
            self._execute(action_A, stamp_ns, source)

    def _execute(self, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        if not (self._active and self._running) or stamp_ns != self._stamp_ns or self._source:
            return
        self._latencies_ms = [*self._latencies_ms[-999:], (self._now_ns() - stamp_ns) / 1e6]
        try:
            self._executed_A = self._arm().step(action_A)
        except SafetyError as error:
            self._end(str(error))
        self._source = source

    def _tick(self) -> None:
        with self._lock:
            self._tick_once()

    def _tick_once(self) -> None:
        if not self._active or self._driver is None:
            return
        self._driver.tick()
        problem = self._watch.latest().problem if self._watch is not None else ""
        if problem and not self._fault:
            self._end(problem)
            self._driver.hold()
            self._settle(problem)
        if self._moving is not None and time.monotonic() >= self._moved_at_s:
            self._settle("")
        if not self._running:
            self._rest()
        else:
            self._steps += 1
            if not self._source:
                self._source = SILENCE  # no command came in time: the arm stayed where it was told to be
            try:
                self._observe()
            except GymnastError as error:
                self.get_logger().error(f"observation failed error={error}", throttle_duration_sec=1.0)
                self._end(str(error))

    def _rest(self) -> None:
        """Between episodes nothing is observed, but the gate hears that the arm is alive."""
        driver = self._arm()
        self._port.publish_rest(
            ArmState(
                self._now_ns(),
                driver.target,
                driver.target_joints_J,
                None,
                self._episode,
                running=False,
                session=SESSION,
            )
        )

    def _observe(self) -> None:
        """Publish what is seen now; raises when a camera or the joints are not fit to act on."""
        now_ns = self._now_ns()
        reading = self._arm().read()
        age_s = (now_ns - reading.stamp_ns) / 1e9
        if age_s > self._settings["joint_max_age_s"]:
            raise SafetyError(f"joint_states are {age_s:.2f} s old; is xs_sdk alive?")
        frames = self._cameras.newest(now_ns)
        self._stamp_ns = now_ns
        truncated = self._steps >= self._settings["max_steps"]
        self._port.publish(self._report(reading, {name: frame.image_HWC for name, frame in frames.items()}, truncated))
        self._running = self._running and not truncated and not self._fault
        self._executed_A, self._source = NOTHING_A.copy(), ""

    def _report(self, reading: ArmReading, images: dict[str, Any], truncated: bool) -> ArmReport:
        driver = self._arm()
        executed_A = self._executed_A
        if self._source in ("hold", SILENCE):
            executed_A = np.append(np.zeros(6, np.float32), np.float32(driver.target.gripper))
        return ArmReport(
            stamp_ns=self._stamp_ns,
            images=images,
            proprio_P=reading.proprio_P(self._spec),
            joints_J=reading.joints_J,
            target=driver.target,
            target_joints_J=driver.target_joints_J,
            executed_A=executed_A,
            executed_source=self._source,
            episode=self._episode,
            terminated=bool(self._fault),
            truncated=truncated,
            effort_J=reading.effort_J,
            velocity_J=reading.velocity_J,
        )

    def _end(self, reason: str) -> None:
        self._fault = reason
        self.get_logger().error(f"arm fault reason={reason}")

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _health(self) -> tuple[int, str, dict[str, object]]:
        values: dict[str, object] = {"episode": self._episode, "fault": self._fault}
        if self._driver is not None:
            values["failures"] = self._driver.failures
        if self._watch is not None:
            health = self._watch.latest()
            values |= {f"torque/{motor}": on for motor, on in health.torque.items()}
            values |= {f"error/{motor}": words for motor, words in health.errors.items()}
        if self._latencies_ms:
            values["capture_to_command_ms_p50"] = float(np.percentile(self._latencies_ms, 50))
            values["capture_to_command_ms_p99"] = float(np.percentile(self._latencies_ms, 99))
        level = 2 if self._fault else (0 if self._active else 1)
        return level, self._fault or ("active" if self._active else "not active"), values


def camera_sources(names: tuple[str, ...], camera_topics: list[str], settings: Any) -> tuple[CameraSource, ...]:
    """Pair camera names with topics.

    Raises:
        ConfigError: as many topics as names are needed.
    """
    if not camera_topics:
        camera_topics = ["/camera/camera/color/image_raw"]
    if len(camera_topics) != len(names):
        raise ConfigError(f"{len(names)} cameras {names} need as many camera_topics, got {camera_topics}")
    reliability = settings["camera_reliability"]
    return tuple(CameraSource(name, topic, reliability) for name, topic in zip(names, camera_topics, strict=True))


def _declare(settings: Settings) -> None:
    add = settings.declare
    add("robot_model", "wx250s", "Interbotix model", read_only=True)
    add("robot_name", "wx250s", "namespace of xs_sdk", read_only=True)
    add("vendor", "gymnast_ros.drivers.interbotix", "module with connect() and disconnect()", read_only=True)
    add("instruction", "", "of the next episode; recorded, the arm itself does not need it")
    add("seed", 0, "recorded; a real scene is laid out by hand", low=0, high=2**53)
    add("scene", "standard", "recorded")
    add("cameras", [], "camera names; empty is over_shoulder", read_only=True)
    add("camera_topics", [], "their topics, in the same order; empty is RealSense's colour topic", read_only=True)
    add(
        "camera_reliability",
        "best_effort",
        "what the drivers offer",
        choices=("best_effort", "reliable"),
        read_only=True,
    )
    add("camera_max_age_s", 0.5, "oldest frame to act on [s]", low=0.05, high=5.0, read_only=True)
    add("camera_max_frozen_s", 2.0, "longest time with identical pixels [s]", low=0.1, high=60.0, read_only=True)
    add("camera_max_skew_s", 0.1, "largest difference between cameras [s]", low=0.001, high=1.0, read_only=True)
    add("image_size", 256, "side of published frames", low=32, high=1024, read_only=True)
    add("max_steps", 60, "steps of an episode", low=1, high=10_000)
    add("joint_max_age_s", 0.2, "oldest joint states to act on [s]", low=0.02, high=2.0)
    add("autostart", False, "configure and activate at start, without ros2 lifecycle", read_only=True)


def make() -> WidowXArm:
    """Build the node and, if asked, bring it up.

    Raises:
        SafetyError: autostart did not succeed; the log says why.
    """
    node = WidowXArm()
    if node.get_parameter("autostart").value:
        for transition in (node.trigger_configure, node.trigger_activate):
            if transition() is not TransitionCallbackReturn.SUCCESS:
                raise SafetyError("the arm did not come up; see the log above")
    return node


def main() -> int:
    """Run the node."""
    return run(make)


if __name__ == "__main__":
    raise SystemExit(main())

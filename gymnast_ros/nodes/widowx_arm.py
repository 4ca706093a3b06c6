"""A real arm (WidowX 250s or its kind) as a node: topics and services of sim_world, so nothing knows which runs.

Lifecycle: configure connects, activate puts torque on and stands up to neutral, deactivate holds, cleanup, shutdown and
the end of the process go to the sleep pose before torque goes off. The arm itself is gymnast_ros.nodes.widowx_loop's.
"""

from __future__ import annotations

import importlib
import json
import time
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.task import Future
from std_srvs.srv import Trigger

from gymnast_core.errors import GymnastError, SafetyError
from gymnast_core.extensions import ARMS, extension, installed
from gymnast_core.robots import robot_named
from gymnast_ros.drivers.connection import Connection, hold_lock
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.gate_ear import GateEar
from gymnast_ros.nodes.lifecycle import named
from gymnast_ros.nodes.recovery import RecoveryGuard
from gymnast_ros.nodes.reset_permit import ResetGuard
from gymnast_ros.nodes.runtime import Diagnostics, NodeFailedError, run
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.nodes.widowx_loop import LOOK_NS, WidowXLoop
from gymnast_ros.nodes.widowx_settings import declare

GATE_WAIT_S = 20.0
"""An arm that starts by itself waits so long for its gate."""


class WidowXArm(LifecycleNode):  # type: ignore[misc]
    """Transitions and services of the arm."""

    def __init__(self, **node: Any) -> None:
        super().__init__(topics.ARM_NODE, **node)
        self._settings = settings = NodeSettings(self)
        declare(settings)
        self._held_to_the_end = hold_lock(settings["lock_file"])
        keyring = Keyring.of_environment()
        self._guard = ResetGuard(settings, keyring)
        recovery = RecoveryGuard(settings, keyring, self.get_fully_qualified_name())
        vendor = settings["vendor"]
        self._vendor: Any = extension(ARMS, vendor) if vendor in installed(ARMS) else importlib.import_module(vendor)
        folder = keyring.folder.parent
        self._loop = WidowXLoop(self, settings, recovery, GateEar(self, keyring), folder, keyring.robot)
        # a waiting coroutine blocks its group: reset needs one of its own
        self.create_service(Trigger, topics.RESET, self._reset, callback_group=MutuallyExclusiveCallbackGroup())
        self.create_service(Trigger, "~/recover", self._recover)
        self._diagnostics = Diagnostics(self, settings["robot_model"], self._loop.health, self._loop.motors)
        self._starter = self.create_timer(0.0, self._start_up) if settings["autostart"] else None

    @named
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Connect; nothing moves and torque stays as it is."""
        robot = self._vendor.connect(self._settings["robot_model"], self._settings["robot_name"])
        spec = robot_named(self._settings["robot_model"])
        self._loop.connect(Connection(robot, spec, dry_run=self._settings["dry_run"]))
        self.get_logger().info("connected, nothing moves and torque is as it was; activate puts it on and stands up")
        return TransitionCallbackReturn.SUCCESS

    @named
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Torque on, stand up to the neutral pose and start observing; motors in error are rebooted first."""
        self._loop.activate()
        self.get_logger().info("active, torque is on and the arm stands at neutral; it moves when the gate is armed")
        return super().on_activate(state)

    @named
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold where the arm is."""
        self._loop.deactivate()
        return super().on_deactivate(state)

    @named
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Sleep pose, then torque off."""
        return TransitionCallbackReturn.SUCCESS if self._loop.lie_down() else TransitionCallbackReturn.FAILURE

    @named
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same, from any state; the node is finalized either way."""
        return self.on_cleanup(state)

    def stop(self) -> int:
        """Lie down before the process ends; called on SIGINT and SIGTERM while rclpy still works.

        Returns:
            The exit code: 1 where the arm is left standing with nobody to watch it.
        """
        return 0 if self._loop.close() else 1

    def closed(self) -> None:
        """Let the vendor go when rclpy is down."""
        self._vendor.disconnect()

    @property
    def stalled_s(self) -> float:
        """Since the last tick."""
        return self._loop.stalled_s

    def _start_up(self) -> None:
        """Once, when the executor runs: configure and activate, when there is a gate.

        Raises:
            NodeFailedError: the arm did not come up; ends the process.
        """
        deadline_s = time.monotonic() + GATE_WAIT_S
        while self._loop.stopped and time.monotonic() < deadline_s:
            time.sleep(LOOK_NS / 1e9)
        if self._starter is not None:
            self.destroy_timer(self._starter)
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() is not TransitionCallbackReturn.SUCCESS:
                raise NodeFailedError("the arm did not come up; see the log above")

    async def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Go to neutral, and begin an episode there."""
        if not self._guard.admits(response):
            return response
        try:
            interrupted = await self._loop.begin_neutral(Future(executor=self.executor))
            if interrupted:
                raise SafetyError(str(interrupted))
            stamp_ns = self._loop.begin_episode()
        except GymnastError as error:
            response.success, response.message = False, str(error)
            return self._guard.spent(response)
        response.success, response.message = True, json.dumps({"stamp_ns": stamp_ns})
        return self._guard.spent(response)

    def _recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._loop.recover()
        except GymnastError as error:
            self.get_logger().error(f"recovery failed: {error}")
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, "standing at neutral"
        return response


def main() -> int:
    """Run the node."""
    return run(WidowXArm)


if __name__ == "__main__":
    raise SystemExit(main())

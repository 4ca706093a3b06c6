"""Joystick, SpaceMouse or keyboard (sensor_msgs/Joy): demonstrate, take over a running policy, stop, label."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from gymnast_core.arm.command_gate import ArmState
from gymnast_core.arm.teleop import Event, Mapping, Stick
from gymnast_core.errors import ConfigError
from gymnast_ros.keyring import Keyring, re_arm_word
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import from_target
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.marked import MarkedJoints, MarkedJson, listen_joints
from gymnast_ros.nodes.runtime import Diagnostics, run
from gymnast_ros.nodes.settings import NodeSettings, declare_robot

SERVICES = {
    Event.ESTOP: topics.ESTOP,
    Event.START: topics.RUN_EPISODE,
    Event.SUCCESS: topics.LABEL_SUCCESS,
    Event.FAILURE: topics.LABEL_FAILURE,
    Event.DISCARD: topics.DISCARD,
    Event.ANNOTATE: topics.ANNOTATE,
}

STOP_AGAIN_S = 0.3
"""An emergency stop that is held or that nobody confirmed is asked for so often: the gate may just have been started
anew."""


class Teleop(Node):  # type: ignore[misc]
    """Answers every observation while a human holds the take-over button; the gate decides what passes."""

    def __init__(self, **node: Any) -> None:
        super().__init__("teleop", **node)
        settings = self._settings = NodeSettings(self)
        robot, defaults = declare_robot(settings), Mapping()
        settings.declare("axes", list(defaults.axes), "joystick axes of dx dy dz droll dpitch dyaw; -1 is unused")
        settings.declare("signs", list(defaults.signs), "+1 or -1 per axis")
        settings.declare("share", defaults.share, "of the step limits at full deflection", low=0.01, high=1.0)
        settings.declare("dead_zone", defaults.dead_zone, "smaller deflections are rest", low=0.0, high=0.9)
        settings.declare("max_silence_s", 0.5, "a device silent for longer gives control back", low=0.1, high=10.0)
        settings.declare(
            "re_arm_by_joystick", False, "its button re-arms; then whoever may publish joy in this domain can",
            read_only=True,
        )  # fmt: skip
        self._keyring = Keyring.of_environment()
        self._stick = Stick(
            Mapping(tuple(settings["axes"]), tuple(settings["signs"]), settings["share"], settings["dead_zone"]), robot
        )
        self._commands = MarkedJoints(self, self._keyring, topics.TELEOP_COMMAND, topics.STREAM)
        self._take_over = MarkedJson(self, self._keyring, topics.TAKE_OVER, topics.LATCHED)
        self._gate_parameters = self.create_client(SetParameters, topics.parameters_service(topics.GATE_NODE))
        self._callers = {event: self.create_client(Trigger, name) for event, name in SERVICES.items()}
        listen(self, Joy, topics.JOY, self._on_joy, topics.STREAM)
        listen_joints(self, self._keyring, topics.TARGET, self._on_arm, topics.STREAM)
        self._arm: ArmState | None = None
        self._joy: Joy | None = None
        self._wish_A = np.zeros(7, np.float32)
        self._heard_s = 0.0
        self._taking_over = self._strangers = False
        self._stop_wanted, self._stop_asked_s = False, -STOP_AGAIN_S
        self.create_timer(0.1, self._watch)
        self._diagnostics = Diagnostics(self, "teleop", self._health)

    def stop(self) -> None:
        """Give control back."""
        self._announce(False)

    def _on_joy(self, message: Joy) -> None:
        if self._strangers:
            return
        self._joy, self._heard_s = message, time.monotonic()
        wish = self._stick.read(message.axes, message.buttons, self._gripper())
        self._announce(wish.taking_over)
        for event in wish.events:
            if event is Event.ESTOP:
                self._stop_wanted = True
                self._ask_to_stop()
            elif event is Event.RE_ARM:
                self._re_arm()
            else:
                self._call(event)
        self._wish_A = wish.action_A
        if self._arm is not None and wish.taking_over:
            self._commands.publish(messages.to_action(self._wish_A, self._arm.stamp_ns))

    def _on_arm(self, message: JointState) -> None:
        self._arm = from_target(message)
        if self._taking_over and self._arm.running:
            self._commands.publish(messages.to_action(self._wish_A, self._arm.stamp_ns))

    def _watch(self) -> None:
        self._strangers = self.count_publishers(topics.JOY) > 1
        if self._strangers:
            self.get_logger().error("more than one node publishes joy; none of them moves the arm",
                                    throttle_duration_sec=5.0)  # fmt: skip
            self._announce(False)
        if self._taking_over and time.monotonic() - self._heard_s > self._settings["max_silence_s"]:
            self.get_logger().warning("joystick silent; control given back")
            self._announce(False)
        if self._stop_wanted:
            self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        if time.monotonic() - self._stop_asked_s >= STOP_AGAIN_S:
            self._stop_asked_s = time.monotonic()
            self._call(Event.ESTOP)

    def _announce(self, taking_over: bool) -> None:
        if taking_over != self._taking_over:
            self._taking_over = taking_over
            self._take_over.publish({"human": taking_over})

    def _re_arm(self) -> None:
        """Write the gate's word, where this robot was started so that the joystick may."""
        if not self._settings["re_arm_by_joystick"]:
            folder = self._keyring.folder.parent
            self.get_logger().warning(
                f"the joystick may not re-arm (re_arm_by_joystick); gymnast rearm --folder {folder}"
            )
            return
        try:
            word = Parameter("re_arm", value=re_arm_word(self._keyring.folder))
        except ConfigError as error:
            self.get_logger().error(str(error))
            return
        request = SetParameters.Request(parameters=[word.to_parameter_msg()])
        self._gate_parameters.call_async(request).add_done_callback(self._re_armed)

    def _re_armed(self, future: Future) -> None:
        for result in future.result().results:
            self.get_logger().info(f"re_arm success={result.successful} message={result.reason}")

    def _call(self, event: Event) -> None:
        client = self._callers[event]
        if not client.service_is_ready():
            self.get_logger().warning(f"nobody offers {SERVICES[event]}", throttle_duration_sec=1.0)
            return
        client.call_async(Trigger.Request()).add_done_callback(partial(self._answered, event))

    def _answered(self, event: Event, future: Future) -> None:
        answer = future.result()
        if event is Event.ESTOP:
            self._stop_wanted = False
        self.get_logger().info(f"{event.value} success={answer.success} message={answer.message}")

    def _gripper(self) -> float:
        return 1.0 if self._arm is None else self._arm.target.gripper

    def _health(self) -> tuple[int, str, dict[str, object]]:
        message = "human commands" if self._taking_over else "watching"
        return 0, message, {"joystick": self._joy is not None}


def main() -> int:
    """Run the node."""
    return run(Teleop)


if __name__ == "__main__":
    raise SystemExit(main())

"""The command gate as a process of its own: the only publisher the arm listens to."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy.clock
from rclpy.clock import ClockType
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.flight import FlightRecorder, Named, Note
from gymnast_core.safety import Command, CommandGate, Decision, GateLimits, GateState
from gymnast_core.spec import JOINT_NAMES
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import from_target
from gymnast_ros.nodes.runtime import Diagnostics, LatchedJson, Settings, own_name, run

SOURCES = {"policy": topics.POLICY_COMMAND, "teleop": topics.TELEOP_COMMAND}
"""Who may want something, and where."""


class CommandGateNode(Node):  # type: ignore[misc]
    """Converts, asks the gate, publishes."""

    def __init__(self, **node: object) -> None:
        super().__init__("command_gate", **node)
        settings = self._settings = Settings(self)
        _declare(settings)
        self.gate = CommandGate(limits_from(settings), armed=settings["armed_at_start"])
        settings.on_change(self._limit)
        self._waiting: dict[str, JointState] = {}
        self._overridden: JointState | None = None
        self._arm_command = self.create_publisher(JointState, topics.ARM_COMMAND, topics.STREAM)
        self._report = self.create_publisher(String, topics.GATE_REPORT, topics.STREAM)
        self._status = LatchedJson(self, topics.GATE_STATUS)
        self.create_subscription(JointState, topics.TARGET, self._on_target, topics.STREAM)
        for source, topic in SOURCES.items():
            self.create_subscription(
                JointState, topic, lambda message, source=source: self._on_command(message, source), topics.STREAM
            )
        self.create_subscription(Bool, topics.TAKE_OVER, self._on_take_over, topics.LATCHED)
        steady = rclpy.clock.Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self.gate.limits.spec.step_s / 2, self._tick, clock=steady)
        self._diagnostics = Diagnostics(self, "gate", self._health)
        self._flight = FlightRecorder(Path(settings["record_folder"])) if settings["record_folder"] else None
        self._reported: GateState | None = None
        for topic in settings["record_images"]:
            self.create_subscription(Image, topic, partial(self._on_image, topic), topics.STREAM)
        self.publish_status()

    def _limit(self, changes: Mapping[str, Any]) -> str:
        """An operator sets another envelope (a task's box, say); returns why not."""
        try:
            self.gate.use(limits_from({**{name: self._settings[name] for name in ENVELOPE}, **changes}))
        except ConfigError as error:
            return str(error)
        self.get_logger().info(f"envelope changed: {dict(changes)}")
        self._note("command_gate/envelope", dict(changes))
        return ""

    def publish_status(self) -> None:
        """Latch the state for whoever comes late; a stop is also written down."""
        state, reason = self.gate.state, self.gate.reason
        arm = self.gate.arm
        self._status.publish({"state": state.value, "reason": reason, "arm": 0 if arm is None else arm.session})
        if state is not self._reported:
            self._reported = state
            self._tell(state, reason)
            self._note(topics.GATE_STATUS, {"state": state.value, "reason": reason})
            if state in (GateState.ESTOP, GateState.STOPPED, GateState.HOLDING) and self._flight is not None:
                threading.Thread(target=self._write_flight, args=(self._flight, state)).start()

    def _tell(self, state: GateState, reason: str) -> None:
        """Say on the terminal what happened and what to do."""
        log, re_arm = self.get_logger(), self.resolve_service_name(topics.RE_ARM)
        call = f"to go on: ros2 service call {re_arm} std_srvs/srv/Trigger"
        if state is GateState.ESTOP:
            log.fatal(f"EMERGENCY STOP ({reason}): nothing moves; {call}")
        elif state is GateState.STOPPED:
            log.error(f"stopped: {reason}; {call}")
        elif state is GateState.HOLDING:
            log.warning(f"holding: {reason}; goes on with the next command")
        elif state is GateState.DISARMED:
            log.warning(f"not armed: nothing moves; look at the arm, then {call}")
        else:
            log.info("armed: commands pass")

    def _write_flight(self, flight: FlightRecorder, state: GateState) -> None:
        path = flight.write(f"flight-{state.value}-{time.time_ns()}")
        self.get_logger().info(f"the last 30 s are in {path}")

    def _note(self, topic: str, note: Note) -> None:
        if self._flight is not None:
            self._flight.note(topic, time.time_ns(), note)

    def _on_image(self, topic: str, message: Image) -> None:
        self._note(topic, messages.from_image(message))

    def _on_target(self, message: JointState) -> None:
        try:
            arm = from_target(message)
        except ShapeError as error:
            self.gate.stop(str(error))
            self.publish_status()
            return
        self.gate.observe(arm, time.monotonic_ns())
        self._note(topics.TARGET, Named(message.name, message.position))
        if arm.effort_J is not None:
            self._note("arm/effort", Named(JOINT_NAMES, message.effort))
        waiting, self._waiting = self._waiting, {}
        for source, command in waiting.items():
            self._on_command(command, source)
        self.publish_status()

    def _on_command(self, message: JointState, source: str) -> None:
        stamp_ns = messages.to_ns(message.header.stamp)
        arm = self.gate.arm
        if arm is None or stamp_ns > arm.stamp_ns:
            self._waiting[source] = message  # the frame overtook the arm state; decide when that is here
            return
        try:
            action_A = messages.from_named(message, topics.ACTION_NAMES)
        except ShapeError as error:
            self.get_logger().warning(f"command refused error={error}", throttle_duration_sec=1.0)
            return
        if self.gate.taken_over and source == "policy":
            self._overridden = message
        self._note(SOURCES[source], Named(topics.ACTION_NAMES, action_A.tolist()))
        self._send(self.gate.decide(Command(action_A, stamp_ns, source), time.monotonic_ns()))

    def _on_take_over(self, message: Bool) -> None:
        self.gate.take_over(message.data)
        overridden, self._overridden = self._overridden, None
        if overridden is not None and not message.data:
            self._on_command(overridden, "policy")  # nobody else answers that observation any more
        self._note(topics.TAKE_OVER, {"human": message.data})

    def _tick(self) -> None:
        decision = self.gate.tick(time.monotonic_ns())
        if decision is not None:
            self._send(decision)
        self.publish_status()

    def _send(self, decision: Decision) -> None:
        report = {
            "stamp_ns": decision.stamp_ns, "verdict": decision.verdict.value, "reasons": list(decision.reasons),
            "source": decision.source,
        }  # fmt: skip
        self._note(topics.GATE_REPORT, report)
        if decision.action_A is not None and self.gate.state is not GateState.ESTOP:
            message = messages.to_action(decision.action_A, decision.stamp_ns)
            message.header.frame_id = decision.source
            self._arm_command.publish(message)
            self._note(topics.ARM_COMMAND, Named(message.name, message.position))
        if decision.reasons:
            self._report.publish(messages.to_json(report))
        self.publish_status()

    def _health(self) -> tuple[int, str, dict[str, object]]:
        state = self.gate.state
        level = {GateState.ARMED: 0, GateState.DISARMED: 1, GateState.HOLDING: 1}.get(state, 2)
        return level, f"{state.value} {self.gate.reason}".strip(), dict(self.gate.counts)


class EstopNode(Node):  # type: ignore[misc]
    """The emergency stop, in a thread of its own, so that it never waits behind a command."""

    def __init__(self, gate_node: CommandGateNode, **node: object) -> None:
        super().__init__(**own_name("command_gate_estop"), **node)
        self._gate_node = gate_node
        self.create_service(Trigger, topics.ESTOP, self._estop)
        self.create_service(Trigger, topics.RE_ARM, self._re_arm)
        self.create_subscription(Bool, "estop", self._on_topic, topics.STREAM)

    def _estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._latch("estop service called")
        response.success, response.message = True, "stopped; call command_gate/re_arm to move again"
        return response

    def _on_topic(self, message: Bool) -> None:
        if message.data:
            self._latch("estop topic")

    def _latch(self, reason: str) -> None:
        self._gate_node.gate.latch_estop(reason)
        self._gate_node.publish_status()

    def _re_arm(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        problem = self._gate_node.gate.re_arm(time.monotonic_ns())
        response.success, response.message = not problem, problem or "armed; commands pass"
        self._gate_node.publish_status()
        return response


def _declare(settings: Settings) -> None:
    defaults = GateLimits()
    declare = settings.declare
    declare("record_folder", "", "where flight records go; empty keeps none", read_only=True)
    declare("record_images", [], "image topics in flight records; one more copy of every frame", read_only=True)
    declare("armed_at_start", False, "open without re_arm; for the simulator only", read_only=True)
    declare("workspace_low_m", list(defaults.workspace_low_m), "lower corner of the task's box, base_link [m]")
    declare("workspace_high_m", list(defaults.workspace_high_m), "upper corner [m]")
    declare("max_change_m", defaults.max_change_m, "largest change of a delta between steps [m]", low=0.001, high=0.1)
    declare("max_change_rad", defaults.max_change_rad, "the same for rotation [rad]", low=0.005, high=0.5)
    declare("table_height_m", defaults.table_height_m, "table top in base_link [m]", low=-0.5, high=0.3)
    declare("table_clearance_m", defaults.table_clearance_m, "what the arm keeps from it [m]", low=-0.1, high=0.2)
    declare("self_clearance_m", defaults.self_clearance_m, "what the arm keeps from itself [m]", low=-0.05, high=0.1)
    declare("effort_limit", [0.0], "per joint, unit of joint_states.effort; [0.0] is unchecked")
    declare("max_command_age_s", 0.0, "how old the answered observation may be [s]", low=0.0, high=2.0)
    declare("deadman_s", defaults.deadman_ns / 1e9, "longest silence [s]", low=0.05, high=600.0)
    declare("max_refusals", defaults.max_refusals, "refusals in a row before it stops", low=1, high=1000)


ENVELOPE = (
    "workspace_low_m", "workspace_high_m", "max_change_m", "max_change_rad", "table_height_m", "table_clearance_m",
    "self_clearance_m", "effort_limit", "max_command_age_s", "deadman_s", "max_refusals",
)  # fmt: skip
"""Parameters that may be changed while the gate runs; they hold from the next command on."""


def limits_from(settings: Settings | Mapping[str, Any]) -> GateLimits:
    """The node's parameters as the core's limits.

    Raises:
        ConfigError: a corner has not three values, or the envelope is larger than the arm's.
    """
    low, high = list(settings["workspace_low_m"]), list(settings["workspace_high_m"])
    if len(low) != 3 or len(high) != 3:
        raise ConfigError(f"workspace corners need 3 values, got {low} and {high}")
    effort = tuple(settings["effort_limit"])
    return GateLimits(
        workspace_low_m=(low[0], low[1], low[2]),
        workspace_high_m=(high[0], high[1], high[2]),
        max_change_m=settings["max_change_m"],
        max_change_rad=settings["max_change_rad"],
        table_height_m=settings["table_height_m"],
        table_clearance_m=settings["table_clearance_m"],
        self_clearance_m=settings["self_clearance_m"],
        effort_limit=() if effort == (0.0,) else effort,
        max_command_age_ns=round(settings["max_command_age_s"] * 1e9),
        deadman_ns=round(settings["deadman_s"] * 1e9),
        max_refusals=settings["max_refusals"],
    )


def _with_estop(node: Node) -> Sequence[Node]:
    return [EstopNode(node)]


def main() -> int:
    """Run the node."""
    return run(CommandGateNode, also=_with_estop)


if __name__ == "__main__":
    raise SystemExit(main())

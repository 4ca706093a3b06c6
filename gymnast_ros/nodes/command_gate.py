"""The command gate as a process of its own: the only publisher the arm listens to."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from gymnast_core.arm.command_gate import Command, CommandGate, GateDecision, GateState
from gymnast_core.arm.flight import Named
from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.pulse import Pulse
from gymnast_core.spec import JOINT_NAMES
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import COMMAND_NAMES, MAX_AGE_S, from_target
from gymnast_ros.nodes.ears import listen, note_drop
from gymnast_ros.nodes.gate_parameters import ENVELOPE, declare, limits_from, refusal
from gymnast_ros.nodes.gate_voice import GateVoice
from gymnast_ros.nodes.marked import MarkedJoints, listen_joints, listen_json
from gymnast_ros.nodes.runtime import Diagnostics, own_name, run
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.processes import REFUSED
from gymnast_ros.run.ticker import SWITCH_INTERVAL_S

SOURCES = {"policy": topics.POLICY_COMMAND, "teleop": topics.TELEOP_COMMAND}
"""Who may want something, and where."""
THAW_S = 0.1
"""What the emergency stop's thread gets after this process was frozen, before anything queued is decided."""
STARTING_S, SPEAKS = 20.0, 3
"""How long after its graph's start a gate gives way to another graph's that keeps speaking; later it is a stranger."""
FLOOD = 500
"""Messages within FLOOD_S on the emergency stop's topic, which a device sends some times a second."""
FLOOD_S = 1.0


class CommandGateNode(Node):  # type: ignore[misc]
    """Converts, asks the gate, publishes."""

    def __init__(self, **node: object) -> None:
        super().__init__(topics.GATE_NODE, **node)
        settings = self._settings = NodeSettings(self)
        declare(settings)
        keyring = Keyring.of_environment()
        self._latch, self._pulse, self._graph = keyring.latch, Pulse(), keyring.graph
        self._starting_until_s, self._others = keyring.made_s + STARTING_S, Counter[str]()
        self._at_start = limits_from(settings)
        self.gate = CommandGate(self._at_start, armed=settings["armed_at_start"], latch=keyring.latch)
        settings.on_change(self._change)
        self._waiting: dict[str, JointState] = {}
        self._overridden: JointState | None = None
        self._spent_word = ""
        self._arm_command = MarkedJoints(self, keyring, topics.ARM_COMMAND, topics.STREAM)
        self._report = self.create_publisher(String, topics.GATE_REPORT, topics.STREAM)
        self.voice = GateVoice(self, self.gate, keyring, settings["record_folder"])
        max_age_ns = round(MAX_AGE_S * 1e9)
        listen_joints(self, keyring, topics.TARGET, self._on_target, topics.STREAM, max_age_ns=max_age_ns)
        for source, topic in SOURCES.items():
            hear = partial(self._on_command, source=source)
            listen_joints(self, keyring, topic, hear, topics.STREAM, max_age_ns=max_age_ns)
        listen_json(self, keyring, topics.TAKE_OVER, self._on_take_over, topics.LATCHED)
        listen(self, String, topics.GATE_STATUS, self._on_status, topics.LATCHED)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._ticked_s = time.monotonic()
        self.create_timer(self.gate.limits.spec.step_s / 2, self._tick, clock=steady)
        self._diagnostics = Diagnostics(self, "gate", self._health)
        for topic in settings["record_images"]:
            listen(self, Image, topic, partial(self.voice.note_image, topic), topics.STREAM)
        self.voice.publish()

    @property
    def stalled_s(self) -> float:
        """Since the last tick."""
        return time.monotonic() - self._ticked_s

    def stop(self) -> None:
        """The gate goes in good order; that is no silence to be afraid of."""
        self._latch.farewell()

    def _change(self, changes: Mapping[str, Any]) -> str:
        """Parameters are about to change; returns why they may not."""
        word = changes.get("re_arm", "")
        if word:
            return self._re_arm(word)
        envelope = {name: value for name, value in changes.items() if name in ENVELOPE}
        if not envelope:
            return ""
        try:
            limits = limits_from(
                {**{name: self._settings[name] for name in (*ENVELOPE, "rate_hz", "robot_model")}, **envelope}
            )
        except (ConfigError, TypeError, ValueError) as error:
            return str(error)
        problem = refusal(limits, self.gate.limits, self._at_start, busy=self.gate.busy(time.monotonic_ns()))
        if not problem:
            self.gate.use(limits)
            self.get_logger().info(f"envelope changed: {envelope}")
            self.voice.note(topics.ENVELOPE, envelope)
        return problem

    def _re_arm(self, word: str) -> str:
        """Open the gate for a caller that could read the word's file; returns why not."""
        if word == self._spent_word and self.gate.state is GateState.ARMED:
            return ""  # asked again, because our answer was late
        if word != self.voice.word:
            return f"not this gate's word, or one of an earlier stop; {self.voice.remedy}"
        problem = self.gate.re_arm(time.monotonic_ns())
        if not problem:
            self._spent_word = word
            self._waiting, self._overridden = {}, None
        self.voice.publish()
        return problem

    def _on_target(self, message: JointState) -> None:
        try:
            arm = from_target(message)
        except ShapeError as error:
            self.gate.stop(str(error))
            self.voice.publish()
            return
        self.gate.observe(arm, time.monotonic_ns())
        self.voice.note(topics.TARGET, Named(message.name, message.position))
        if arm.effort_J is not None:
            self.voice.note(topics.EFFORT, Named(JOINT_NAMES, message.effort))
        waiting, self._waiting = self._waiting, {}
        for source, command in waiting.items():
            self._on_command(command, source)
        self.voice.publish()

    def _on_command(self, message: JointState, source: str) -> None:
        if self._pulse.frozen():
            time.sleep(THAW_S)  # a stop that was sent meanwhile goes first
        word = self._latch.word
        stamp_ns = messages.to_ns(message.header.stamp)
        arm = self.gate.arm
        if arm is None or stamp_ns > arm.stamp_ns:
            self._waiting[source] = message  # the frame overtook the arm state; decide when that is here
            return
        action_A = messages.from_named(message, topics.ACTION_NAMES)
        if self.gate.taken_over and source == "policy":
            self._overridden = message
        self.voice.note(SOURCES[source], Named(topics.ACTION_NAMES, action_A.tolist()))
        self._send(self.gate.decide(Command(action_A, stamp_ns, source), time.monotonic_ns()), word)

    def _on_take_over(self, value: dict[str, object]) -> None:
        human = value.get("human") is True
        self.gate.take_over(human)
        overridden, self._overridden = self._overridden, None
        if overridden is not None and not human:
            self._on_command(overridden, "policy")  # nobody else answers that observation any more
        self.voice.note(topics.TAKE_OVER, {"human": human})

    def _on_status(self, message: String) -> None:
        """Refuse to start where another gate speaks already: a graph of this robot on another machine."""
        other = messages.from_json(message)
        graph = str(other.get("graph", ""))
        if len(graph) != len(self._graph) or graph == self._graph or time.time() > self._starting_until_s:
            return
        self._others[graph] += 1
        if self._others[graph] < SPEAKS:
            return
        self.get_logger().fatal(
            f"a graph of robot {str(other.get('robot', ''))!r} runs in this domain already, under this namespace, on "
            "another machine or as another user: stop it, or choose another domain or namespace"
        )
        os._exit(REFUSED)

    def _tick(self) -> None:
        """Hold on silence; whatever else happens here, the arm hears no more of a gate that cannot tick."""
        self._ticked_s = time.monotonic()
        try:
            word, decision = self._latch.word, self.gate.tick(time.monotonic_ns())
            if decision is not None:
                self._send(decision, word)
            self.voice.publish()
        except Exception as error:  # noqa: BLE001 - the tick survives, but nothing passes any more
            note_drop(self, "tick", error)
            self.gate.stop(f"the gate's tick failed: {type(error).__name__}: {error}; see its log")
        self._pulse.beat()
        self._latch.beat(time.monotonic_ns())

    def _send(self, decision: GateDecision, word: int) -> None:
        report = {
            "stamp_ns": decision.stamp_ns, "verdict": decision.verdict.value, "reasons": list(decision.reasons),
            "source": decision.source,
        }  # fmt: skip
        self.voice.note(topics.GATE_REPORT, report)
        if decision.action_A is not None and self.gate.state is not GateState.ESTOP:
            values = [*decision.action_A.tolist(), word]
            message = messages.to_named(COMMAND_NAMES, values, decision.stamp_ns, decision.source)
            self._arm_command.publish(message)
            self.voice.note(topics.ARM_COMMAND, Named(message.name, message.position))
        if decision.reasons:
            self._report.publish(messages.to_json(report))
        self.voice.publish()

    def _health(self) -> tuple[int, str, dict[str, object]]:
        state = self.gate.state
        level = {GateState.ARMED: 0, GateState.DISARMED: 1, GateState.HOLDING: 1}.get(state, 2)
        return level, f"{state.value} {self.gate.reason}".strip(), dict(self.gate.counts)


class EstopNode(Node):  # type: ignore[misc]
    """The emergency stop, in a thread of its own, so that it never waits behind a command.

    As a process it has a context of its own, too: a DDS participant with its own sockets, in which no flood of other
    topics pushes a stop out.
    """

    def __init__(self, gate_node: CommandGateNode, **node: object) -> None:
        super().__init__(**own_name("command_gate_estop"), **node)
        self._gate_node = gate_node
        self._heard_s: list[float] = []
        self.create_service(Trigger, topics.ESTOP, self._estop)
        self.create_service(Trigger, topics.RE_ARM, self._re_arm)
        listen(self, Bool, topics.ESTOP_TOPIC, self._on_topic, topics.STREAM)

    def _estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._latch("estop service called")
        response.success, response.message = True, f"stopped; to move again: {self._gate_node.voice.remedy}"
        return response

    def _on_topic(self, message: Bool) -> None:
        now_s = time.monotonic()
        self._heard_s = [*(at_s for at_s in self._heard_s if now_s - at_s < FLOOD_S), now_s]
        if message.data:
            self._latch("estop topic")
        elif len(self._heard_s) > FLOOD:
            self._latch("the estop topic is flooded: a stop could be lost in it")

    def _latch(self, reason: str) -> None:
        self._gate_node.gate.latch_estop(reason)
        self._gate_node.voice.publish()

    def _re_arm(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = False
        response.message = f"re-arming needs the operator's word: {self._gate_node.voice.remedy}"
        return response


class _OwnContextEstop(EstopNode):
    """Ends its context with itself."""

    def __init__(self, gate_node: CommandGateNode) -> None:
        own = Context()
        rclpy.init(context=own, signal_handler_options=SignalHandlerOptions.NO)
        super().__init__(gate_node, context=own)

    def destroy_node(self) -> None:
        super().destroy_node()
        self.context.try_shutdown()


def _with_estop(node: Node) -> Sequence[Node]:
    return [_OwnContextEstop(node)]


def main() -> int:
    """Run the node."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # the emergency stop's thread waits for no command's
    return run(CommandGateNode, also=_with_estop)


if __name__ == "__main__":
    raise SystemExit(main())

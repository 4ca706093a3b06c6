"""What the command gate publishes: latched status, terminal, flight record, and the word when it is closed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rclpy.node import Node
from sensor_msgs.msg import Image

from gymnast_core.arm.command_gate import CommandGate, GateState
from gymnast_core.arm.flight import FlightRecorder, Note
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.marked import MarkedJson

STATUS_AGAIN_S = 0.5
"""The status is sent again even when nothing changed: a node that does not hear it treats that as a stop."""
WRITTEN_DOWN = (GateState.ESTOP, GateState.STOPPED, GateState.HOLDING)
CLOSED = (GateState.ESTOP, GateState.STOPPED, GateState.DISARMED)


class GateVoice:
    """Safe from any thread.

    Args:
        node: of the gate.
        gate: whose state is published.
        keyring: marks the status, and holds the word that re-arms.
        record_folder: of flight records; empty keeps none.
    """

    def __init__(self, node: Node, gate: CommandGate, keyring: Keyring, record_folder: str) -> None:
        self._node, self._gate, self._keyring, self._robot = node, gate, keyring, keyring.robot
        self._status = MarkedJson(node, keyring, topics.GATE_STATUS, topics.LATCHED)
        self._flight = FlightRecorder(Path(record_folder)) if record_folder else None
        self._lock = threading.RLock()
        self._reported: GateState | None = None
        self._sent: dict[str, object] = {}
        self._sent_at_s = 0.0
        self.word = keyring.new_word()

    def publish(self) -> None:
        """Latch the state for subscribers that come late; a stop is also written down, and needs another word."""
        with self._lock:
            state, reason, arm = self._gate.state, self._gate.reason, self._gate.arm
            changed = state is not self._reported
            if changed and state in CLOSED:
                self.word = self._keyring.new_word()
            status: dict[str, object] = {
                "state": state.value, "reason": reason, "arm": 0 if arm is None else arm.session,
                "graph": self._keyring.graph, "robot": self._robot, "taken_over": self._gate.taken_over,
            }  # fmt: skip
            now_s = time.monotonic()
            if status != self._sent or now_s - self._sent_at_s >= STATUS_AGAIN_S:
                self._sent, self._sent_at_s = status, now_s
                self._status.publish(status)
            self._reported = state
        if changed:
            self._notify(state, reason)
            self.note(topics.GATE_STATUS, {"state": state.value, "reason": reason})
            if state in WRITTEN_DOWN and self._flight is not None:
                threading.Thread(target=self._write_flight, args=(self._flight, state)).start()

    def note(self, topic: str, note: Note) -> None:
        """Keep something for the flight record."""
        if self._flight is not None:
            self._flight.note(topic, time.time_ns(), note)

    def note_image(self, topic: str, message: Image) -> None:
        """Keep a frame."""
        self.note(topic, messages.from_image(message))

    @property
    def remedy(self) -> str:
        """How to go on after a stop, as typed at the robot."""
        name = self._node.get_fully_qualified_name()
        path = self._keyring.word_path
        return f'ros2 param set {name} re_arm "$(cat {path})", or gymnast rearm --folder {path.parent.parent}'

    def _notify(self, state: GateState, reason: str) -> None:
        """Say on the terminal what happened and what to do."""
        log, go_on = self._node.get_logger(), f"to go on: {self.remedy}"
        if state is GateState.ESTOP:
            log.fatal(f"EMERGENCY STOP ({reason}): nothing moves; {go_on}")
        elif state is GateState.STOPPED:
            log.error(f"stopped: {reason}; {go_on}")
        elif state is GateState.HOLDING:
            log.warning(f"holding: {reason}; goes on with the next command")
        elif state is GateState.DISARMED:
            log.warning(f"not armed: nothing moves; look at the arm, then: {self.remedy}")
        else:
            log.info("armed: commands pass")

    def _write_flight(self, flight: FlightRecorder, state: GateState) -> None:
        path = flight.write(f"flight-{state.value}-{time.time_ns()}")
        self._node.get_logger().info(f"the last 30 s are in {path}")

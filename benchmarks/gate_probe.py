"""Plays arm and commander to a running gate process; for benchmarks and for checking a gate on a bench."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState

from gymnast_core.arm.command_gate import ArmState
from gymnast_core.errors import StaleCommandError
from gymnast_core.types import FloatArray
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import to_target
from gymnast_ros.nodes.marked import MarkedJoints, listen_joints


class GateProbe:
    """One arm state out, one command out, one answer in.

    Raises:
        StaleCommandError: no gate appeared.
    """

    def __init__(self, *, timeout_s: float = 20.0, **node: Any) -> None:
        self._node = Node("gate_probe", **node)
        self._executor = SingleThreadedExecutor(context=self._node.context)
        self._executor.add_node(self._node)
        keyring = Keyring.of_environment()
        self._target = MarkedJoints(self._node, keyring, topics.TARGET, topics.STREAM)
        self._command = MarkedJoints(self._node, keyring, topics.POLICY_COMMAND, topics.STREAM)
        self._answers: list[FloatArray] = []
        listen_joints(self._node, keyring, topics.ARM_COMMAND, self._answer, topics.STREAM)
        deadline = time.monotonic() + timeout_s
        while not (
            self._target.publisher.get_subscription_count()
            and self._command.publisher.get_subscription_count()
            and self._node.count_publishers(topics.ARM_COMMAND)
        ):
            if time.monotonic() > deadline:
                raise StaleCommandError(f"no command gate within {timeout_s} s")
            self._executor.spin_once(timeout_sec=0.05)

    def observe(self, arm: ArmState) -> None:
        """Tell the gate where the arm is."""
        self._target.publish(to_target(arm))

    def ask(self, action_A: FloatArray, stamp_ns: int, timeout_s: float) -> FloatArray | None:
        """Send a command, after drain(); returns what the arm is told, or None when it is told nothing in time."""
        self._command.publish(messages.to_action(np.asarray(action_A, np.float32), stamp_ns))
        return self.wait(timeout_s)

    def drain(self) -> list[FloatArray]:
        """What the arm was told without being asked: holds."""
        self._executor.spin_once(timeout_sec=0.0)
        answers, self._answers = self._answers, []
        return answers

    def wait(self, timeout_s: float) -> FloatArray | None:
        """The next thing the arm is told."""
        deadline = time.monotonic() + timeout_s
        while not self._answers and (left_s := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)
        return self._answers.pop(0) if self._answers else None

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()

    def _answer(self, message: JointState) -> None:
        self._answers.append(messages.from_named(message, topics.ACTION_NAMES))

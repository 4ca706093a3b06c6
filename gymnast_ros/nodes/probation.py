"""Watches the checkpoint in force while it is on probation; one that misbehaves is rolled back at once."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from gymnast_core.errors import GymnastError
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.ears import listen
from gymnast_ros.uplink import RobotStore


class ProbationWatch:
    """Hears every episode the rollout node finishes and lets the store count it."""

    def __init__(self, node: Node, store: RobotStore) -> None:
        self._node, self._store = node, store
        listen(node, String, "rollout/episode", self._on_episode, topics.JOB_EVENTS)

    def status(self) -> dict[str, Any]:
        """For bridge/status: the running probation, and why checkpoints were rolled back or turned down."""
        state = self._store.state
        probation = None if state.probation is None else asdict(state.probation)
        if probation is not None:
            del probation["counted"]
        return {"probation": probation, "failed": dict(state.failed)}

    def _on_episode(self, message: String) -> None:
        event = messages.from_json(message)
        if event["policy"] != self._store.current_id() or not (event["good"] or event["bad"]):
            return
        try:
            kept = self._store.on_episode(good=event["good"], reason=event["reason"], run=event["run"])
        except GymnastError as error:
            self._node.get_logger().error(f"rollback failed policy={event['policy']} error={error}")
            return
        if not kept:
            self._node.get_logger().warning(f"rolled_back policy={event['policy']} reason={event['reason']}")

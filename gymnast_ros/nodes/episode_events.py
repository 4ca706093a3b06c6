"""The rollout node's word on every episode, by which the bridge counts a probation."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from gymnast_ros.nodes import messages, topics


class EpisodeEvents:
    """Publishes one JSON object per episode on rollout/episode: {run, policy, steps, episode_id, cut, good, ...}."""

    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(String, "~/episode", topics.JOB_EVENTS)
        self._session, self._number = time.time_ns(), 0

    def publish(self, policy: str, *, steps: int = 0, episode_id: str = "", blame: str = "", cut: str = "") -> None:
        """Publish how one episode went; `run` names it, so that a listener counts it once.

        Args:
            policy: version.
            steps: actions done.
            episode_id: of the recording; empty when there is none.
            blame: see gymnast_ros.run.conduct.verdict.
            cut: truncated_reason; an episode that was cut for another reason says nothing about the policy.
        """
        self._number += 1
        event: dict[str, Any] = {
            "run": f"{self._session}-{self._number}", "policy": policy, "steps": steps, "episode_id": episode_id,
            "cut": cut,
            "good": not blame and not cut, "bad": bool(blame), "reason": blame,
        }  # fmt: skip
        self._publisher.publish(messages.to_json(event))

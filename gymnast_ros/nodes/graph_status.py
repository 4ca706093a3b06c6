"""What a robot's nodes last said of themselves, and waiting until they are up and hold what was released to them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from std_srvs.srv import Trigger

from gymnast_core.practice_status import PracticeStatus
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.graph_port import GraphPort, RobotRefusedError
from gymnast_ros.nodes.watch import STOPPED
from gymnast_ros.run.requests import ROLLOUT


class GraphStatus(GraphPort):
    """A running graph as it describes itself on its latched topics. Not thread safe."""

    @property
    def status(self) -> dict[str, Any]:
        """Latest rollout/status."""
        return self.latest(topics.ROLLOUT_STATUS)

    @property
    def policy_version(self) -> str:
        """What the robot runs."""
        return str(self.latest(topics.POLICY_VERSION).get("policy_version", ""))

    @property
    def gate(self) -> dict[str, object]:
        """Latest command_gate/status."""
        return self.latest(topics.GATE_STATUS)

    @property
    def robot_name(self) -> str:
        """As its trainer knows it; empty without a bridge."""
        return str(self.latest(topics.BRIDGE_STATUS).get("robot", ""))

    @property
    def staged(self) -> str:
        """Id of the newest checkpoint that was released to this robot and not tried yet; empty without one."""
        return str(self.latest(topics.BRIDGE_STATUS).get("staged", ""))

    @property
    def stopped(self) -> bool:
        """Whether the arm is stopped until somebody re-arms it."""
        return self.gate.get("state") in STOPPED

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the graph answers.

        Raises:
            RobotSilentError: a node is missing after timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        self._spin_until(self._requesters[ROLLOUT].ready, deadline, f"listener on {topics.request_topic(ROLLOUT)}")
        arm = self._client(Trigger, topics.RESET)
        self._spin_until(arm.service_is_ready, deadline, f"service {topics.RESET}")
        self._spin_until(
            lambda: topics.ROLLOUT_STATUS in self._latched and topics.GATE_STATUS in self._latched,
            deadline,
            "latched status",
        )
        if self._latched[topics.ROLLOUT_STATUS].get("bridge_expected"):
            self._spin_until(lambda: topics.BRIDGE_STATUS in self._latched, deadline, topics.BRIDGE_STATUS)

    @property
    def practice(self) -> PracticeStatus | None:
        """The newest practice run of this robot; None before the first."""
        return practice_of(self.status)

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float = 120.0) -> None:
        """Wait until the robot holds these checkpoints and each has passed its check.

        Raises:
            RobotRefusedError: one of them did not pass; the message has the reason.
            RobotSilentError: one of them did not arrive in time.
        """
        wanted = set(checkpoint_ids)

        def settled(status: Mapping[str, Any]) -> bool:
            turned_down = wanted - set(status["held"]) & set(status["failed"])
            return bool(turned_down) or wanted <= set(status["checked"])

        status = self.wait_for(topics.BRIDGE_STATUS, settled, timeout_s)
        if missing := wanted - set(status["checked"]):
            reasons = [f"{name}: {status['failed'].get(name, 'not checked')}" for name in sorted(missing)]
            raise RobotRefusedError(f"turned down by this robot: {'; '.join(reasons)}")


def practice_of(status: Mapping[str, object]) -> PracticeStatus | None:
    """The practice run in a status of the rollout node, which wrote it down itself."""
    return cast("PracticeStatus | None", status.get("practice") or None)

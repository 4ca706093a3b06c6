"""Joins the robot to its trainer: topics, services, parameters; gymnast_ros.run.bridge_jobs does the work."""

from __future__ import annotations

from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.wire.address import Address
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.bridge_parameters import declare, requests_from
from gymnast_ros.nodes.client import GraphClient
from gymnast_ros.nodes.marked import listen_json
from gymnast_ros.nodes.requests import RequestPort
from gymnast_ros.nodes.runtime import Diagnostics, LatchedJson, run
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.nodes.watch import RobotWatch
from gymnast_ros.run.bridge_jobs import BridgeJobs, BridgePorts
from gymnast_ros.run.requests import BRIDGE


class BridgeNode(Node):  # type: ignore[misc]
    """Converts, calls, publishes."""

    def __init__(self, **node: Any) -> None:
        super().__init__(BRIDGE, **node)
        settings = NodeSettings(self)
        declare(settings)
        Address.parse(settings["trainer"])  # a wrong setting is named before anything starts
        self._end_rollout = self.create_client(Trigger, topics.CANCEL)
        events = self.create_publisher(String, topics.JOBS, topics.JOB_EVENTS)
        keyring = Keyring.of_environment()
        ports = BridgePorts(
            watch=RobotWatch(self),
            connect=partial(GraphClient, namespace=self.get_namespace().strip("/"), local_only=False),
            cancel_rollout=self._cancel_rollout,
            status=LatchedJson(self, topics.BRIDGE_STATUS, keyring).publish,
            result=LatchedJson(self, topics.BRIDGE_RESULT, keyring).publish,
            event=lambda event: events.publish(messages.to_json(event)),
            log=self.get_logger(),
        )
        self._jobs = BridgeJobs(settings, ports)
        requests = RequestPort(
            self, BRIDGE, self._jobs.handlers, self._jobs.publish_status, keyring=keyring,
            open_services=bool(settings["open_services"]),
        )  # fmt: skip
        self._jobs.ended = requests.ended
        for service, request in requests_from(settings).items():
            requests.serve(service, request)
        listen_json(self, keyring, topics.EPISODE, self._jobs.probation.on_episode, topics.JOB_EVENTS)
        self._jobs.start()
        self.create_timer(0.5, self._jobs.publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._diagnostics = Diagnostics(self, str(settings["robot_name"]), self._jobs.health)

    def stop(self) -> None:
        """Stop shipping; what is not acknowledged stays in the spool."""
        self._jobs.stop()

    def _cancel_rollout(self) -> None:
        if self._end_rollout.service_is_ready():
            self._end_rollout.call_async(Trigger.Request())


def main() -> int:
    """Run the node."""
    return run(BridgeNode)


if __name__ == "__main__":
    raise SystemExit(main())

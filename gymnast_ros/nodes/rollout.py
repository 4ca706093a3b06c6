"""Runs policies on the arm: the rollout node's topics, services and parameters; gymnast_ros.run.arm_jobs does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import String

from gymnast_core.robots import robot_named
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.marked import MarkedJson
from gymnast_ros.nodes.requests import RequestPort
from gymnast_ros.nodes.rollout_parameters import declare, requests_from
from gymnast_ros.nodes.runtime import Diagnostics, LatchedJson, run
from gymnast_ros.nodes.settings import NodeSettings
from gymnast_ros.nodes.topic_env import TopicEnv
from gymnast_ros.outbox import PageOutbox
from gymnast_ros.run.arm_jobs import ArmJobs, JobTopics
from gymnast_ros.run.requests import ROLLOUT
from gymnast_ros.uplink import RemoteJudge


class RolloutNode(Node):  # type: ignore[misc]
    """Converts, calls, publishes."""

    def __init__(self, **node: Any) -> None:
        super().__init__(ROLLOUT, **node)
        self._settings = settings = NodeSettings(self)
        declare(settings)
        keyring = Keyring.of_environment()
        self._remote_judge: RemoteJudge | None = None
        news = JobTopics(
            status=LatchedJson(self, topics.ROLLOUT_STATUS, keyring).publish,
            result=LatchedJson(self, topics.ROLLOUT_RESULT, keyring).publish,
            version=LatchedJson(self, topics.POLICY_VERSION, keyring).publish,
            episode=MarkedJson(self, keyring, topics.EPISODE, topics.JOB_EVENTS).publish,
        )
        self._jobs = ArmJobs(settings, self._connect, news, self.get_logger(), name=self.get_fully_qualified_name(),
                             pager=PageOutbox(Path(settings["folder"]), settings["robot_name"]),
                             judge=self._judge if settings["trainer"] else None)  # fmt: skip
        requests = RequestPort(self, ROLLOUT, self._jobs.handlers, keyring=keyring)
        self._jobs.jobs.ended = requests.ended
        listen(self, String, topics.GATE_STATUS, self._on_gate, topics.LATCHED)
        for service, request in requests_from(settings).items():
            requests.serve(service, request)
        self._diagnostics = Diagnostics(self, settings["robot_name"], self._jobs.health)
        start = self.resolve_service_name("~/run_episode")
        self.get_logger().info(f"ready; one episode: ros2 service call {start} std_srvs/srv/Trigger")
        self._jobs.resume()
        self.create_timer(0.5, self._jobs.publish_version, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def stop(self) -> None:
        """End the running episode; its recording is kept."""
        self._jobs.close()
        if self._remote_judge is not None:
            self._remote_judge.close()

    def _on_gate(self, message: String) -> None:
        self._jobs.arming.hear(messages.from_json(message))

    def _judge(self) -> RemoteJudge:
        """The trainer's judge of real episodes; the worker asks for it, one job at a time."""
        if self._remote_judge is None:
            settings = self._settings
            identity = Path(settings["identity"]) if settings["identity"] else None
            self._remote_judge = RemoteJudge(settings["trainer"], identity, insecure=settings["insecure"])
        return self._remote_judge

    def _connect(self) -> TopicEnv:
        return TopicEnv(
            robot=robot_named(self._settings["robot_model"]),
            step_timeout_s=self._settings["step_timeout_s"],
            reset_timeout_s=self._settings["reset_timeout_s"],
            namespace=self.get_namespace(),
            context=self.context,
        )


def main() -> int:
    """Run the node."""
    return run(RolloutNode)


if __name__ == "__main__":
    raise SystemExit(main())

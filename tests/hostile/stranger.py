"""A DDS participant of nobody: what anybody may do who joins the robot's domain, and no more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_ros.nodes import messages, topics


class Stranger:
    """Hears and says anything, without the graph's key."""

    def __init__(self, domain_id: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self.node = Node("stranger", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self.heard: dict[str, Any] = {}
        self.executed: list[JointState] = []
        self.commands: list[JointState] = []
        self.truth: dict[str, Any] = {}
        for kind, topic, take, quality in (
            (JointState, topics.TARGET, self._keep(topics.TARGET), topics.STREAM),
            (JointState, topics.EXECUTED, self.executed.append, topics.STREAM),
            (JointState, topics.ARM_COMMAND, self.commands.append, topics.STREAM),
            (String, topics.TRUTH, self._on_truth, topics.STREAM),
            (String, topics.GATE_STATUS, self._keep(topics.GATE_STATUS), topics.LATCHED),
        ):
            self.node.create_subscription(kind, topic, take, quality)

    def _keep(self, topic: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self.heard[topic] = message

        return keep

    def _on_truth(self, message: String) -> None:
        self.truth = json.loads(message.data)

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def spin(self, seconds: float = 0.0, until: Callable[[], bool] = lambda: False) -> bool:
        """Listen; returns whether it came."""
        deadline = time.monotonic() + seconds
        while not until():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left_s, 0.05))
        return True

    def say(self, kind: type, topic: str, message: Any, *, quality: Any = topics.STREAM, times: int = 1) -> None:
        """Publish, when somebody hears it."""
        publisher = self._publishers.get(topic)
        if publisher is None:
            publisher = self._publishers[topic] = self.node.create_publisher(kind, topic, quality)
            assert self.spin(20.0, lambda: publisher.get_subscription_count() > 0), f"nobody hears {topic}"
        for _ in range(times):
            publisher.publish(message)

    def command(self, action: list[float], *, topic: str = topics.ARM_COMMAND, times: int = 1) -> None:
        """Tell the arm to move, as the gate would: for the newest observation."""
        assert self.spin(20.0, lambda: topics.TARGET in self.heard), "the arm says nothing"
        stamp_ns = messages.to_ns(self.heard[topics.TARGET].header.stamp)
        message = messages.to_named((*topics.ACTION_NAMES, "latch"), [*action, 1.0], stamp_ns, "policy")
        self.say(JointState, topic, message, times=times)

    def height_m(self) -> float:
        """Of the arm's target."""
        return float(self.heard[topics.TARGET].position[2])

    def set(self, node: str, name: str, value: Any) -> str:
        """Set a parameter; returns why not."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self._ask(SetParameters, f"{node}/set_parameters", request).results
        return "" if result.successful else str(result.reason) or "refused"

    def call(self, service: str) -> tuple[bool, str]:
        """Call a Trigger service."""
        response = self._ask(Trigger, service, Trigger.Request())
        return response.success, response.message

    def _ask(self, kind: type, service: str, request: Any) -> Any:
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self.node.create_client(kind, service)
        assert self.spin(20.0, client.service_is_ready), f"nobody offers {service}"
        for _ in range(20):  # a node that was killed still counts as there for a while
            future = client.call_async(request)
            if self.spin(2.0, future.done):
                return future.result()
        raise AssertionError(f"{service} does not answer")

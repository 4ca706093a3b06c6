"""A running graph's requests, parameters, services and latched topics from Python, with a deadline on every wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.errors import ConfigError, EstopLatchedError, GymnastError, TransientBridgeError
from gymnast_ros.keyring import Keyring, folder_of
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.marked import MarkReader
from gymnast_ros.nodes.requests import Pending, Requester
from gymnast_ros.nodes.runtime import own_name
from gymnast_ros.run.codec import Answer, RobotBusyError
from gymnast_ros.run.requests import BRIDGE, ROLLOUT, Request

LATCHED_TOPICS = (
    topics.ROLLOUT_STATUS, topics.ROLLOUT_RESULT, topics.POLICY_VERSION, topics.BRIDGE_STATUS, topics.BRIDGE_RESULT,
    topics.GATE_STATUS,
)  # fmt: skip

ANSWER_S = 15.0
"""Longest wait for the first answer to a request."""
RESEND_S = 2.0
"""Setting parameters may be repeated, so it is."""

Progress = Callable[[dict[str, object]], None]
Self = TypeVar("Self", bound="GraphPort")


class RobotRefusedError(GymnastError):
    """The robot understood and refused; the message is its reason.

    Args:
        message: for people.
        error: name of the robot's own error, e.g. "NothingToDoError"; empty where a service or a parameter refused.
    """

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


class RobotSilentError(GymnastError):
    """No answer in time: the node is not running, or another domain id is used."""


class GraphPort:
    """Speaks to the nodes of one graph. Not thread safe.

    Args:
        domain_id: ROS_DOMAIN_ID of the graph; None takes the environment's.
        namespace: of the arm.
        local_only: talk to this machine alone.
        folder: of the robot, where it is on this machine and is to be re-armed, or asked what needs the graph's key;
            None takes what a starter handed down.
    """

    def __init__(
        self,
        *,
        domain_id: int | None = None,
        namespace: str = "",
        local_only: bool = True,
        folder: Path | None = None,
    ) -> None:
        self._folder = folder
        if local_only:
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = Node(
            **own_name(f"gymnast_client_{os.getpid()}_{time.monotonic_ns() % 1_000_000}"),
            context=self._context,
            namespace=namespace,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict[tuple[type, str], Any] = {}
        self._latched: dict[str, dict[str, Any]] = {}
        self._listeners: list[Progress] = []
        self._marks = MarkReader(self._keyring)
        self._requesters = {name: Requester(self._node, name, self._keyring) for name in (ROLLOUT, BRIDGE)}
        for topic in LATCHED_TOPICS:
            listen(self._node, String, topic, partial(self._hear, topic), topics.LATCHED)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keyring(self) -> Keyring | None:
        """Read the graph's key anew, which a new start of it changes; None where this process may not."""
        try:
            return Keyring.of_environment() if self._folder is None else Keyring.load(folder_of(self._folder))
        except ConfigError:
            return None

    def close(self) -> None:
        """Leave the graph."""
        if self._context.ok():
            self._executor.shutdown()
            self._node.destroy_node()
            self._context.try_shutdown()

    def latest(self, topic: str) -> dict[str, Any]:
        """Newest value of a latched topic, after reading what has arrived."""
        for _ in range(8):
            self._executor.spin_once(timeout_sec=0.0)
        return self._latched.get(topic, {})

    def ask(self, request: Request, timeout_s: float = ANSWER_S) -> Pending:
        """Send a request and return it with its first answer, which accepts it.

        Raises:
            RobotRefusedError: it was refused.
            EstopLatchedError: it was refused because the arm is stopped.
            RobotSilentError: nobody answered in time.
        """
        requester = self._requesters[request.node]
        pending = requester.ask(request, self._wait_accepted, timeout_s)
        if pending is None:
            raise RobotSilentError(
                f"no answer of {request.node} to {request.operation} in time; is the graph running in this "
                "ROS_DOMAIN_ID?"
            )
        _raise_failure(request.operation, pending.first)
        return pending

    def ask_to_the_end(self, request: Request, timeout_s: float, progress: Progress | None = None) -> dict[str, Any]:
        """Send a request, wait until what it began has ended, and return its result.

        Args:
            request: of something that lasts.
            timeout_s: longest wait for its end.
            progress: called with every status of the rollout node that is about this run.

        Raises:
            RobotRefusedError: it was refused, or did not end well.
            EstopLatchedError: the arm is stopped.
            RobotSilentError: nobody answered in time, or it has not ended.
            TransientBridgeError: the rollout node was started anew meanwhile.
        """
        pending = self.ask(request)
        run = "" if pending.first is None else pending.first.message

        def listener(status: dict[str, object]) -> None:
            pending.note_run(str(status.get("run_id", "")))
            if progress is not None and status.get("run_id") == run:
                progress(status)

        self._listeners.append(listener)
        try:
            self._until_ended(request, pending, timeout_s)
        finally:
            self._listeners.remove(listener)
            self._requesters[request.node].forget(pending)
        _raise_failure(run, pending.last)
        return {} if pending.last is None else dict(pending.last.result)

    def _until_ended(self, request: Request, pending: Pending, timeout_s: float) -> None:
        what, deadline = f"end of {request.operation}", time.monotonic() + timeout_s
        self._spin_until(lambda: pending.last is not None or pending.lost, deadline, what)
        if pending.last is None:
            raise TransientBridgeError(f"{request.node} was started anew and knows nothing of the {what}; ask again")

    def _wait_accepted(self, pending: Pending, seconds: float) -> bool:
        try:
            self._spin_until(pending.accepted.is_set, time.monotonic() + seconds, "answer")
        except RobotSilentError:
            return False
        return True

    def call(self, service: str, timeout_s: float = 15.0, *, resend_s: float | None = None) -> str:
        """Call a Trigger service and return its message.

        Args:
            service: relative name.
            timeout_s: longest wait for its answer.
            resend_s: ask again whenever this has passed without one; only for what may be repeated.

        Raises:
            RobotRefusedError: success=False.
            RobotSilentError: no answer in time.
        """
        response = self._request(Trigger, service, Trigger.Request(), timeout_s, resend_s=resend_s)
        if not response.success:
            raise RobotRefusedError(f"{service}: {response.message}")
        return str(response.message)

    def set(self, node: str, values: Mapping[str, Any], timeout_s: float = 15.0) -> None:
        """Set parameters of a node.

        Raises:
            RobotRefusedError: a value is invalid; the message is the node's.
        """
        request = SetParameters.Request()
        for name, value in values.items():
            parameter = (
                Parameter(name, Parameter.Type.STRING_ARRAY, [str(item) for item in value])
                if isinstance(value, (list, tuple)) and not any(isinstance(item, float) for item in value)
                else Parameter(name, value=str(value) if isinstance(value, Path) else value)
            )
            request.parameters.append(parameter.to_parameter_msg())
        results = self._request(
            SetParameters, topics.parameters_service(node), request, timeout_s, resend_s=RESEND_S
        ).results
        reasons = [result.reason for result in results if not result.successful]
        if reasons:
            raise RobotRefusedError(f"{node}: {'; '.join(reasons)}")

    def wait_for(
        self, topic: str, wanted: Callable[[dict[str, Any]], bool], timeout_s: float, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Wait until a latched topic's value is the wanted one.

        Raises:
            RobotSilentError: not in time.
        """
        if progress is not None:
            self._listeners.append(progress)
        try:
            self._spin_until(
                lambda: topic in self._latched and wanted(self._latched[topic]), time.monotonic() + timeout_s, topic
            )
        finally:
            if progress is not None:
                self._listeners.remove(progress)
        return self._latched[topic]

    def _request(
        self, kind: type, service: str, request: Any, timeout_s: float, *, resend_s: float | None = None
    ) -> Any:
        """Ask once, or every resend_s: a node that was killed still counts as there, its successor hears nothing."""
        deadline = time.monotonic() + timeout_s
        client = self._client(kind, service)
        self._spin_until(client.service_is_ready, deadline, f"service {service}")
        while True:
            future = client.call_async(request)
            until = deadline if resend_s is None else min(deadline, time.monotonic() + resend_s)
            try:
                self._spin_until(future.done, until, f"an answer of {service}")
            except RobotSilentError:
                client.remove_pending_request(future)
                if until >= deadline:
                    raise
                continue
            return future.result()

    def _client(self, kind: type, service: str) -> Any:
        if (kind, service) not in self._clients:
            self._clients[kind, service] = self._node.create_client(kind, service)
        return self._clients[kind, service]

    def _hear(self, topic: str, message: String) -> None:
        self._latched[topic] = self._marks.read(topic, message)
        if topic == topics.ROLLOUT_STATUS:
            for listener in list(self._listeners):
                listener(self._latched[topic])

    def _spin_until(self, ready: Callable[[], bool], deadline: float, what: str) -> None:
        while not ready():
            if not self._context.ok():
                raise TransientBridgeError("the ROS context was shut down")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise RobotSilentError(f"no {what} in time; is the graph running in this ROS_DOMAIN_ID?")
            self._executor.spin_once(timeout_sec=min(left_s, 0.1))


def _raise_failure(what: str, answer: Answer | None) -> None:
    """Raise what an answer reports, by the name of its error."""
    if answer is None or answer.failure is None:
        return
    words = f"{what}: {answer.failure.message}"
    if answer.failure.error == EstopLatchedError.__name__:
        raise EstopLatchedError(words)
    if answer.failure.error == RobotBusyError.__name__:
        raise RobotBusyError(words)
    raise RobotRefusedError(f"{what}: {answer.failure.error}: {answer.failure.message}", answer.failure.error)

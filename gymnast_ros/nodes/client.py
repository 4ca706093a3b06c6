"""The robot's services from Python: what the command line, the demo and tests drive a running graph with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.errors import GymnastError, TransientBridgeError
from gymnast_ros.nodes import messages, topics

LATCHED_TOPICS = ("rollout/status", "rollout/result", "rollout/policy_version", "bridge/status", "bridge/result")

RESEND_S = 2.0
"""Setting parameters may be repeated, so it is."""

Progress = Callable[[dict[str, Any]], None]


class RobotRefusedError(GymnastError):
    """The robot understood and said no; the message is its reason."""


class RobotSilentError(GymnastError):
    """No answer in time: the node is not running, or another domain id is used."""


class GraphClient:
    """Sets parameters, calls services, waits for results with deadlines. Not thread safe.

    Args:
        domain_id: ROS_DOMAIN_ID of the graph; None takes the environment's.
        namespace: of the arm.
        local_only: talk to this machine alone.
    """

    def __init__(self, *, domain_id: int | None = None, namespace: str = "", local_only: bool = True) -> None:
        if local_only:
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = Node(
            f"gymnast_client_{os.getpid()}_{time.monotonic_ns() % 1_000_000}",
            context=self._context,
            namespace=namespace,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict[tuple[type, str], Any] = {}
        self._latched: dict[str, dict[str, Any]] = {}
        self._listeners: list[Progress] = []
        for topic in (*LATCHED_TOPICS, topics.GATE_STATUS):
            self._node.create_subscription(
                String, topic, lambda message, topic=topic: self._hear(topic, message), topics.LATCHED
            )

    def __enter__(self) -> GraphClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        if self._context.ok():
            self._executor.shutdown()
            self._node.destroy_node()
            self._context.try_shutdown()

    @property
    def status(self) -> dict[str, Any]:
        """Latest rollout/status."""
        return self.latest("rollout/status")

    @property
    def policy_version(self) -> str:
        """What the robot runs."""
        return str(self.latest("rollout/policy_version").get("policy_version", ""))

    @property
    def gate(self) -> dict[str, Any]:
        """Latest command_gate/status."""
        return self.latest(topics.GATE_STATUS)

    def latest(self, topic: str) -> dict[str, Any]:
        """Newest value of a latched topic, after reading what has arrived."""
        for _ in range(8):
            self._executor.spin_once(timeout_sec=0.0)
        return self._latched.get(topic, {})

    def wait_ready(self, timeout_s: float = 30.0, services: Sequence[str] = ("rollout/evaluate", topics.RESET)) -> None:
        """Wait until the graph answers.

        Raises:
            RobotSilentError: a service is missing after timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        for name in services:
            client = self._client(Trigger, name)
            self._spin_until(client.service_is_ready, deadline, f"service {name}")
        self._spin_until(
            lambda: "rollout/status" in self._latched and topics.GATE_STATUS in self._latched,
            deadline,
            "latched status",
        )
        if self._latched["rollout/status"].get("bridge_expected"):
            self._spin_until(lambda: "bridge/status" in self._latched, deadline, "bridge/status")

    def call(self, service: str, timeout_s: float = 15.0) -> str:
        """Call a Trigger service and return its message.

        Raises:
            RobotRefusedError: success=False.
            RobotSilentError: no answer in time.
        """
        response = self._request(Trigger, service, Trigger.Request(), timeout_s)
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
        results = self._request(SetParameters, f"{node}/set_parameters", request, timeout_s, resend_s=RESEND_S).results
        reasons = [result.reason for result in results if not result.successful]
        if reasons:
            raise RobotRefusedError(f"{node}: {'; '.join(reasons)}")

    def run_episode(
        self,
        *,
        instruction: str,
        seed: int,
        scene: str = "standard",
        checkpoint: str | Path = "",
        temperature_seed: int = -1,
        record: bool = True,
        purpose: str = "collect",
        timeout_s: float = 120.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Run one episode and return its row."""
        values = {
            "instruction": instruction, "seed": seed, "scene": scene, "checkpoint": str(checkpoint),
            "temperature_seed": temperature_seed, "record": record, "purpose": purpose,
        }  # fmt: skip
        self.set("rollout", values)
        return dict(self._run("rollout/run_episode", timeout_s, progress)["episode"])

    def evaluate(
        self,
        *,
        tasks: Sequence[str],
        seed_start: int,
        seed_count: int,
        checkpoints: Sequence[str | Path] = (),
        scene: str = "standard",
        temperature_seed: int = -1,
        record: bool = False,
        purpose: str = "evaluate",
        timeout_s: float = 900.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Evaluate checkpoints from the same start states; returns the result file's content.

        Raises:
            RobotRefusedError: busy, a bad parameter, or the evaluation failed.
            RobotSilentError: not done in timeout_s; it is cancelled.
        """
        values = {
            "tasks": list(tasks), "seed_start": seed_start, "seed_count": seed_count, "checkpoints": list(checkpoints),
            "scene": scene, "temperature_seed": temperature_seed, "record": record, "purpose": purpose,
        }  # fmt: skip
        self.set("rollout", values)
        result = self._run("rollout/evaluate", timeout_s, progress)
        return dict(json.loads(Path(result["file"]).read_text()))

    def test_time_train(
        self,
        *,
        instruction: str,
        scene: str,
        episodes: int,
        seed_start: int,
        temperature_seed: int = 0,
        budget_s: float = 120.0,
        rollouts: int = 0,
        mode: str = "full",
        checkpoint: str = "",
        world_model: str = "",
        judge: str = "",
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        timeout_s: float = 3600.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Adapt a policy to the scene the arm stands in; see the parameters of the rollout node.

        Returns:
            {state: ready | refused | cancelled, candidate, reason, job_id, result}; a ready candidate is staged.

        Raises:
            RobotRefusedError: busy, a bad parameter, or the training failed.
            RobotSilentError: not done in timeout_s; it is cancelled.
        """
        values = {
            "instruction": instruction, "scene": scene, "ttt_episodes": episodes, "seed_start": seed_start,
            "temperature_seed": temperature_seed, "ttt_budget_s": float(budget_s), "ttt_rollouts": rollouts,
            "ttt_mode": mode, "checkpoint": str(checkpoint), "ttt_world_model": world_model, "ttt_judge": judge,
            "ttt_seed": seed, "ttt_config": json.dumps(dict(config or {})),
        }  # fmt: skip
        self.set("rollout", values)
        return dict(self._run("rollout/test_time_train", timeout_s, progress)["adaptation"])

    def label(self, label: str, labelled_by: str = "operator") -> None:
        """Label, or discard, the episode that is waiting for it."""
        self.set("rollout", {"label": label, "labelled_by": labelled_by})
        self.call("rollout/label")

    def annotate(self, text: str, by: str = "operator") -> None:
        """Note something at this moment of the episode that is being recorded."""
        self.set("rollout", {"annotation": text, "labelled_by": by})
        self.call("rollout/annotate")

    def cancel(self) -> str:
        """End what is running after its present step."""
        return self.call("rollout/cancel")

    def estop(self) -> str:
        """Stop the arm now, until re_arm()."""
        return self.call(topics.ESTOP)

    def re_arm(self) -> str:
        """Let it move again."""
        return self.call(topics.RE_ARM)

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float = 120.0) -> None:
        """Wait until the robot holds these checkpoints, verified.

        Raises:
            RobotSilentError: one of them did not arrive in time.
        """
        wanted = set(checkpoint_ids)
        self.wait_for("bridge/status", lambda status: wanted <= set(status["held"]), timeout_s)

    def swap(self, checkpoint_id: str = "", *, probation_episodes: int = 0, timeout_s: float = 15.0) -> str:
        """Put a staged checkpoint (empty: the newest) in force from the next episode on; returns its id."""
        self.set("bridge", {"swap_to": checkpoint_id, "probation_episodes": probation_episodes})
        return self._in_force(self.call("bridge/swap"), timeout_s)

    def rollback(self, timeout_s: float = 15.0) -> str:
        """Return to the checkpoint before; returns its id."""
        return self._in_force(self.call("bridge/rollback"), timeout_s)

    def _in_force(self, checkpoint_id: str, timeout_s: float) -> str:
        self.wait_for("rollout/policy_version", lambda value: value["policy_version"] == checkpoint_id, timeout_s)
        return checkpoint_id

    def submit_job(
        self,
        kind: str,
        spec: Mapping[str, Any],
        key: str,
        *,
        timeout_s: float = 3600.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Submit a job through the bridge node and follow it to its end; returns its last event.

        Args:
            kind: of job.
            spec: JSON values.
            key: the same key never starts a second job.
            timeout_s: longest wait; the job itself runs on.
            progress: called with every event.
        """
        self.set("bridge", {"job": json.dumps({"kind": kind, "spec": dict(spec), "key": key})})
        subscription = self._node.create_subscription(
            String, "bridge/job_events", lambda message: self._on_event(key, progress, message), topics.JOB_EVENTS
        )
        try:
            run_id = self.call("bridge/submit_job")
            return dict(self._result_of("bridge", run_id, timeout_s)["last"])
        finally:
            self._node.destroy_subscription(subscription)

    def flush(self, timeout_s: float = 120.0) -> None:
        """Wait until every episode has been acknowledged by the trainer."""
        self.set("bridge", {"flush_timeout_s": float(timeout_s)})
        self._result_of("bridge", self.call("bridge/flush"), timeout_s + 10.0)

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

    def _run(self, service: str, timeout_s: float, progress: Progress | None) -> dict[str, Any]:
        run_id = self.call(service)
        try:
            return self._result_of("rollout", run_id, timeout_s, progress)
        except RobotSilentError:
            self.cancel()
            raise

    def _result_of(self, node: str, run_id: str, timeout_s: float, progress: Progress | None = None) -> dict[str, Any]:
        result = self.wait_for(f"{node}/result", lambda value: value["run_id"] == run_id, timeout_s, progress)
        if not result["ok"]:
            raise RobotRefusedError(f"{run_id}: {result['error']}")
        return result

    @staticmethod
    def _on_event(key: str, progress: Progress | None, message: String) -> None:
        event = messages.from_json(message)
        if progress is not None and event["key"] == key:
            progress(event)

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
        self._latched[topic] = messages.from_json(message)
        if topic == "rollout/status":
            for listener in self._listeners:
                listener(self._latched[topic])

    def _spin_until(self, ready: Callable[[], bool], deadline: float, what: str) -> None:
        while not ready():
            if not self._context.ok():
                raise TransientBridgeError("the ROS context was shut down")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise RobotSilentError(f"no {what} in time; is the graph running in this ROS_DOMAIN_ID?")
            self._executor.spin_once(timeout_sec=min(left_s, 0.1))

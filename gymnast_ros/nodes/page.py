"""The robot's own page: gymnast_ros.page over the robot's services, on this machine alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from gymnast_core.episodes import Spool
from gymnast_core.errors import ConfigError
from gymnast_core.records.journal import Journal
from gymnast_core.web.auth import Gate, LoginError, User
from gymnast_core.web.server import PageServer
from gymnast_ros.keyring import Keyring, re_arm_word, recover_word
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.requests import Requester
from gymnast_ros.nodes.runtime import run
from gymnast_ros.nodes.settings import NodeSettings, declare_robot
from gymnast_ros.nodes.watch import RobotWatch
from gymnast_ros.page import create_page
from gymnast_ros.page.app import NotNowError
from gymnast_ros.run.codec import BadRequestError, checked
from gymnast_ros.run.requests import ROLLOUT, Cancel, GoOnPractising, Label, Request

CALL_S = 5.0
RECOVER_S = 60.0
"""Three reboots, each looked at, and the way to neutral."""
WIDTH = 640
TOKEN = "token"  # a file's name


class NodeRobot:
    """The robot behind the page: reads what its nodes latch, calls their services; safe from any thread.

    Args:
        node: whose executor delivers; it must be spinning while anything is called.
        name: of the robot.
        model: of its arm.
        spool: of the robot.
    """

    def __init__(self, node: Node, name: str, model: str, spool: Spool) -> None:
        self.name, self.model, self._spool = name, model, spool
        self._watch = RobotWatch(node, width=WIDTH)
        self._services = {service: node.create_client(Trigger, service) for service in (topics.ESTOP, topics.RECOVER)}
        self._keyring = Keyring.of_environment()
        self._gate, self._arm = (
            node.create_client(SetParameters, topics.parameters_service(name))
            for name in (topics.GATE_NODE, topics.ARM_NODE)
        )
        self._rollout = Requester(node, ROLLOUT, lambda: self._keyring)
        self._arm_says: dict[str, str] = {}
        self._arm_name = f"{node.get_namespace().rstrip('/')}/{topics.ARM_NODE}"
        listen(node, DiagnosticArray, topics.DIAGNOSTICS, self._hear_health, topics.STREAM)

    def status(self) -> Mapping[str, Any]:
        """See gymnast_ros.page.PageRobot."""
        rollout, usage = self._watch.latest(topics.ROLLOUT_STATUS), self._spool.usage()
        shown = {"done": 0, "total": 0, "message": ""} | {
            name: rollout[name] for name in ("done", "total", "message") if name in rollout
        }
        spool = {"entries": usage.entries, "bytes": usage.bytes, "full": usage.full}
        arm = {"fault": self._arm_says.get("fault", ""), "motors_failed": self._arm_says.get("motors_failed") == "True"}
        return {**shown, **self._watch.status(), **arm, "spool": spool, **self._link()}

    def frame(self) -> tuple[int, float, bytes]:
        """See gymnast_ros.page.PageRobot."""
        return self._watch.frame()

    def stop(self) -> str:
        """See gymnast_ros.page.PageRobot."""
        return self._trigger(topics.ESTOP)

    def re_arm(self) -> str:
        """See gymnast_ros.page.PageRobot."""
        try:
            word = Parameter("re_arm", value=re_arm_word(self._keyring.folder))
        except ConfigError as error:
            raise NotNowError(str(error)) from error
        self._set(self._gate, topics.GATE_NODE, [word])
        return "armed"

    def recover(self) -> str:
        """See gymnast_ros.page.PageRobot."""
        try:
            word = Parameter("recover_word", value=recover_word(self._keyring.folder))
        except ConfigError as error:
            raise NotNowError(str(error)) from error
        self._set(self._arm, topics.ARM_NODE, [word])
        return self._trigger(topics.RECOVER, RECOVER_S)

    def go_on_practising(self, by: str) -> str:
        """See gymnast_ros.page.PageRobot."""
        return self._ask(GoOnPractising, by=by)

    def stop_practice(self) -> str:
        """See gymnast_ros.page.PageRobot."""
        return self._ask(Cancel)

    def label(self, label: str, by: str) -> str:
        """See gymnast_ros.page.PageRobot."""
        return self._ask(Label, label=label, labelled_by=by)

    def _ask(self, kind: type[Request], **arguments: str) -> str:
        """Ask the rollout node for something that is done at once; returns its words."""
        try:
            request = checked(kind, arguments)
        except BadRequestError as error:
            raise NotNowError(str(error)) from error
        pending = self._rollout.ask(request, lambda pending, seconds: pending.accepted.wait(seconds), CALL_S)
        if pending is None or pending.first is None:
            raise NotNowError(f"{ROLLOUT} did not answer within {CALL_S:.0f} s; is its node running?")
        self._rollout.forget(pending)
        if pending.first.failure is not None:
            raise NotNowError(f"{request.operation}: {pending.first.failure.message}")
        return pending.first.message

    def _hear_health(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._arm_name:
                self._arm_says = {pair.key: pair.value for pair in status.values}

    def _set(self, client: Client, name: str, wanted: list[Parameter]) -> None:
        request = SetParameters.Request(parameters=[value.to_parameter_msg() for value in wanted])
        for result in self._answer(client, name, request).results:
            if not result.successful:
                raise NotNowError(f"{name}: {result.reason}")

    def _link(self) -> dict[str, object]:
        """How the trainer is reached, in words, and how what it sent came past the gate."""
        bridge = self._watch.latest(topics.BRIDGE_STATUS)
        if not bridge:
            return {"link": "none: this robot ships nothing", "alarm": "", "gate": {}}
        uplink = bridge.get("uplink", {})
        words = "connected" if uplink.get("connected") else f"not connected {uplink.get('last_error', '')}".strip()
        return {"link": words, "alarm": str(uplink.get("alarm", "")), "gate": bridge.get("gate", {})}

    def _trigger(self, service: str, wait_s: float = CALL_S) -> str:
        response = self._answer(self._services[service], service, Trigger.Request(), wait_s)
        if not response.success:
            raise NotNowError(f"{service}: {response.message}")
        return str(response.message)

    def _answer(self, client: Client, name: str, request: Any, wait_s: float = CALL_S) -> Any:
        """Call and wait; the executor delivers in its own thread."""
        if not client.wait_for_service(timeout_sec=1.0):
            raise NotNowError(f"{name} is not there; is its node running?")
        answered, future = threading.Event(), client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(wait_s):
            client.remove_pending_request(future)
            raise NotNowError(f"{name} did not answer within {wait_s:.0f} s; use the stop button on the arm")
        return future.result()


class PageNode(Node):  # type: ignore[misc]
    """Serves the page on 127.0.0.1; a token for it lies in folder/page/token, readable by its owner alone."""

    def __init__(self, **node: Any) -> None:
        super().__init__("page", **node)
        settings = NodeSettings(self)
        settings.declare("folder", "runs/robot", "the robot's folder; page/ is made in it", read_only=True)
        settings.declare("robot_name", "sim-0", "shown on the page", read_only=True)
        declare_robot(settings)
        settings.declare("port", 8081, "on this machine only; 0 takes a free one", low=0, high=65535, read_only=True)
        folder = Path(settings["folder"])
        own = folder / "page"
        gate = Gate(own)
        leave_token(gate, own / TOKEN)
        self._log = Journal(own / "actions.jsonl")
        robot = NodeRobot(self, settings["robot_name"], settings["robot_model"], Spool(folder / "spool"))
        self._server = PageServer(create_page(robot, gate, self._log), port=settings["port"])
        address = self._server.start()
        (own / "address").write_text(address)
        self.get_logger().info(f"page={address} token={own / TOKEN}")

    def stop(self) -> None:
        """Close the page."""
        self._server.stop()
        self._log.close()


def leave_token(gate: Gate, path: Path) -> None:
    """Write down a token for the user that may read the robot's folder, unless a good one lies there."""
    try:
        gate.user_of_token(path.read_text() if path.is_file() else "")
    except LoginError:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(gate.issue(User("local", "operator"), days=365.0))


def main() -> int:
    """Run the node."""
    return run(PageNode)


if __name__ == "__main__":
    raise SystemExit(main())

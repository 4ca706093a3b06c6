"""Asks an arm for its settings and for a new episode, so that an arm that dies and comes back in between is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from gymnast_core.errors import SafetyError, StaleCommandError
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.reset_permit import ResetPermits

ASK_AGAIN_S = 1.0
CONFIGURE_TIMEOUT_S = 10.0
NEWS_S = 0.5
"""How much later than its answer a new process's description may come."""


class Spin(Protocol):
    """Works off messages until a condition holds or so many seconds have passed; returns whether it holds."""

    def __call__(self, ready: Callable[[], bool], timeout_s: float, /) -> bool:
        """Spin."""
        ...


class ArmServices:
    """Parameters and reset of the arm.

    For up to 20 s (the middleware's lease) a killed process's services still count as there, and nobody hears what is
    sent to them. So a request that is not answered is sent again; both may be repeated, and only the last one's answer
    counts.

    Args:
        node: whose clients these are.
        spin: of the caller, which owns the executor.
        session: names the arm's process as far as it is known; changes when its successor has spoken.
        keyring: of the graph, whose arm resets for nobody else.
    """

    def __init__(self, node: Node, spin: Spin, session: Callable[[], int], keyring: Keyring) -> None:
        self._spin, self._session = spin, session
        self._permits = ResetPermits(keyring)
        self._parameters = node.create_client(SetParameters, topics.parameters_service(topics.ARM_NODE))
        self._reset = node.create_client(Trigger, topics.RESET)
        self._sent: dict[str, Any] = {}
        self._sent_to = 0

    def ready(self) -> bool:
        """Whether both services are there, or still count as there."""
        return bool(self._parameters.service_is_ready() and self._reset.service_is_ready())

    def configure(self, settings: Mapping[str, object]) -> None:
        """Set parameters of the arm; only those that differ from what this process of it has.

        Raises:
            SafetyError: it refuses them.
            StaleCommandError: it does not answer.
        """
        if self._session() != self._sent_to:
            self._sent, self._sent_to = {}, self._session()
        changed = {name: value for name, value in settings.items() if self._sent.get(name) != value}
        if not changed:
            return
        self._set(changed)
        self._sent.update(changed)

    def reset(self, timeout_s: float, usual_s: float) -> int:
        """Ask for a new episode; returns the stamp of its first observation [ns].

        Args:
            timeout_s: longest wait.
            usual_s: what a reset takes when nothing is wrong; it is asked for again after that.

        Raises:
            SafetyError: the arm refuses.
            StaleCommandError: it does not answer, or was restarted meanwhile and knows nothing of its settings.
        """
        asked = self._session()
        self._set(self._permits.new())
        response = self._ask(self._reset, Trigger.Request(), timeout_s, max(usual_s, ASK_AGAIN_S), topics.RESET)
        if self._session() != asked or (not response.success and self._spin(lambda: self._session() != asked, NEWS_S)):
            raise StaleCommandError("the arm was restarted during its reset")  # and its successor has no permit of ours
        if not response.success:
            raise SafetyError(f"the arm refused to reset: {response.message}")
        return int(json.loads(response.message)["stamp_ns"])

    def _set(self, values: Mapping[str, object]) -> None:
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        results = self._ask(self._parameters, request, CONFIGURE_TIMEOUT_S, ASK_AGAIN_S, "the arm's parameters").results
        reasons = [result.reason for result in results if not result.successful]
        if reasons:
            raise SafetyError(f"the arm refused {dict(values)}: {'; '.join(reasons)}")

    def _ask(self, client: Client, request: Any, timeout_s: float, patience_s: float, what: str) -> Any:
        """Send until answered, each time waiting twice as long: a slow arm is not buried in repetitions."""
        asked, left_s = self._session(), timeout_s
        while left_s > 0:
            future = client.call_async(request)
            wait_s = min(left_s, patience_s)
            self._spin(lambda future=future: future.done() or self._session() != asked, wait_s)  # type: ignore[misc]
            if future.done():
                return future.result()
            client.remove_pending_request(future)
            if self._session() != asked:
                raise StaleCommandError(f"the arm was restarted while it was asked for {what}")
            left_s, patience_s = left_s - wait_s, 2 * patience_s
        raise StaleCommandError(f"waited {timeout_s:.0f} s for {what}; is the arm node running?")

"""The rollout's connection to arm and gate: whether they are there, which process answers, whether the gate is open.

A killed arm or gate comes back as another process with topics of its own; nothing is sent until both have found each
other again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from gymnast_core.errors import EstopLatchedError, SafetyError, StaleCommandError
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import ArmDescription
from gymnast_ros.nodes.arm_services import ArmServices
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.marked import listen_json
from gymnast_ros.nodes.runtime import own_name

GATE_SILENCE_S = 3.0
"""The gate reports its state twice a second."""
GATE_NEWS_S = 0.6
REARM_NEWS_S = 0.3
"""How late the news of a re-arming may be."""
CLOSED_STATES = ("estop", "stopped", "disarmed")


class ArmLink:
    """A node of its own, spun in the thread of the caller, so that a step costs no hand-over between threads.

    Args:
        keyring: of the graph.
        restarted: called when another process of the arm has described itself; its stamps begin anew.
        **node: passed to the node (namespace, context, ...).
    """

    def __init__(self, keyring: Keyring, restarted: Callable[[], None], **node: Any) -> None:
        self.node = Node(**own_name("rollout_env"), start_parameter_services=False, enable_rosout=False, **node)
        self._executor = SingleThreadedExecutor(context=self.node.context)
        self._executor.add_node(self.node)
        self._keyring, self._restarted = keyring, restarted
        self._description: dict[str, Any] | None = None
        self._gate: dict[str, Any] = {}
        self._session = 0
        self._parts: Sequence[str] = ()
        self._heard: Callable[[], bool] = lambda: False
        self._services = ArmServices(self.node, self.spins_until, lambda: self.description.session, keyring)
        listen(self.node, String, topics.DESCRIPTION, self._on_description, topics.LATCHED)
        self._gate_heard = listen_json(self.node, keyring, topics.GATE_STATUS, self._on_gate, topics.LATCHED)

    @property
    def description(self) -> ArmDescription:
        """What the arm's present process promises.

        Raises:
            StaleCommandError: there was none yet.
        """
        if self._description is None:
            raise StaleCommandError("no arm/description; is an arm node running?")
        return ArmDescription.from_json(self._description)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()

    def meet(self, timeout_s: float) -> ArmDescription:
        """Wait until arm and gate have spoken.

        Raises:
            StaleCommandError: one of them did not.
        """
        self._spin_until(lambda: self._description is not None, timeout_s, "arm/description; is an arm node running?")
        self._spin_until(lambda: bool(self._gate), timeout_s, "command_gate/status; is the gate running?")
        self._session = self.description.session
        return self.description

    def await_matches(self, parts: Sequence[str], heard: Callable[[], bool], timeout_s: float) -> None:
        """Wait until nothing that will be published can miss us, and no command of ours the arm.

        Args:
            parts: topics of the arm that have to be there; remembered, like `heard`, for the arm's next process.
            heard: whether the gate subscribes to our commands.
            timeout_s: longest wait for each.

        Raises:
            StaleCommandError: something did not appear.
        """
        self._parts, self._heard, node = parts, heard, self.node
        wanted = [*parts, topics.ARM_COMMAND]
        self._spin_until(
            lambda: (
                all(node.count_publishers(node.resolve_topic_name(name)) for name in wanted)
                and heard()
                and self._services.ready()
            ),
            timeout_s,
            "arm, cameras and gate to appear",
        )
        self._spin_until(self._gate_hears_arm, timeout_s, "the gate to hear the arm; is the arm active?")

    def renew(self, timeout_s: float) -> None:
        """A restarted arm or gate has topics of its own, which have to be found before an episode begins.

        Raises:
            StaleCommandError: they are not there, or the gate is silent.
            EstopLatchedError: the gate is closed.
        """
        self.spin(0.0)
        session = self.description.session
        if session != self._session or not self._gate_hears_arm():
            self.await_matches(self._parts, self._heard, timeout_s)
            self._session = session
        # the news that an operator re-armed may still be on its way; a gate that is silent is no open one
        self.spins_until(lambda: self._gate.get("state") not in CLOSED_STATES, REARM_NEWS_S)
        if not self.spins_until(lambda: self._gate_silence_s() < GATE_SILENCE_S, timeout_s):
            raise StaleCommandError(f"the gate has said nothing for {self._gate_silence_s():.1f} s; is it running?")
        self.check_gate()

    def configure(self, settings: Mapping[str, object]) -> None:
        """Set parameters of the arm; see ArmServices.configure."""
        self._services.configure(settings)

    def reset(self, timeout_s: float) -> int:
        """Ask for a new episode; returns the stamp of its first observation [ns].

        Raises:
            EstopLatchedError: the gate is closed.
            SafetyError: the arm refuses or does not answer.
        """
        try:
            return self._services.reset(timeout_s, self.description.reset_s)
        except SafetyError:
            self.spins_until(lambda: self._gate.get("state") in CLOSED_STATES, GATE_NEWS_S)
            self.check_gate()  # the arm saw a stop whose news was still on its way to us
            raise

    def check_gate(self) -> None:
        """Return if the gate is open.

        Raises:
            EstopLatchedError: it is closed.
        """
        if self._gate.get("state") in CLOSED_STATES:
            raise EstopLatchedError(f"gate {self._gate['state']}: {self._gate['reason']}; re-arm it")

    def check_session(self) -> None:
        """Return if the arm's process is the one that the episode began with.

        Raises:
            StaleCommandError: it was restarted.
        """
        if self.description.session != self._session:
            raise StaleCommandError("the arm was restarted in the middle of the episode")

    def spin(self, timeout_s: float) -> None:
        """Take in one message, if there is one in time."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def spins_until(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Take in messages until a condition holds; returns whether it does."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self.spin(min(left_s, 0.05))
        return True

    def _on_description(self, message: String) -> None:
        before, self._description = self._description, messages.from_json(message)
        if before is not None and before.get("session") != self._description.get("session"):
            self._restarted()

    def _on_gate(self, status: dict[str, object]) -> None:
        self._gate = status

    def _gate_hears_arm(self) -> bool:
        """The gate, possibly a new one, has found the arm that we know, possibly a new one."""
        return bool(self._gate.get("arm") == self.description.session)

    def _gate_silence_s(self) -> float:
        return (time.monotonic_ns() - self._gate_heard.sent_ns) / 1e9

    def _spin_until(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        if not self.spins_until(ready, timeout_s):
            raise StaleCommandError(f"waited too long for {what}")

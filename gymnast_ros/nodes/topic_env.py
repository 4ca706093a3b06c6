"""The arm over topics as a gymnast_core.env.Env: one more world to run an episode in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import EpisodeOverError, EstopLatchedError, SafetyError, StaleCommandError
from gymnast_core.spec import WIDOWX_250S, EnvSpec
from gymnast_core.types import ByteArray, FloatArray, Observation, StepResult
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import EXECUTED_NAMES, SILENCE, ArmDescription

CLOSED_STATES = ("estop", "stopped", "disarmed")
MAX_SILENCE_S = 1.0
"""How long the arm may hear no command although one is sent every step: then the gate is gone, not merely slow."""

CONFIGURE_ATTEMPTS, CONFIGURE_RESEND_S = 8, 1.0


class TopicEnv:
    """B = 1: publishes commands for the gate, waits for the observation that follows.

    It spins a node of its own in the thread that calls it, so that a step costs no hand-over between threads.
    `seed` chooses the start state where the arm is simulated; on a real arm it is recorded and otherwise ignored.

    Args:
        step_timeout_s: longest wait for the observation after a command; then the arm or the gate is lost.
        reset_timeout_s: longest reset (a real arm moves to neutral).
        connect_timeout_s: longest wait for arm and gate at first.
        **node: passed to the node (namespace, context, ...).
    """

    def __init__(
        self,
        *,
        step_timeout_s: float = 5.0,
        reset_timeout_s: float = 60.0,
        connect_timeout_s: float = 20.0,
        scene: str = "standard",
        **node: Any,
    ) -> None:
        self.scene = scene
        self._step_timeout_s, self._reset_timeout_s = step_timeout_s, reset_timeout_s
        self._node = Node("rollout_env", start_parameter_services=False, enable_rosout=False, **node)
        self._executor = SingleThreadedExecutor(context=self._node.context)
        self._executor.add_node(self._node)
        self._inbox = _Inbox()
        self._commands = self._node.create_publisher(JointState, topics.POLICY_COMMAND, topics.STREAM)
        self._set_arm = self._node.create_client(SetParameters, f"{topics.ARM_NODE}/set_parameters")
        self._reset_arm = self._node.create_client(Trigger, topics.RESET)
        self._arm_settings: dict[str, Any] = {}
        self._stamp_ns, self._start_ns = -1, 0
        self._result: StepResult | None = None
        self.truth: dict[str, Any] = {}
        self.executed_source = ""
        self._silent_steps = 0
        try:
            self._spec = self._connect(connect_timeout_s)
        except SafetyError:
            self.close()
            raise

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names, as the arm describes itself."""
        return self._spec

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Ask the arm for a new episode; see gymnast_core.env.Env.reset.

        Raises:
            SafetyError: the arm refuses or does not answer, or the gate is closed.
        """
        row = instructions_for(instruction, 1)[0]
        self._result = None
        self._check_description()
        self._await_open_gate()
        self._configure({"instruction": row, "seed": int(seed), "scene": self.scene})
        response = self._call(self._reset_arm, Trigger.Request(), self._reset_timeout_s, "arm/reset")
        if not response.success:
            raise SafetyError(f"the arm refused to reset: {response.message}")
        self._inbox.forget_before(stamp_ns := int(json.loads(response.message)["stamp_ns"]))
        # Simulated time runs on over all episodes on the wire; an episode's own time starts at 0, as in process.
        self._start_ns = stamp_ns if self._describe().simulated else 0
        observation = self._observe(lambda stamp: stamp >= stamp_ns)
        nothing = np.zeros(1, np.bool_)
        self._result = StepResult(observation, nothing, nothing, np.zeros((1, 7), np.float32))
        self._silent_steps = 0
        return observation

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action through the gate; see gymnast_core.env.Env.step.

        Raises:
            EstopLatchedError: the gate is closed.
            StaleCommandError: no observation followed in time: arm, camera or gate are gone.
        """
        checked_action(action_BA, 1)
        if self._result is None or self._result.done_B.all():
            raise EpisodeOverError("the episode is over or was never started; call reset() first")
        self._check_gate()
        before_ns = self._stamp_ns
        self._commands.publish(messages.to_action(action_BA[0], before_ns))
        observation = self._observe(lambda stamp: stamp > before_ns)
        self._result = self._ended(observation)
        self._silent_steps = self._silent_steps + 1 if self.executed_source == SILENCE else 0
        if self._silent_steps >= max(2, MAX_SILENCE_S * self._describe().control_hz):
            raise StaleCommandError(
                f"the arm heard none of the last {self._silent_steps} commands; is the gate running?"
            )
        return self._result

    def abandon(self) -> None:
        """Leave the running episode; only reset() may follow."""
        self._result = None

    def close(self) -> None:
        """Leave the graph; safe to call twice."""
        if self._node is not None:
            self._executor.shutdown()
            self._node.destroy_node()
            self._node = None
        self._result = None

    @property
    def gate_status(self) -> Mapping[str, Any]:
        """The gate's last latched status."""
        return self._inbox.gate

    def _connect(self, timeout_s: float) -> EnvSpec:
        node, inbox = self._node, self._inbox
        node.create_subscription(String, topics.DESCRIPTION, inbox.on_description, topics.LATCHED)
        node.create_subscription(String, topics.GATE_STATUS, inbox.on_gate, topics.LATCHED)
        node.create_subscription(JointState, topics.PROPRIOCEPTION, partial(inbox.on_named, "proprio"), topics.STREAM)
        node.create_subscription(JointState, topics.EXECUTED, partial(inbox.on_named, "executed"), topics.STREAM)
        self._spin_until(lambda: inbox.description is not None, timeout_s, "arm/description; is an arm node running?")
        self._spin_until(lambda: bool(inbox.gate), timeout_s, "command_gate/status; is the gate running?")
        description = self._describe()
        self._session = description.session
        inbox.expect(description.cameras, description.simulated)
        for camera in description.cameras:
            node.create_subscription(Image, topics.image_topic(camera), partial(inbox.on_image, camera), topics.STREAM)
        if description.simulated:
            node.create_subscription(String, topics.TRUTH, inbox.on_truth, topics.STREAM)
        self._await_matches(timeout_s)
        return EnvSpec(
            1,
            description.cameras,
            description.image_height,
            description.image_width,
            description.max_steps,
            WIDOWX_250S,
        )

    def _await_matches(self, timeout_s: float) -> None:
        """Wait until nothing that will be published can miss us."""
        node, cameras = self._node, self._describe().cameras
        wanted = [topics.PROPRIOCEPTION, topics.EXECUTED, topics.ARM_COMMAND, *map(topics.image_topic, cameras)]
        self._spin_until(
            lambda: (
                all(node.count_publishers(node.resolve_topic_name(name)) for name in wanted)
                and self._commands.get_subscription_count() > 0
                and self._set_arm.service_is_ready()
                and self._reset_arm.service_is_ready()
            ),
            timeout_s,
            "arm, cameras and gate to appear",
        )

    def _describe(self) -> ArmDescription:
        if self._inbox.description is None:
            raise StaleCommandError("no arm/description; is an arm node running?")
        return ArmDescription.from_json(self._inbox.description)

    def _check_description(self) -> None:
        """A restarted arm forgot what it was told."""
        self._executor.spin_once(timeout_sec=0.0)
        session = self._describe().session
        if session != self._session:
            self._session, self._arm_settings = session, {}
            self._await_matches(self._step_timeout_s)

    def _configure(self, settings: Mapping[str, Any]) -> None:
        changed = {name: value for name, value in settings.items() if self._arm_settings.get(name) != value}
        if not changed:
            return
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in changed.items()]
        results = self._call_until_answered(self._set_arm, request, "the arm's parameters").results
        reasons = [result.reason for result in results if not result.successful]
        if reasons:
            raise SafetyError(f"the arm refused {changed}: {'; '.join(reasons)}")
        self._arm_settings.update(changed)

    def _call_until_answered(self, client: Any, request: Any, what: str) -> Any:
        """Repeat what may be repeated: for a while a killed arm's service still counts as there and hears nothing."""
        for _ in range(CONFIGURE_ATTEMPTS - 1):
            try:
                return self._call(client, request, CONFIGURE_RESEND_S, what)
            except StaleCommandError:
                continue
        return self._call(client, request, CONFIGURE_RESEND_S, what)

    def _call(self, client: Any, request: Any, timeout_s: float, what: str) -> Any:
        future = client.call_async(request)
        try:
            self._spin_until(future.done, timeout_s, what)
        except SafetyError:
            client.remove_pending_request(future)
            raise
        return future.result()

    def _await_open_gate(self, patience_s: float = 0.3) -> None:
        """The news that an operator re-armed may still be on its way."""
        deadline = time.monotonic() + patience_s
        while self._inbox.gate.get("state") in CLOSED_STATES and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)
        self._check_gate()

    def _check_gate(self) -> None:
        if self._inbox.gate.get("state") in CLOSED_STATES:
            raise EstopLatchedError(f"gate {self._inbox.gate['state']}: {self._inbox.gate['reason']}; re-arm it")

    def _observe(self, wanted: Callable[[int], bool]) -> Observation:
        inbox = self._inbox
        deadline = time.monotonic() + self._step_timeout_s
        while (complete := inbox.complete(wanted)) is None:
            self._spin_once(deadline, "the next observation; arm, camera or gate may be gone")
            self._check_gate()
        while (later := inbox.after_a_rest(complete)) is not None:
            complete = later
            self._silent_steps += 1
        self._stamp_ns = complete
        moment = inbox.take(complete)
        self.truth = moment.get("truth", {})
        self._moment = moment
        return Observation(
            {camera: moment[f"image:{camera}"][None] for camera in self._describe().cameras},
            messages.from_named(moment["proprio"], topics.PROPRIO_NAMES)[None],
            np.array([complete - self._start_ns], np.int64),
        )

    def _ended(self, observation: Observation) -> StepResult:
        executed = self._moment["executed"]
        values = messages.from_named(executed, EXECUTED_NAMES)
        self.executed_source = executed.header.frame_id
        return StepResult(observation, values[None, 7] > 0.5, values[None, 8] > 0.5, values[None, :7])

    def _spin_until(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            self._spin_once(deadline, what)

    def _spin_once(self, deadline: float, what: str) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise StaleCommandError(f"waited too long for {what}")
        self._executor.spin_once(timeout_sec=min(left_s, 0.05))


class _Inbox:
    """Gathers the messages of one moment by their stamp."""

    def __init__(self) -> None:
        self.description: dict[str, Any] | None = None
        self.gate: dict[str, Any] = {}
        self._moments: dict[int, dict[str, Any]] = {}
        self._parts: frozenset[str] = frozenset()

    def expect(self, cameras: Sequence[str], truth: bool) -> None:
        """Name the parts that make a moment complete."""
        parts = {"proprio", "executed", *(f"image:{camera}" for camera in cameras)}
        self._parts = frozenset(parts | {"truth"} if truth else parts)

    def on_description(self, message: String) -> None:
        self.description = messages.from_json(message)

    def on_gate(self, message: String) -> None:
        self.gate = messages.from_json(message)

    def on_named(self, part: str, message: JointState) -> None:
        self._put(messages.to_ns(message.header.stamp), part, message)

    def on_image(self, camera: str, message: Image) -> None:
        image: ByteArray = messages.from_image(message)
        self._put(messages.to_ns(message.header.stamp), f"image:{camera}", image)

    def on_truth(self, message: String) -> None:
        truth = messages.from_json(message)
        self._put(int(truth["stamp_ns"]), "truth", truth)

    def complete(self, wanted: Callable[[int], bool]) -> int | None:
        """The first complete moment that is wanted."""
        for stamp_ns in sorted(self._moments):
            if wanted(stamp_ns) and self._parts <= self._moments[stamp_ns].keys():
                return stamp_ns
        return None

    def after_a_rest(self, stamp_ns: int) -> int | None:
        """The complete moment after this one, if the arm only waited for us until this one: then answer the newer."""
        if self._moments[stamp_ns]["executed"].header.frame_id != SILENCE:
            return None
        return self.complete(lambda later: later > stamp_ns)

    def take(self, stamp_ns: int) -> dict[str, Any]:
        """Remove and return a moment; older ones are dropped."""
        moment = self._moments.pop(stamp_ns)
        self.forget_before(stamp_ns)
        return moment

    def forget_before(self, stamp_ns: int) -> None:
        """Drop what is older."""
        self._moments = {stamp: moment for stamp, moment in self._moments.items() if stamp >= stamp_ns}

    def _put(self, stamp_ns: int, part: str, value: Any) -> None:
        self._moments.setdefault(stamp_ns, {})[part] = value
        while len(self._moments) > 32:
            del self._moments[min(self._moments)]

"""The arm over topics as a gymnast_core.env.Env: one more world to run an episode in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import EpisodeOverError, EstopLatchedError, SafetyError, StaleCommandError
from gymnast_core.spec import WIDOWX_250S, EnvSpec
from gymnast_core.types import FloatArray, Observation, StepResult
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import EXECUTED_NAMES, SILENCE, ArmDescription
from gymnast_ros.nodes.arm_services import ArmServices
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.inbox import Inbox
from gymnast_ros.nodes.marked import MarkedJoints, listen_json
from gymnast_ros.nodes.runtime import own_name

GATE_SILENCE_S = 3.0
"""The gate says how it is twice a second."""
GATE_NEWS_S = 0.6
CLOSED_STATES = ("estop", "stopped", "disarmed")
MAX_SILENCE_S = 1.0
"""How long the arm may hear no command although one is sent every step: then the gate is gone, not merely slow."""


class TopicEnv:
    """B = 1: publishes commands for the gate, waits for the observation that follows.

    It spins a node of its own in the thread that calls it, so that a step costs no hand-over between threads.
    `seed` chooses the start state where the arm is simulated; on a real arm it is recorded and otherwise ignored.

    Args:
        step_timeout_s: longest wait for the observation after a command; then the arm or the gate is lost.
        reset_timeout_s: longest reset (a real arm moves to neutral).
        connect_timeout_s: longest wait for arm and gate at first, and for one that was restarted.
        keyring: of the graph; None takes what this process's starter handed down.
        **node: passed to the node (namespace, context, ...).
    """

    def __init__(
        self,
        *,
        step_timeout_s: float = 5.0,
        reset_timeout_s: float = 60.0,
        connect_timeout_s: float = 20.0,
        scene: str = "standard",
        keyring: Keyring | None = None,
        **node: Any,
    ) -> None:
        self.scene = scene
        self._step_timeout_s, self._reset_timeout_s = step_timeout_s, reset_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._node = Node(**own_name("rollout_env"), start_parameter_services=False, enable_rosout=False, **node)
        self._executor = SingleThreadedExecutor(context=self._node.context)
        self._executor.add_node(self._node)
        self._inbox = Inbox()
        self._keyring = keyring or Keyring.of_environment()
        self._commands = MarkedJoints(self._node, self._keyring, topics.POLICY_COMMAND, topics.STREAM)
        self._services = ArmServices(self._node, self._spins_until, lambda: self._describe().session, self._keyring)
        self._stamp_ns, self._start_ns = -1, 0
        self._result: StepResult | None = None
        self.truth: dict[str, Any] = {}
        self.joints = JointState()
        """Measured with the newest observation: position [rad] and, where the arm has it, velocity [rad/s]."""
        self.notes: dict[str, Any] = {}
        """A real arm's of the newest observation: captured_ns of each camera, and the fault that ended the episode."""
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
        self._services.configure({"instruction": row, "seed": int(seed), "scene": self.scene})
        stamp_ns = self._ask_for_reset()
        self._inbox.forget_before(stamp_ns)
        # Simulated time runs on over all episodes on the wire; an episode's own time starts at 0, as in process.
        self._start_ns = stamp_ns if self._describe().simulated else 0
        observation = self._observe(lambda stamp: stamp >= stamp_ns)
        nothing = np.zeros(1, np.bool_)
        self._result = StepResult(observation, nothing, nothing, np.zeros((1, 7), np.float32))
        self._silent_steps = 0
        return observation

    def _ask_for_reset(self) -> int:
        try:
            return self._services.reset(self._reset_timeout_s, self._describe().reset_s)
        except SafetyError:
            self._spins_until(lambda: self._inbox.gate.get("state") in CLOSED_STATES, GATE_NEWS_S)
            self._check_gate()  # the arm saw a stop whose news was still on its way to us
            raise

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

    def _connect(self, timeout_s: float) -> EnvSpec:
        node, inbox = self._node, self._inbox
        listen(node, String, topics.DESCRIPTION, inbox.on_description, topics.LATCHED)
        self._gate_heard = listen_json(node, self._keyring, topics.GATE_STATUS, inbox.on_gate, topics.LATCHED)
        listen(node, JointState, topics.PROPRIOCEPTION, partial(inbox.on_named, "proprio"), topics.STREAM)
        listen(node, JointState, topics.JOINT_STATES, inbox.on_joints, topics.STREAM)
        listen(node, JointState, topics.EXECUTED, partial(inbox.on_named, "executed"), topics.STREAM)
        self._spin_until(lambda: inbox.description is not None, timeout_s, "arm/description; is an arm node running?")
        self._spin_until(lambda: bool(inbox.gate), timeout_s, "command_gate/status; is the gate running?")
        description = self._describe()
        self._session = description.session
        inbox.expect(description.cameras, description.simulated)
        for camera in description.cameras:
            listen(node, Image, topics.image_topic(camera), partial(inbox.on_image, camera), topics.STREAM)
        if description.simulated:
            listen(node, String, topics.TRUTH, partial(inbox.on_json, "truth"), topics.STREAM)
        else:
            listen(node, String, topics.NOTES, partial(inbox.on_json, "notes"), topics.STREAM)
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
        """Wait until nothing that will be published can miss us, and no command of ours the arm."""
        node, cameras = self._node, self._describe().cameras
        wanted = [topics.PROPRIOCEPTION, topics.JOINT_STATES, topics.EXECUTED, topics.ARM_COMMAND]
        wanted += [*map(topics.image_topic, cameras), topics.TRUTH if self._describe().simulated else topics.NOTES]
        self._spin_until(
            lambda: (
                all(node.count_publishers(node.resolve_topic_name(name)) for name in wanted)
                and self._commands.publisher.get_subscription_count() > 0
                and self._services.ready()
            ),
            timeout_s,
            "arm, cameras and gate to appear",
        )

        self._spin_until(self._gate_hears_arm, timeout_s, "the gate to hear the arm; is the arm active?")

    def _gate_hears_arm(self) -> bool:
        """The gate, possibly a new one, has found the arm that we know, possibly a new one."""
        return bool(self._inbox.gate.get("arm") == self._describe().session)

    def _check_description(self) -> None:
        """A restarted arm or gate has topics of its own, which have to be found first."""
        self._executor.spin_once(timeout_sec=0.0)
        session = self._describe().session
        if session != self._session or not self._gate_hears_arm():
            self._await_matches(self._connect_timeout_s)
            self._session = session

    def _describe(self) -> ArmDescription:
        if self._inbox.description is None:
            raise StaleCommandError("no arm/description; is an arm node running?")
        return ArmDescription.from_json(self._inbox.description)

    def _check_session(self) -> None:
        if self._describe().session != self._session:
            raise StaleCommandError("the arm was restarted in the middle of the episode")

    def _await_open_gate(self, patience_s: float = 0.3) -> None:
        """The news that an operator re-armed may still be on its way; a gate that says nothing is no open one."""
        self._spins_until(lambda: self._inbox.gate.get("state") not in CLOSED_STATES, patience_s)
        if not self._spins_until(lambda: self._gate_silence_s() < GATE_SILENCE_S, self._connect_timeout_s):
            raise StaleCommandError(f"the gate has said nothing for {self._gate_silence_s():.1f} s; is it running?")
        self._check_gate()

    def _gate_silence_s(self) -> float:
        return (time.monotonic_ns() - self._gate_heard.sent_ns) / 1e9

    def _check_gate(self) -> None:
        if self._inbox.gate.get("state") in CLOSED_STATES:
            raise EstopLatchedError(f"gate {self._inbox.gate['state']}: {self._inbox.gate['reason']}; re-arm it")

    def _observe(self, wanted: Callable[[int], bool]) -> Observation:
        inbox = self._inbox
        deadline = time.monotonic() + self._step_timeout_s
        while (complete := inbox.complete(wanted)) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise StaleCommandError(
                    f"no observation for {self._step_timeout_s:.1f} s ({inbox.missing(wanted)} did not come); "
                    "arm, camera or gate may be gone"
                )
            self._executor.spin_once(timeout_sec=min(left_s, 0.05))
            self._check_gate()
            self._check_session()
        while (later := inbox.after_a_rest(complete)) is not None:
            complete = later
            self._silent_steps += 1
        self._stamp_ns = complete
        moment = inbox.take(complete)
        self.truth, self.notes, self.joints = moment.get("truth", {}), moment.get("notes", {}), moment["joints"]
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
        if not self._spins_until(ready, timeout_s):
            raise StaleCommandError(f"waited too long for {what}")

    def _spins_until(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not ready():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left_s, 0.05))
        return True

"""The arm over topics as a gymnast_core.env.Env: one more world to run an episode in.

What an arm publishes of one moment arrives on several topics and shares a stamp: it is put together here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import ConfigError, EpisodeOverError, SafetyError, StaleCommandError
from gymnast_core.spec import BASE_FRAME, JOINT_NAMES, WIDOWX_250S, EnvSpec, RobotSpec
from gymnast_core.types import ByteArray, FloatArray, Observation, StepResult
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_link import ArmLink
from gymnast_ros.nodes.arm_port import EXECUTED_NAMES, SILENCE, ArmDescription
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.marked import MarkedJoints

MAX_SILENCE_S = 1.0
"""How long the arm may hear no command although one is sent every step: then the gate is gone, not merely slow."""
MOMENTS = 32
"""Kept at most; older ones are dropped."""


class TopicEnv:
    """B = 1: publishes commands for the gate, waits for the observation that follows.

    `seed` chooses the start state where the arm is simulated; on a real arm it is recorded and otherwise ignored.

    Args:
        step_timeout_s: longest wait for the observation after a command; then the arm or the gate is lost.
        reset_timeout_s: longest reset (a real arm moves to neutral).
        connect_timeout_s: longest wait for arm and gate at first, and for one that was restarted.
        robot: which arm it must be.
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
        robot: RobotSpec = WIDOWX_250S,
        **node: Any,
    ) -> None:
        self._robot = robot
        self.scene, self.keep_scene = scene, False
        self._step_timeout_s, self._reset_timeout_s = step_timeout_s, reset_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._moments = _Moments()
        keyring = keyring or Keyring.of_environment()
        self._link: ArmLink | None = ArmLink(keyring, self._moments.clear, **node)
        self._commands = MarkedJoints(self._link.node, keyring, topics.POLICY_COMMAND, topics.STREAM)
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
            self._spec = self._connect(self._link, connect_timeout_s)
        except (SafetyError, ConfigError):
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
        row, link = instructions_for(instruction, 1)[0], self._arm()
        self._result = None
        link.renew(self._connect_timeout_s)
        asked = {"instruction": row, "seed": int(seed), "scene": self.scene, "keep_scene": self.keep_scene}
        link.configure(asked)
        stamp_ns = link.reset(self._reset_timeout_s)
        self._moments.forget_before(stamp_ns)
        # Simulated time runs on over all episodes on the wire; an episode's own time starts at 0, as in process.
        self._start_ns = stamp_ns if link.description.simulated else 0
        observation, _ = self._observe(lambda stamp: stamp >= stamp_ns)
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
        link, before_ns = self._arm(), self._stamp_ns
        link.check_gate()
        self._commands.publish(messages.to_action(action_BA[0], before_ns))
        observation, executed = self._observe(lambda stamp: stamp > before_ns)
        values, self.executed_source = messages.from_named(executed, EXECUTED_NAMES), executed.header.frame_id
        self._result = StepResult(observation, values[None, 7] > 0.5, values[None, 8] > 0.5, values[None, :7])
        self._silent_steps = self._silent_steps + 1 if self.executed_source == SILENCE else 0
        if self._silent_steps >= max(2, MAX_SILENCE_S * link.description.control_hz):
            raise StaleCommandError(
                f"the arm heard none of the last {self._silent_steps} commands; is the gate running?"
            )
        return self._result

    def abandon(self) -> None:
        """Leave the running episode; only reset() may follow."""
        self._result = None

    def close(self) -> None:
        """Leave the graph; safe to call twice."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._result = None

    def _arm(self) -> ArmLink:
        if self._link is None:
            raise EpisodeOverError("this environment was closed; make another one")
        return self._link

    def _connect(self, link: ArmLink, timeout_s: float) -> EnvSpec:
        """Hear every part of the arm's moments, and wait until they and the gate are there."""
        node, moments = link.node, self._moments
        listen(node, JointState, topics.PROPRIOCEPTION, partial(moments.on_named, "proprio"), topics.STREAM)
        listen(node, JointState, topics.JOINT_STATES, moments.on_joints, topics.STREAM)
        listen(node, JointState, topics.EXECUTED, partial(moments.on_named, "executed"), topics.STREAM)
        described = link.meet(timeout_s)
        if described.robot != self._robot.name:
            raise ConfigError(
                f"the arm is a {described.robot}, and this graph is for a {self._robot.name}: its limits are not that "
                "arm's. Start it with the other's name (robot, robot_model)"
            )
        for camera in described.cameras:
            listen(node, Image, topics.image_topic(camera), partial(moments.on_image, camera), topics.STREAM)
        beside, topic = ("truth", topics.TRUTH) if described.simulated else ("notes", topics.NOTES)
        listen(node, String, topic, partial(moments.on_json, beside), topics.STREAM)
        moments.expect(described.cameras, beside)
        images = map(topics.image_topic, described.cameras)
        parts = (topics.PROPRIOCEPTION, topics.JOINT_STATES, topics.EXECUTED, *images, topic)
        link.await_matches(parts, lambda: self._commands.publisher.get_subscription_count() > 0, timeout_s)
        return _spec_of(described, self._robot)

    def _observe(self, wanted: Callable[[int], bool]) -> tuple[Observation, JointState]:
        """Wait for the next complete moment; returns it, and what the arm executed before it."""
        link, moments = self._arm(), self._moments
        deadline = time.monotonic() + self._step_timeout_s
        while (complete := moments.complete(wanted)) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise StaleCommandError(
                    f"no observation for {self._step_timeout_s:.1f} s ({moments.missing(wanted)} did not come); "
                    "arm, camera or gate may be gone"
                )
            link.spin(min(left_s, 0.05))
            link.check_gate()
            link.check_session()
        while (later := moments.after_a_rest(complete)) is not None:
            complete = later
            self._silent_steps += 1
        self._stamp_ns = complete
        moment = moments.take(complete)
        self.truth, self.notes, self.joints = moment.get("truth", {}), moment.get("notes", {}), moment["joints"]
        observation = Observation(
            {camera: moment[f"image:{camera}"][None] for camera in link.description.cameras},
            messages.from_named(moment["proprio"], topics.PROPRIO_NAMES)[None],
            np.array([complete - self._start_ns], np.int64),
        )
        return observation, moment["executed"]


class _Moments:
    """What an arm published, by its stamp."""

    def __init__(self) -> None:
        self._moments: dict[int, dict[str, Any]] = {}
        self._parts: frozenset[str] = frozenset()

    def expect(self, cameras: Sequence[str], beside: str) -> None:
        """Name the parts that make a moment complete."""
        images = (f"image:{camera}" for camera in cameras)
        self._parts = frozenset({"proprio", "joints", "executed", beside, *images})

    def clear(self) -> None:
        """Forget all: a restarted arm's stamps begin anew."""
        self._moments.clear()

    def on_named(self, part: str, message: JointState) -> None:
        """Take in a part that is named values."""
        self._put(messages.to_ns(message.header.stamp), part, message)

    def on_image(self, camera: str, message: Image) -> None:
        """Take in a frame."""
        image: ByteArray = messages.from_image(message)
        self._put(messages.to_ns(message.header.stamp), f"image:{camera}", image)

    def on_joints(self, message: JointState) -> None:
        """Take in the arm's joints; others publish joint_states, too, and name more than these."""
        if tuple(message.name) == JOINT_NAMES and message.header.frame_id == BASE_FRAME:
            self.on_named("joints", message)

    def on_json(self, part: str, message: String) -> None:
        """Take in a part that is JSON with a stamp: the simulator's truth, a real arm's notes."""
        value = messages.from_json(message)
        self._put(int(value["stamp_ns"]), part, value)

    def complete(self, wanted: Callable[[int], bool]) -> int | None:
        """The first complete moment that is wanted."""
        for stamp_ns in sorted(self._moments):
            if wanted(stamp_ns) and self._parts <= self._moments[stamp_ns].keys():
                return stamp_ns
        return None

    def missing(self, wanted: Callable[[int], bool]) -> str:
        """What the newest moment that is wanted still lacks, for people; everything when there is none."""
        begun = [stamp_ns for stamp_ns in self._moments if wanted(stamp_ns)]
        have = self._moments[max(begun)].keys() if begun else ()
        return ", ".join(sorted(self._parts - set(have)))

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
        while len(self._moments) > MOMENTS:
            del self._moments[min(self._moments)]


def _spec_of(described: ArmDescription, robot: RobotSpec) -> EnvSpec:
    return EnvSpec(
        1,
        described.cameras,
        described.image_height,
        described.image_width,
        described.max_steps,
        robot.at(described.control_hz),
    )

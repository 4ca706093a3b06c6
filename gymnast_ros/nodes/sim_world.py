"""The simulated arm and camera as a node.

In lockstep it waits for every command, so a graph on a slow machine does what a fast one does. Paced it lives at its
control rate like a real arm: a command that does not come in time is a step in which it stays where it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.arm.command_gate import ArmState
from gymnast_core.arm.envelope import hold_action
from gymnast_core.arm.targets import EndEffectorTarget
from gymnast_core.env import Env
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.extensions import WORLDS, extension
from gymnast_core.spec import RobotSpec
from gymnast_core.types import FloatArray, Observation, StepResult
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import MAX_AGE_S, SESSION, SILENCE, ArmDescription, ArmPort, ArmReport
from gymnast_ros.nodes.gate_parameters import declare_rate
from gymnast_ros.nodes.reset_permit import ResetGuard
from gymnast_ros.nodes.runtime import Diagnostics, run
from gymnast_ros.nodes.settings import NodeSettings, declare_robot

Array = npt.NDArray[np.float64]

RESET_S = 2.0
"""Laying a scene out and rendering it takes a tenth of that on an idle machine."""


class SimulatedWorld(Env, Protocol):
    """What the node needs of the simulator beyond Env, for one row."""

    def succeeded(self) -> bool:
        """Whether the task is done: plays the operator."""
        ...

    def state_digest(self) -> str:
        """Hex digest of the full physics state."""
        ...

    def arm_target(self) -> tuple[EndEffectorTarget, Array]:
        """Commanded pose and its joints (6,)."""
        ...

    def joints(self) -> tuple[Array, Array]:
        """Measured joints (6,) and velocities."""
        ...

    def use_scene(self, name: str) -> None:
        """Look of the next reset."""
        ...


@runtime_checkable
class ShowsReady(Protocol):
    """A world that can play who watches a practising arm."""

    def ready(self) -> list[str]:
        """Tasks that could be begun as things stand, by name."""
        ...


@runtime_checkable
class KeepsScene(Protocol):
    """A world that can begin an episode without laying its scene out anew, as a real arm always does."""

    def rehome(self, instruction: str, /, *, seed: int) -> Observation:
        """Bring the arm home and leave everything else where it is."""
        ...


class SimWorld(Node):  # type: ignore[misc]
    """Owns one World and steps it only when the gate commands; paced, every step of wall clock.

    Args:
        world: what is simulated; None is what the parameter `world` names.
        **node: of rclpy's Node.
    """

    def __init__(self, world: SimulatedWorld | None = None, **node: object) -> None:
        super().__init__(topics.ARM_NODE, **node)
        settings = self._settings = NodeSettings(self)
        robot = declare_robot(settings)
        settings.declare("world", "", "of an installed package, by name; empty is a table with things", read_only=True)
        settings.declare("menagerie", "", "copy of MuJoCo Menagerie, whose arm is drawn; empty draws ours",
                         read_only=True)  # fmt: skip
        declare_rate(settings, robot)
        self._world = world = world or _world_named(
            settings["world"], robot, settings["rate_hz"], settings["menagerie"]
        )
        settings.declare("instruction", "lift the red cube", "task of the next episode", check=_not_blank)
        settings.declare("seed", 0, "start state of the next episode", low=0, high=2**53)
        settings.declare("scene", "standard", "look of the next episode", check=_not_blank)
        settings.declare("keep_scene", False, "the next episode finds everything but the arm where it is now")
        settings.declare("paced", False, "by wall clock, as a real arm; late commands are holds", read_only=True)
        settings.declare("table_height_m", 0.0, "table top in base_link [m], as the gate has it", read_only=True)
        spec = world.spec
        self._port = ArmPort(
            self,
            ArmDescription(
                spec.robot.name, spec.cameras, spec.image_height, spec.image_width, spec.max_steps,
                spec.robot.control_hz, True, RESET_S,
            ),
            self._on_command, spec.robot, table_height_m=settings["table_height_m"],
            max_age_s=2 * robot.step_s if settings["paced"] else MAX_AGE_S,
        )  # fmt: skip
        self._truth = self.create_publisher(String, topics.TRUTH, topics.STREAM)
        self._guard = ResetGuard(settings, Keyring.of_environment())
        self.create_service(Trigger, topics.RESET, self._reset)
        self._offset_ns = self._stamp_ns = 0
        self._pending: tuple[FloatArray, str] | None = None
        self._result: StepResult | None = None
        self._episodes = self._steps = 0
        self._diagnostics = Diagnostics(self, spec.robot.name, self._health)
        # A timer of the executor, not a thread: the renderer's context belongs to the thread that made it.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._paced = bool(settings["paced"])
        self._timer = self.create_timer(spec.robot.step_s, self._tick, clock=steady)
        pace = f"at {spec.robot.control_hz:g} Hz" if self._paced else "as fast as it is commanded"
        self.get_logger().info(f"simulated {spec.robot.name} ready, {pace}")

    def stop(self) -> None:
        """Free the renderer."""
        self._world.close()

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._guard.admits(response):
            return response
        try:
            self._port.check_stopped()
            self._begin()
        except GymnastError as error:
            response.success, response.message = False, str(error)
            return self._guard.spent(response)
        self._timer.reset()  # the first frame gets a whole period, too
        response.success, response.message = True, json.dumps({"stamp_ns": self._stamp_ns})
        return self._guard.spent(response)

    def _begin(self) -> None:
        """Lay the scene out anew and show it."""
        instruction, seed, scene = (self._settings[name] for name in ("instruction", "seed", "scene"))
        self._world.use_scene(scene)
        if self._settings["keep_scene"]:
            observation = self._kept().rehome(instruction, seed=seed)
        else:
            observation = self._world.reset(instruction, seed=seed)
        self._offset_ns = self._stamp_ns + self._world.spec.robot.step_ns - int(observation.time_ns_B[0])
        nothing = np.zeros(1, bool)
        self._result = StepResult(observation, nothing, nothing, np.zeros((1, 7), np.float32))
        self._pending = None
        self._episodes += 1
        self._publish(observation, self._result, "")

    def _kept(self) -> KeepsScene:
        """The world with its scene as it is.

        Raises:
            ConfigError: it has none yet, or cannot keep one.
        """
        if self._result is None:
            raise ConfigError("there is no scene to keep yet: this arm has run no episode")
        if not isinstance(self._world, KeepsScene):
            raise ConfigError(f"world {self._settings['world']!r} has no rehome(), so it cannot keep its scene")
        return self._world

    def _on_command(self, action_A: FloatArray, stamp_ns: int, source: str) -> None:
        if self._result is None or stamp_ns != self._stamp_ns:
            self.get_logger().warning(
                f"command dropped answers_ns={stamp_ns} now_ns={self._stamp_ns}", throttle_duration_sec=5.0
            )
            return
        self._port.check(action_A, *self._world.arm_target())
        if self._paced:
            self._pending = (action_A, source)
        else:
            self._step(action_A, source)

    def _tick(self) -> None:
        """Paced, do what was commanded, or stay: time does not wait. Else publish that the arm is still there."""
        pending, self._pending = self._pending if not self._port.latch.stopped else None, None
        running = self._result is not None and not self._result.done_B.all()
        target, joints_J = self._world.arm_target()
        if self._paced and running:
            self._step(*(pending or (hold_action(target), SILENCE)))
        else:
            state = ArmState(self._stamp_ns, target, joints_J, None, self._episodes, running=running, session=SESSION)
            self._port.publish_state(state)

    def _step(self, action_A: FloatArray, source: str) -> None:
        if self._result is None or self._result.done_B.all():
            return
        self._result = self._world.step(action_A[None])
        self._steps += 1
        self._publish(self._result.observation, self._result, source)

    def _publish(self, observation: Observation, result: StepResult, source: str) -> None:
        self._stamp_ns = self._offset_ns + int(observation.time_ns_B[0])
        target, target_joints_J = self._world.arm_target()
        joints_J, velocity_J = self._world.joints()
        world = self._world
        truth = {
            "stamp_ns": self._stamp_ns, "succeeded": world.succeeded(), "digest": world.state_digest(),
            "ready": world.ready() if isinstance(world, ShowsReady) else [],
        }  # fmt: skip
        self._truth.publish(messages.to_json(truth))
        self._port.publish(
            ArmReport(
                stamp_ns=self._stamp_ns,
                images={name: frames[0] for name, frames in observation.images.items()},
                proprio_P=observation.proprio_BP[0],
                joints_J=joints_J,
                velocity_J=velocity_J,
                target=target,
                target_joints_J=target_joints_J,
                executed_A=result.commanded_BA[0],
                executed_source=source,
                episode=self._episodes,
                terminated=bool(result.terminated_B[0]),
                truncated=bool(result.truncated_B[0]),
            )
        )

    def _health(self) -> tuple[int, str, dict[str, object]]:
        running = self._result is not None and not self._result.done_B.all()
        values = {"episodes": self._episodes, "steps": self._steps, "sim_time_s": self._stamp_ns / 1e9}
        return 0, "episode running" if running else "waiting for a reset", dict(values)


def _not_blank(value: str) -> str:
    return "" if value.strip() else "must not be blank"


def _world_named(name: str, robot: RobotSpec, rate_hz: float, menagerie: str) -> SimulatedWorld:
    if name:
        if menagerie:
            raise ConfigError(f"menagerie draws the WidowX 250s, and world {name!r} is none; leave one of them out")
        world: SimulatedWorld = extension(WORLDS, name)()
        if world.spec.robot.name != robot.name:
            model = world.spec.robot.name
            raise ConfigError(f"world {name!r} has a {model}, not a {robot.name}; start it with robot_model {model}")
        own_hz = world.spec.robot.control_hz
        if own_hz != rate_hz:
            raise ConfigError(f"world {name!r} is commanded at {own_hz:g} Hz, got rate_hz {rate_hz:g}; start with that")
        return world
    from gymnast_ros.sim.simulated_arm import SimulatedArm  # MuJoCo loads only where the simulator runs

    return SimulatedArm(rate_hz=rate_hz, menagerie=Path(menagerie) if menagerie else None, robot=robot)


def main() -> int:
    """Run the node."""
    return run(SimWorld)


if __name__ == "__main__":
    raise SystemExit(main())

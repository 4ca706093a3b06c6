"""The second simulator as a gate: a start under a policy, through the command gate, and how it left the envelope."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from gymnast_core.arm.command_gate import ArmState, Command, CommandGate, GateLimits, GateVerdict
from gymnast_core.env import checked_action
from gymnast_core.errors import EpisodeOverError, PolicyFailedError
from gymnast_core.evaluation.gate_tally import GateAttempt, GateKind
from gymnast_core.json_values import JsonObject
from gymnast_core.policy import Policy
from gymnast_core.rollout import GuardedPolicy, run_episode
from gymnast_core.spec import WIDOWX_250S, EnvSpec, RobotSpec
from gymnast_core.types import FloatArray, Observation, StepResult
from gymnast_ros.sim.bullet.conditions import VARIED, Randomisation
from gymnast_ros.sim.bullet.env import BulletEnv
from gymnast_ros.sim.env import MAX_STEPS
from gymnast_ros.sim.tasks import TASKS

MOST_FORCE_N = 40.0
"""Mean over a control step of what the arm presses with on table, plate and cabinet."""
BACK_AND_FORTH_M = 0.01
"""A move of this length that turns back on the one before is a reversal."""
MOST_REVERSALS = 3
"""In a row; a reach has one where it turns round."""


def arm_limits(robot: RobotSpec) -> GateLimits:
    """Return what a real arm's gate is set to (config/robot_widowx.yaml): tighter at the seams than a simulated one's.

    Args:
        robot: the arm.
    """
    return GateLimits(robot, max_change_m=0.06, max_change_rad=0.3)


class GatedEnv:
    """A simulator behind a command gate, as an arm is: what the gate refuses never moves it.

    Args:
        env: the simulator, which is reset and closed here.
        limits: of the gate; None is those of the simulated arm.
    """

    def __init__(self, env: BulletEnv, limits: GateLimits | None = None) -> None:
        self._env, self._limits = env, limits or arm_limits(env.spec.robot)
        self._gate = CommandGate(self._limits, armed=True)
        self._last: Observation | None = None
        self._moves: list[FloatArray] = []
        self._pressed = False
        self._reversals = self._most_reversals = 0

    @property
    def spec(self) -> EnvSpec:
        """Of the simulator."""
        return self._env.spec

    @property
    def violations(self) -> frozenset[GateKind]:
        """Ways in which the running episode has left the envelope."""
        counts = self._gate.counts
        found: dict[GateKind, bool] = {
            "refused": counts[GateVerdict.HELD.value] + counts[GateVerdict.DROPPED.value] > 0,
            "cut": counts[GateVerdict.LIMITED.value] > 0,
            "pressed": self._pressed,
            "shaken": self._most_reversals >= MOST_REVERSALS,
        }
        return frozenset(kind for kind, left in found.items() if left)

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start an episode with a gate of its own."""
        self._gate = CommandGate(self._limits, armed=True)
        self._moves, self._pressed = [], False
        self._reversals = self._most_reversals = 0
        self._last = self._env.reset(instruction, seed=seed)
        return self._last

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command what the gate makes of an action; a gate that has closed ends the episode."""
        action_BA = checked_action(action_BA, 1)
        if self._last is None:
            raise EpisodeOverError("there is no episode yet; call reset() first")
        stamp_ns = int(self._last.time_ns_B[0])
        target, joints_J = self._env.arm_target()
        self._gate.observe(ArmState(stamp_ns, target, joints_J), stamp_ns)
        decision = self._gate.decide(Command(action_BA[0], stamp_ns), stamp_ns)
        if decision.action_A is None:
            ended = np.ones(1, np.bool_)
            return StepResult(self._last, ended, ~ended, np.zeros_like(action_BA))
        result = self._env.step(decision.action_A[None])
        self._last = result.observation
        self._note(action_BA[0])
        return result

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _note(self, wanted_A: FloatArray) -> None:
        self._pressed |= self._env.strain.force_n > MOST_FORCE_N
        move, before = wanted_A[:3], self._moves[-1] if self._moves else np.zeros(3, np.float32)
        self._moves.append(move)
        long = min(float(np.linalg.norm(move)), float(np.linalg.norm(before))) > BACK_AND_FORTH_M
        turned = long and float(move @ before) < -0.5 * float(np.linalg.norm(move) * np.linalg.norm(before))
        self._reversals = self._reversals + 1 if turned else 0
        self._most_reversals = max(self._most_reversals, self._reversals)


class BulletGate:
    """A gymnast_core.evaluation.gate.GateSimulator: the tasks of the simulated arm, in Bullet, varied.

    An episode lasts as long as in the other simulator and a step more for each that a command may be late by.

    Args:
        randomisation: what is varied.
        own_pictures: let Bullet draw what the policy sees: other looks on top of other physics.
        robot: the arm.
    """

    def __init__(
        self, randomisation: Randomisation = VARIED, *, own_pictures: bool = False, robot: RobotSpec = WIDOWX_250S
    ) -> None:
        self._randomisation, self._own_pictures = randomisation, own_pictures
        self._env = BulletEnv(
            max_steps=MAX_STEPS + randomisation.latency_steps[1], randomisation=randomisation,
            own_pictures=own_pictures, robot=robot,
        )  # fmt: skip
        self._gated = GatedEnv(self._env)

    @property
    def name(self) -> str:
        """Engine and version."""
        return f"pybullet {version('pybullet')}"

    @property
    def tasks(self) -> Sequence[str]:
        """Instructions that policies are trained for."""
        return tuple(task.instruction for task in TASKS.values())

    @property
    def randomisation(self) -> JsonObject:
        """What is varied from start to start, and how far."""
        return {**self._randomisation.to_json(), "pictures": "pybullet" if self._own_pictures else "mujoco"}

    @property
    def env(self) -> BulletEnv:
        """What the arm moves in; for policies that look at the simulator's state."""
        return self._env

    def attempt(self, policy: Policy, task: str, seed: int) -> GateAttempt:
        """Run one episode, greedily; see GateSimulator. A policy that raises has failed, and commanded nothing."""
        try:
            run_episode(self._gated, GuardedPolicy(policy), task, seed=seed)
        except PolicyFailedError:
            return GateAttempt(False, self._gated.violations | {"refused"})
        return GateAttempt(self._env.succeeded(), self._gated.violations)

    def close(self) -> None:
        """Free the simulator."""
        self._gated.close()


def drawn_by_bullet(robot: RobotSpec = WIDOWX_250S) -> BulletGate:
    """The same gate with Bullet's own pictures: entry point bullet_pictures."""
    return BulletGate(own_pictures=True, robot=robot)

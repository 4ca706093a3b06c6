"""The envelope around an arm: what part of a wanted action may pass from where the arm is. No clock, no state, no ROS.

Everything is judged by where the action would lead: step limits, seam to the action before, workspace, joint limits,
joint velocity, clearance from table and arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gymnast_core.clearance import Clearance, clearance_of
from gymnast_core.closed_form import joints_for
from gymnast_core.errors import ConfigError, SafetyError, UnreachableError
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.targets import EndEffectorTarget
from gymnast_core.types import ACTION_DIM, FloatArray

Array = npt.NDArray[np.float64]

_SOLVER_SLACK_RAD = 0.005
"""What the arm's own, iterative solver may add to a joint step (its tolerance is 1 mrad at the gripper)."""


_NARROWER_IF_SMALLER = (
    "workspace_high_m", "max_change_m", "max_change_rad", "max_command_age_ns", "deadman_ns", "max_refusals",
)  # fmt: skip
_NARROWER_IF_LARGER = ("workspace_low_m", "table_height_m", "table_clearance_m", "self_clearance_m")


@dataclass(frozen=True)
class GateLimits:
    """The envelope. Defaults are the simulated WidowX in lockstep; config/widowx.yaml is tighter.

    Attributes:
        spec: step limits, workspace, joint limits and velocity.
        workspace_low_m: lower corner of the task's box; must lie inside the arm's.
        workspace_high_m: upper corner.
        max_change_m: largest change of dx, dy or dz from one step to the next (jerk at chunk seams).
        max_change_rad: the same for rotation.
        table_height_m: of the table top in base_link.
        table_clearance_m: what elbow, wrist and palm keep from it.
        self_clearance_m: what gripper and forearm keep from base and upper arm.
        effort_limit: per joint, same unit as joint_states.effort; beyond it the arm stops. Empty: not checked.
        max_command_age_ns: how much older than the newest observation the answered one may be.
        deadman_ns: longest silence of commands or observations, on the caller's monotonic clock.
        max_refusals: refused commands in a row after which the arm stops until re-armed.
    """

    spec: RobotSpec = WIDOWX_250S
    workspace_low_m: tuple[float, float, float] = WIDOWX_250S.workspace_low_m
    workspace_high_m: tuple[float, float, float] = WIDOWX_250S.workspace_high_m
    max_change_m: float = 0.10
    max_change_rad: float = 0.50
    table_height_m: float = 0.0
    table_clearance_m: float = 0.005
    self_clearance_m: float = 0.005
    effort_limit: tuple[float, ...] = ()
    max_command_age_ns: int = 0
    deadman_ns: int = 5_000_000_000
    max_refusals: int = 25

    def __post_init__(self) -> None:
        """Refuse an envelope that is empty, not finite, or larger than the arm's."""
        for name in (*_NARROWER_IF_SMALLER, *_NARROWER_IF_LARGER, "effort_limit"):
            if not np.isfinite(getattr(self, name)).all():
                raise ConfigError(f"{name} must be finite, got {getattr(self, name)}")
        for low, high, arm_low, arm_high in zip(
            self.workspace_low_m, self.workspace_high_m, self.spec.workspace_low_m, self.spec.workspace_high_m,
            strict=True,
        ):  # fmt: skip
            if not arm_low <= low < high <= arm_high:
                raise ConfigError(f"workspace [{low}, {high}] m must lie inside the arm's [{arm_low}, {arm_high}] m")
        for name in ("max_change_m", "max_change_rad", "deadman_ns", "max_refusals"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if len(self.effort_limit) not in (0, 6):
            raise ConfigError(f"effort_limit needs 6 values or none, got {len(self.effort_limit)}")
        self._check_hard_limits()

    def _check_hard_limits(self) -> None:
        """What the arm's spec says no setting may exceed."""
        spec, (table_low, table_high) = self.spec, self.spec.table_heights_m
        if not table_low <= self.table_height_m <= table_high:
            raise ConfigError(f"table_height_m must be {table_low}..{table_high}, got {self.table_height_m}")
        for name in ("table_clearance_m", "self_clearance_m"):
            if getattr(self, name) < spec.min_clearance_m:
                raise ConfigError(f"{name} must be at least {spec.min_clearance_m}, got {getattr(self, name)}")
        if self.deadman_ns > spec.max_deadman_s * 1e9:
            raise ConfigError(f"deadman_s must be at most {spec.max_deadman_s}, got {self.deadman_ns / 1e9}")
        beyond = [
            limit for limit, most in zip(self.effort_limit, spec.max_effort, strict=False) if not 0 < limit <= most
        ]
        if beyond:
            raise ConfigError(f"effort_limit must be above 0 and at most {list(spec.max_effort)}, got {beyond}")

    def wider_than(self, other: GateLimits) -> str:
        """Return the name of a limit that lets more pass than the other envelope's, or an empty string."""
        for name in _NARROWER_IF_SMALLER:
            if np.any(np.greater(getattr(self, name), getattr(other, name))):
                return name
        for name in _NARROWER_IF_LARGER:
            if np.any(np.less(getattr(self, name), getattr(other, name))):
                return name
        mine, theirs = (limits.effort_limit or (np.inf,) * 6 for limits in (self, other))
        return "effort_limit" if np.any(np.greater(mine, theirs)) else ""

    @cached_property
    def box(self) -> RobotSpec:
        """The arm's spec with the task's workspace."""
        return replace(self.spec, workspace_low_m=self.workspace_low_m, workspace_high_m=self.workspace_high_m)

    @property
    def joint_step_rad(self) -> float:
        """Furthest one joint may go in one step: velocity limit x step (0.628 rad for the WidowX at 5 Hz)."""
        return self.spec.joint_velocity_rad_s * self.spec.step_s


@dataclass(frozen=True, eq=False)
class ArmState:
    """What the arm reports with every observation.

    Attributes:
        stamp_ns: of the observation.
        target: pose it was last told.
        target_joints_J: (6,) joints of that pose [rad].
        effort_J: (6,) measured effort, where the arm has it.
        episode: changes with every reset; the next command has no predecessor to be smooth with.
        running: False after the episode's end, when silence is no fault.
        session: changes when the arm's process starts anew.
    """

    stamp_ns: int
    target: EndEffectorTarget
    target_joints_J: Array
    effort_J: Array | None = None
    episode: int = 0
    running: bool = True
    session: int = 0


def hard_limits(table_height_m: float, spec: RobotSpec = WIDOWX_250S) -> GateLimits:
    """Return the envelope that an arm itself keeps, whatever its gate is set to.

    Raises:
        ConfigError: no such table.
    """
    clearance_m = spec.min_clearance_m
    return GateLimits(
        spec, table_height_m=table_height_m, table_clearance_m=clearance_m, self_clearance_m=clearance_m,
        max_change_m=2 * spec.max_translation_m, max_change_rad=2 * spec.max_rotation_rad,
    )  # fmt: skip


class RefusedError(SafetyError):
    """No part of a command may pass; str() is the reason that gets counted."""


class Envelope:
    """Cuts actions to the limits, or refuses them.

    Args:
        limits: the envelope.
    """

    def __init__(self, limits: GateLimits) -> None:
        self.limits = limits
        spec = limits.spec
        self._high = (*[float(spec.max_translation_m)] * 3, *[float(spec.max_rotation_rad)] * 3, 1.0)
        self._low = (*(-value for value in self._high[:6]), 0.0)
        self._change = (*[float(limits.max_change_m)] * 3, *[float(limits.max_change_rad)] * 3)
        self._joint_step_rad = limits.joint_step_rad - _SOLVER_SLACK_RAD

    def limit(self, wanted_A: FloatArray, last_A: Sequence[float], arm: ArmState) -> tuple[FloatArray, tuple[str, ...]]:
        """Cut an action to the envelope.

        Args:
            wanted_A: (7,) float32.
            last_A: (7,) the action before; zeros after a rest.
            arm: where it starts from.

        Returns:
            What may be told to the arm, (7,) float32, and why it differs from what was wanted.

        Raises:
            RefusedError: no part of it may pass.
            UnreachableError: the arm cannot get there, or not in one step.
        """
        if wanted_A.shape != (ACTION_DIM,) or wanted_A.dtype != np.float32:
            raise RefusedError("malformed")
        if not np.isfinite(wanted_A).all():
            raise RefusedError("not_finite")
        reasons: list[str] = []
        action = self._smooth(self._cut(wanted_A.tolist(), reasons), last_A, reasons)
        target, sent_A = self._advance(arm.target, np.array(action), reasons)
        present_J = arm.target_joints_J.tolist()
        joints, step_rad = self._reach(target, present_J)
        if step_rad > self._joint_step_rad:
            target, sent_A, joints = self._slow(arm, np.array(action), present_J, step_rad)
            reasons.append("joint_velocity")
        self._check_clearance(target, joints, arm)
        return sent_A, tuple(reasons)

    def check(self, action_A: FloatArray, arm: ArmState) -> None:
        """Let an action pass as it is, or not at all: what an arm asks of its own, whoever sent it.

        Args:
            action_A: (7,) float32.
            arm: where it starts from.

        Raises:
            RefusedError: it is no action, exceeds a step limit or a joint's velocity, or leads too close to something.
            UnreachableError: the arm cannot get there.
        """
        if action_A.shape != (ACTION_DIM,) or not np.isfinite(action_A).all():
            raise RefusedError("not_finite")
        reasons: list[str] = []
        self._cut(action_A.tolist(), reasons)
        if reasons:
            raise RefusedError(reasons[0])
        if not action_A[:6].any():
            return  # it stays where it is
        target, _ = arm.target.advanced(action_A, self.limits.box)
        joints, step_rad = self._reach(target, arm.target_joints_J.tolist())
        if step_rad > self.limits.joint_step_rad:
            raise RefusedError("joint_velocity")
        self._check_clearance(target, joints, arm)

    def _cut(self, wanted: list[float], reasons: list[str]) -> list[float]:
        """Step limits and gripper range; float32 noise at a limit is no reason."""
        cut = [min(max(value, low), high) for value, low, high in zip(wanted, self._low, self._high, strict=True)]
        if any(abs(after - before) > 1e-6 for after, before in zip(cut, wanted, strict=True)):
            reasons.append("step_limit")
        return cut

    def _smooth(self, action: list[float], last_A: Sequence[float], reasons: list[str]) -> list[float]:
        smooth = [
            min(max(value, last - change), last + change)
            for value, last, change in zip(action, last_A, self._change, strict=False)
        ]
        if smooth != action[:6]:
            reasons.append("seam")
        return [*smooth, action[6]]

    def _advance(
        self, target: EndEffectorTarget, action: Array, reasons: list[str]
    ) -> tuple[EndEffectorTarget, FloatArray]:
        """Workspace. Cut deltas are rounded outward: the arm's own clip then lands on the wall."""
        following, sent_A = target.advanced(action, self.limits.box)
        wanted = action[:3]
        short = np.abs(following.position_m - target.position_m - wanted) > 1e-9
        if short.any():
            reasons.append("workspace")
            outward = np.nextafter(sent_A[:3], np.where(wanted > 0, np.inf, -np.inf).astype(np.float32))
            lands = (target.position_m + sent_A[:3] >= following.position_m) == (wanted > 0)
            sent_A[:3] = np.where(short & ~lands, outward, sent_A[:3])
        return following, sent_A

    def _reach(self, target: EndEffectorTarget, present_J: list[float]) -> tuple[Sequence[float], float]:
        """Joints of a pose, and how far the furthest of them has to go."""
        joints = joints_for(target.position_m.tolist(), target.rotation.tolist(), present_J, spec=self.limits.spec)
        return joints, max(abs(after - before) for after, before in zip(joints, present_J, strict=True))

    def _slow(
        self, arm: ArmState, action: Array, present_J: list[float], step_rad: float
    ) -> tuple[EndEffectorTarget, FloatArray, Sequence[float]]:
        """The same direction at a share of the way that keeps every joint within its velocity limit."""
        share = self.limits.joint_step_rad / step_rad
        for _ in range(4):
            share *= 0.95
            slower = action.copy()
            slower[:6] *= share
            target, sent_A = arm.target.advanced(slower, self.limits.box)
            joints, step_rad = self._reach(target, present_J)
            if step_rad <= self._joint_step_rad:
                return target, sent_A, joints
            share *= 0.5
        raise UnreachableError(f"a joint would jump {step_rad:.2f} rad in one step; hold the arm")

    def _check_clearance(self, target: EndEffectorTarget, joints: Sequence[float], arm: ArmState) -> None:
        """Refuse a pose too close to table or arm, unless it leaves one that is closer still."""
        limits = self.limits
        wanted = self._clearance(target, joints)
        if wanted.table_m >= limits.table_clearance_m and wanted.self_m >= limits.self_clearance_m:
            return
        present = self._clearance(arm.target, arm.target_joints_J.tolist())
        if wanted.table_m < min(limits.table_clearance_m, present.table_m):
            raise RefusedError("table_clearance")
        if wanted.self_m < min(limits.self_clearance_m, present.self_m):
            raise RefusedError("self_clearance")

    def _clearance(self, target: EndEffectorTarget, joints: Sequence[float]) -> Clearance:
        return clearance_of(
            target.position_m.tolist(), target.rotation.tolist(), joints[0], joints[1],
            table_height_m=self.limits.table_height_m,
        )  # fmt: skip


def hold_action(target: EndEffectorTarget) -> FloatArray:
    """The (7,) float32 action that keeps the arm where it was told to be, gripper included."""
    action_A = np.zeros(ACTION_DIM, np.float32)
    action_A[6] = target.gripper
    return action_A

"""The envelope around an arm: what part of a wanted action may pass from where the arm is. No clock, no state, no ROS.

Everything is judged by where the action would lead: step limits, seam to the action before, workspace, joint limits,
joint velocity, clearance from table and arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gymnast_core.arm.clearance import Clearance, clearance_of
from gymnast_core.arm.closed_form import joints_for
from gymnast_core.arm.limits import GateLimits
from gymnast_core.arm.targets import EndEffectorTarget
from gymnast_core.errors import SafetyError, UnreachableError
from gymnast_core.types import ACTION_DIM, FloatArray

Array = npt.NDArray[np.float64]

_SOLVER_SLACK_RAD = 0.005
"""What the arm's own, iterative solver may add to a joint step (its tolerance is 1 mrad at the gripper)."""


@dataclass(frozen=True, eq=False)
class ArmState:
    """What the arm reports with every observation.

    Attributes:
        stamp_ns: of the observation.
        target: pose that was commanded last.
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


class MotionRefusedError(SafetyError):
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
            What may be commanded, (7,) float32, and why it differs from what was wanted.

        Raises:
            MotionRefusedError: no part of it may pass.
            UnreachableError: the arm cannot get there, or not in one step.
        """
        if wanted_A.shape != (ACTION_DIM,) or wanted_A.dtype != np.float32:
            raise MotionRefusedError("malformed")
        if not np.isfinite(wanted_A).all():
            raise MotionRefusedError("not_finite")
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
        """Let an action pass as it is, or not at all: what an arm demands by itself, whatever the source.

        Args:
            action_A: (7,) float32.
            arm: where it starts from.

        Raises:
            MotionRefusedError: it is no action, exceeds a step limit or a joint's velocity, or leads too close to
                something.
            UnreachableError: the arm cannot get there.
        """
        if action_A.shape != (ACTION_DIM,) or not np.isfinite(action_A).all():
            raise MotionRefusedError("not_finite")
        reasons: list[str] = []
        self._cut(action_A.tolist(), reasons)
        if reasons:
            raise MotionRefusedError(reasons[0])
        if not action_A[:6].any():
            return  # it stays where it is
        target, _ = arm.target.advanced(action_A, self.limits.box)
        joints, step_rad = self._reach(target, arm.target_joints_J.tolist())
        if step_rad > self.limits.joint_step_rad:
            raise MotionRefusedError("joint_velocity")
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
            raise MotionRefusedError("table_clearance")
        if wanted.self_m < min(limits.self_clearance_m, present.self_m):
            raise MotionRefusedError("self_clearance")

    def _clearance(self, target: EndEffectorTarget, joints: Sequence[float]) -> Clearance:
        return clearance_of(
            target.position_m.tolist(), target.rotation.tolist(), joints[0], joints[1],
            table_height_m=self.limits.table_height_m, spec=self.limits.spec,
        )  # fmt: skip


def hold_action(target: EndEffectorTarget) -> FloatArray:
    """The (7,) float32 action that keeps the arm where it was commanded to be, gripper included."""
    action_A = np.zeros(ACTION_DIM, np.float32)
    action_A[6] = target.gripper
    return action_A

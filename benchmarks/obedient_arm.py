"""An arm that obeys exactly and remembers what it was told; afterwards everything told is held against the envelope.

The joints it takes up come from the closed form; that they really reach the told pose is checked with the product of
exponentials (gymnast_core.arm.kinematics' screw axes), which shares no formula with it. A share of the moves is solved
again with the iterative solver that the simulated arm and the vendor's package use.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.arm import kinematics
from gymnast_core.arm.closed_form import joints_for
from gymnast_core.arm.command_gate import ArmState, GateLimits
from gymnast_core.arm.targets import DEFAULT_ROTATION, EndEffectorTarget
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import FloatArray

Array = npt.NDArray[np.float64]
SECOND = 1_000_000_000
STEP_NS = WIDOWX_250S.step_ns
SOLVED_AGAIN = 101
"""Every so-many-th move is solved with the iterative solver, too."""
_GUESS_J = np.array([0.0, 0.02, 0.18, 0.0, 1.37, 0.0])
_REST = [0.0] * 7


def _start(*position_m: float) -> tuple[EndEffectorTarget, Array]:
    position = np.array(position_m)
    joints_J = kinematics.inverse(position, DEFAULT_ROTATION, _GUESS_J, spec=WIDOWX_250S)
    return EndEffectorTarget(position, DEFAULT_ROTATION, 1.0), joints_J


STARTS = (
    _start(0.28, 0.0, 0.12), _start(0.20, -0.10, 0.05), _start(0.33, 0.10, 0.02), _start(0.24, 0.12, 0.18),
    _start(0.40, 0.0, 0.10),
)  # fmt: skip


class Ledger:
    """Everything that many arms were told, one row per action."""

    def __init__(self) -> None:
        self.told: list[list[float]] = []
        self.before: list[list[float]] = []
        self.moves: list[tuple[list[float], list[list[float]], list[float], list[float]]] = []

    def violations(self, limits: GateLimits) -> Counter[str]:
        """Count what should never have been told, by kind; an empty counter is a clean bill."""
        found: Counter[str] = Counter()
        if self.told:
            self._check_actions(limits, found)
        if self.moves:
            self._check_moves(limits, found)
        return +found

    def _check_actions(self, limits: GateLimits, found: Counter[str]) -> None:
        spec, told_NA, before_NA = limits.spec, np.array(self.told), np.array(self.before)
        found["not_finite"] = int((~np.isfinite(told_NA)).any(axis=1).sum())
        moved = told_NA[:, :6].any(axis=1)
        over = np.abs(told_NA[:, :3]).max(axis=1) > spec.max_translation_m + 1e-6
        over |= np.abs(told_NA[:, 3:6]).max(axis=1) > spec.max_rotation_rad + 1e-6
        found["step_limit"] = int(over.sum())
        found["gripper"] = int(((told_NA[:, 6] < 0.0) | (told_NA[:, 6] > 1.0)).sum())
        change = np.abs(told_NA[:, :6] - before_NA[:, :6])
        jump = (change[:, :3] > limits.max_change_m + 1e-6).any(axis=1)
        jump |= (change[:, 3:] > limits.max_change_rad + 1e-6).any(axis=1)
        found["seam"] = int((moved & jump).sum())

    def _check_moves(self, limits: GateLimits, found: Counter[str]) -> None:
        spec = limits.spec
        position_NX, rotation_NXX, joints_NJ, present_NJ = (np.array(part) for part in zip(*self.moves, strict=True))
        low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
        outside = (position_NX < low - 1e-9) | (position_NX > high + 1e-9)
        found["workspace"] = int(outside.any(axis=1).sum())
        beyond = (joints_NJ < np.array(spec.joint_low_rad) - 1e-9) | (joints_NJ > np.array(spec.joint_high_rad) + 1e-9)
        found["joint_limits"] = int(beyond.any(axis=1).sum())
        fast = np.abs(joints_NJ - present_NJ).max(axis=1) > limits.joint_step_rad + 1e-6
        found["joint_velocity"] = int(fast.sum())
        reached_NX, turned_NXX = forward(joints_NJ, spec)
        missed = np.abs(reached_NX - position_NX).max(axis=1) > 2e-4
        missed |= np.abs(turned_NXX - rotation_NXX).max(axis=(1, 2)) > 2e-3
        found["elsewhere"] = int(missed.sum())
        for row in range(0, len(self.moves), SOLVED_AGAIN):
            again_J = kinematics.inverse(position_NX[row], rotation_NXX[row], present_NJ[row], spec=spec)
            found["joint_velocity"] += int(np.abs(again_J - present_NJ[row]).max() > limits.joint_step_rad + 1e-6)


class Arm:
    """Obeys exactly; writes everything into a ledger."""

    def __init__(self, ledger: Ledger, start: int) -> None:
        target, joints_J = STARTS[start % len(STARTS)]
        self.state = ArmState(SECOND, target, joints_J)
        self.ledger = ledger
        self._last = _REST

    def obey(self, action_A: FloatArray) -> None:
        """Move where it is told."""
        told = action_A.tolist()
        self.ledger.told.append(told)
        self.ledger.before.append(self._last)
        self._last = told
        if not any(told[:6]):
            return
        target, _ = self.state.target.advanced(action_A, WIDOWX_250S)
        position, rotation = target.position_m.tolist(), target.rotation.tolist()
        present = self.state.target_joints_J.tolist()
        joints = list(joints_for(position, rotation, present, spec=WIDOWX_250S))
        self.ledger.moves.append((position, rotation, joints, present))
        self.state = replace(self.state, target=target, target_joints_J=np.array(joints))

    def rest(self) -> None:
        """It was stopped: the next action is compared with standing still."""
        self._last = _REST

    def advance(self, by_ns: int = STEP_NS, **changes: Any) -> ArmState:
        """The next observation."""
        self.state = replace(self.state, stamp_ns=self.state.stamp_ns + by_ns, **changes)
        return self.state


def forward(joints_NJ: Array, spec: RobotSpec = WIDOWX_250S) -> tuple[Array, Array]:
    """Gripper positions (N, 3) and rotations (N, 3, 3) by the product of exponentials, axis by axis."""
    count = len(joints_NJ)
    rotation = np.broadcast_to(np.eye(3), (count, 3, 3))
    position = np.zeros((count, 3))
    for joint, (*axis, vx, vy, vz) in enumerate(spec.chain.screw_axes_JX.tolist()):
        x, y, z = axis
        skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        angle = joints_NJ[:, joint, None, None]
        turn = np.eye(3) + np.sin(angle) * skew + (1.0 - np.cos(angle)) * (skew @ skew)
        through = skew @ np.array([vx, vy, vz])  # the point of the axis nearest to the origin: w x v
        position = position + np.einsum("nab,nb->na", rotation, through - turn @ through)
        rotation = rotation @ turn
    return position + rotation @ spec.chain.home_X, rotation

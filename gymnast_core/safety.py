"""The command gate without ROS: what an arm may be told, and when it must be told to stay where it is.

One gate stands between every commander (policy, teleoperation) and the arm. It knows the arm's target and joints, so
it judges where a command would lead, not only how large it is. Time comes in as arguments: the observation a command
answers is named by that observation's stamp, deadlines run on the monotonic clock of whoever calls.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from gymnast_core import kinematics
from gymnast_core.clearance import clearance
from gymnast_core.errors import ConfigError, SafetyError, UnreachableError
from gymnast_core.kinematics import EndEffectorTarget
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ACTION_DIM, FloatArray

Array = npt.NDArray[np.float64]


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
        """Refuse an envelope that is empty or larger than the arm's."""
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

    @property
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


@dataclass(frozen=True, eq=False)
class Command:
    """One wanted action.

    Attributes:
        action_A: (7,) float32.
        stamp_ns: stamp of the observation it answers.
        source: who wants it: "policy" or "teleop".
    """

    action_A: FloatArray
    stamp_ns: int
    source: str = "policy"


class _RefusedError(SafetyError):
    """No part of a command may pass; str() is the reason that gets counted."""


class Verdict(str, enum.Enum):
    """What the gate did with a command."""

    FORWARDED = "forwarded"
    LIMITED = "limited"
    HELD = "held"
    """The arm is told to stay: the command was for now, but not allowed."""
    DROPPED = "dropped"
    """The arm is told nothing: the command is not for now, or the gate is closed."""


@dataclass(frozen=True, eq=False)
class Decision:
    """Answer to one command.

    Attributes:
        verdict: what was done.
        action_A: (7,) float32 for the arm, or None when it is told nothing.
        reasons: why it differs from what was wanted; short words that are counted.
        stamp_ns: of the observation it answers.
        source: who commands: the command's source, or "hold".
    """

    verdict: Verdict
    action_A: FloatArray | None
    reasons: tuple[str, ...]
    stamp_ns: int
    source: str


class GateState(str, enum.Enum):
    """Whether the gate is open."""

    DISARMED = "disarmed"
    ARMED = "armed"
    HOLDING = "holding"
    """Armed, but commands or observations stopped coming; opens with the next valid command."""
    STOPPED = "stopped"
    """A fault closed it; an operator must re-arm."""
    ESTOP = "estop"


@dataclass
class _Memory:
    """What the gate remembers between commands."""

    arm: ArmState | None = None
    observed_at_ns: int = 0
    commanded_at_ns: int | None = None
    answered_ns: int = -1
    last_action_A: Array = field(default_factory=lambda: np.zeros(ACTION_DIM))
    refusals: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class CommandGate:
    """Checks every command; latches the emergency stop. Not thread safe except latch_estop().

    Args:
        limits: the envelope.
        armed: open from the start, and again when the arm's process was restarted: for simulators.
            A real arm waits for re_arm() both times.
    """

    def __init__(self, limits: GateLimits | None = None, *, armed: bool = False) -> None:
        self.limits = limits or GateLimits()
        self._reopens = armed
        self._state = GateState.ARMED if armed else GateState.DISARMED
        self._reason = "" if armed else "not armed yet; call re_arm"
        self._memory = _Memory()
        self._taken_over = False

    @property
    def state(self) -> GateState:
        """Whether commands pass."""
        return self._state

    @property
    def reason(self) -> str:
        """Why they do not."""
        return self._reason

    @property
    def counts(self) -> Counter[str]:
        """How many commands met each verdict, and why."""
        return self._memory.counts

    @property
    def arm(self) -> ArmState | None:
        """The newest arm state."""
        return self._memory.arm

    def latch_estop(self, reason: str) -> None:
        """Close the gate until re_arm(); wins over everything and may be called from any thread."""
        self._reason = reason
        self._state = GateState.ESTOP

    def stop(self, reason: str) -> None:
        """Close the gate on a fault; an emergency stop stays one."""
        if self._state is not GateState.ESTOP:
            self._state, self._reason = GateState.STOPPED, reason

    def re_arm(self, now_ns: int) -> str:
        """Open the gate again; returns why not, or an empty string.

        A real arm needs a fresh observation, so that the first command starts from where it is; simulated time
        stands still between commands.
        """
        memory = self._memory
        silent = memory.arm is None or now_ns - memory.observed_at_ns > self.limits.deadman_ns
        if silent and not self._reopens:
            return "no fresh observation of the arm; is it running?"
        self._memory = _Memory(memory.arm, memory.observed_at_ns, answered_ns=memory.answered_ns, counts=memory.counts)
        self._state, self._reason = GateState.ARMED, ""
        self._taken_over = False
        return ""

    @property
    def taken_over(self) -> bool:
        """Whether a human commands."""
        return self._taken_over

    def take_over(self, taken_over: bool) -> None:
        """A human takes the arm from the policy, or gives it back.

        Nothing jumps: deltas add to the same target whoever commands, and the seam limits hold across the change.
        """
        self._taken_over = taken_over

    def observe(self, arm: ArmState, now_ns: int) -> None:
        """Take in where the arm is; a stamp that runs backwards or an overload stops it."""
        memory = self._memory
        if memory.arm is not None and arm.session != memory.arm.session:
            memory = self._memory = _Memory(counts=memory.counts)
            if not self._reopens:
                self.stop("the arm was restarted; look at it, then re-arm")
        if memory.arm is not None and arm.stamp_ns < memory.arm.stamp_ns:
            self.stop(f"clock jumped back from {memory.arm.stamp_ns} to {arm.stamp_ns} ns; check the clocks, re-arm")
            memory.answered_ns = -1
        if memory.arm is None or arm.episode != memory.arm.episode:
            memory.last_action_A, memory.refusals = np.zeros(ACTION_DIM), 0
        memory.arm, memory.observed_at_ns = arm, now_ns
        if not arm.running:
            self._rest()
        if self.limits.effort_limit and arm.effort_J is not None:
            over = np.abs(arm.effort_J) > np.array(self.limits.effort_limit)
            if over.any() or not np.isfinite(arm.effort_J).all():
                efforts, limits = np.round(arm.effort_J).tolist(), list(self.limits.effort_limit)
                self.stop(f"effort {efforts} beyond {limits}; free the arm, then re-arm")

    def decide(self, command: Command, now_ns: int) -> Decision:
        """Judge one command at monotonic time now_ns."""
        decision = self._decide(command, now_ns)
        counts = self._memory.counts
        counts[decision.verdict.value] += 1
        for reason in decision.reasons:
            counts[reason] += 1
        return decision

    def tick(self, now_ns: int) -> Decision | None:
        """Call once per control period: a hold when the link has gone silent, else None."""
        memory = self._memory
        if self._state is not GateState.ARMED or memory.commanded_at_ns is None or memory.arm is None:
            return None
        for name, last_ns in (("commands", memory.commanded_at_ns), ("observations", memory.observed_at_ns)):
            if now_ns - last_ns > self.limits.deadman_ns:
                self._state = GateState.HOLDING
                self._reason = f"{name} silent for {(now_ns - last_ns) / 1e9:.2f} s"
                memory.counts[f"silent_{name}"] += 1
                memory.last_action_A = np.zeros(ACTION_DIM)
                return self._hold(memory.arm, Verdict.HELD, f"silent_{name}")
        return None

    def _rest(self) -> None:
        """The episode is over; silence is no fault."""
        self._memory.commanded_at_ns = None
        if self._state is GateState.HOLDING:
            self._state, self._reason = GateState.ARMED, ""

    def _decide(self, command: Command, now_ns: int) -> Decision:
        memory, arm = self._memory, self._memory.arm
        if self._state in (GateState.ESTOP, GateState.STOPPED, GateState.DISARMED):
            return self._drop(command, self._state.value)
        if self._taken_over != (command.source == "teleop"):
            return self._drop(command, "taken_over" if self._taken_over else "not_taken_over")
        if arm is None:
            return self._drop(command, "no_observation")
        age_ns = arm.stamp_ns - command.stamp_ns
        if age_ns < 0:
            return self._drop(command, "from_the_future")
        if command.stamp_ns <= memory.answered_ns:
            return self._drop(command, "replayed")
        if age_ns > self.limits.max_command_age_ns:
            return self._drop(command, "stale_command")
        memory.answered_ns = command.stamp_ns
        if now_ns - memory.observed_at_ns > self.limits.deadman_ns:
            return self._refuse(arm, "stale_observation")
        memory.commanded_at_ns = now_ns
        self._state, self._reason = (
            (GateState.ARMED, "") if self._state is GateState.HOLDING else (self._state, self._reason)
        )
        try:
            action_A, reasons = self._limit(command, arm)
        except UnreachableError:
            return self._refuse(arm, "unreachable", gripper=float(np.clip(command.action_A[6], 0.0, 1.0)))
        except _RefusedError as error:
            return self._refuse(arm, str(error))
        memory.refusals = 0
        memory.last_action_A = action_A.astype(np.float64)
        verdict = Verdict.LIMITED if reasons else Verdict.FORWARDED
        return Decision(verdict, action_A, reasons, command.stamp_ns, command.source)

    def _limit(self, command: Command, arm: ArmState) -> tuple[FloatArray, tuple[str, ...]]:
        """Cut a command to the envelope, or raise when no part of it may pass."""
        wanted = command.action_A
        if wanted.shape != (ACTION_DIM,) or wanted.dtype != np.float32:
            raise _RefusedError("malformed")
        if not np.isfinite(wanted).all():
            raise _RefusedError("not_finite")
        reasons: list[str] = []
        action = self._smooth(self._cut(wanted.astype(np.float64), reasons), reasons)
        target, sent_A = self._advance(arm.target, action, reasons)
        joints_J = kinematics.inverse(target.position_m, target.rotation, arm.target_joints_J, spec=self.limits.spec)
        step_rad = float(np.abs(joints_J - arm.target_joints_J).max())
        if step_rad > self.limits.joint_step_rad:
            target, sent_A, joints_J = self._slow(arm, action, step_rad)
            reasons.append("joint_velocity")
        self._check_clearance(joints_J, arm.target_joints_J)
        return sent_A, tuple(reasons)

    def _cut(self, action: Array, reasons: list[str]) -> Array:
        """Step limits and gripper range; float32 noise at a limit is no reason."""
        spec = self.limits.spec
        high = np.array([spec.max_translation_m] * 3 + [spec.max_rotation_rad] * 3 + [1.0])
        low = np.append(-high[:6], 0.0)
        cut = np.asarray(np.clip(action, low, high))
        if (np.abs(cut - action) > 1e-6).any():
            reasons.append("step_limit")
        return cut

    def _smooth(self, action: Array, reasons: list[str]) -> Array:
        last = self._memory.last_action_A
        change = np.array([self.limits.max_change_m] * 3 + [self.limits.max_change_rad] * 3)
        smooth = action.copy()
        smooth[:6] = np.clip(action[:6], last[:6] - change, last[:6] + change)
        if (smooth != action).any():
            reasons.append("seam")
        return smooth

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

    def _slow(self, arm: ArmState, action: Array, step_rad: float) -> tuple[EndEffectorTarget, FloatArray, Array]:
        """The same direction at a share of the way that keeps every joint within its velocity limit."""
        share = self.limits.joint_step_rad / step_rad
        for _ in range(4):
            share *= 0.95
            slower = action.copy()
            slower[:6] *= share
            target, sent_A = arm.target.advanced(slower, self.limits.box)
            joints_J = kinematics.inverse(
                target.position_m, target.rotation, arm.target_joints_J, spec=self.limits.spec
            )
            step_rad = float(np.abs(joints_J - arm.target_joints_J).max())
            if step_rad <= self.limits.joint_step_rad:
                return target, sent_A, joints_J
            share *= 0.5
        raise UnreachableError(f"a joint would jump {step_rad:.2f} rad in one step; hold the arm")

    def _check_clearance(self, joints_J: Array, present_J: Array) -> None:
        """Refuse a pose too close to table or arm, unless it leaves one that is closer still."""
        limits = self.limits
        wanted = clearance(joints_J, table_height_m=limits.table_height_m)
        if wanted.table_m >= limits.table_clearance_m and wanted.self_m >= limits.self_clearance_m:
            return
        present = clearance(present_J, table_height_m=limits.table_height_m)
        if wanted.table_m < min(limits.table_clearance_m, present.table_m):
            raise _RefusedError("table_clearance")
        if wanted.self_m < min(limits.self_clearance_m, present.self_m):
            raise _RefusedError("self_clearance")

    def _refuse(self, arm: ArmState, reason: str, *, gripper: float | None = None) -> Decision:
        memory = self._memory
        memory.refusals += 1
        memory.last_action_A = np.zeros(ACTION_DIM)
        if memory.refusals >= self.limits.max_refusals:
            self.stop(f"{memory.refusals} commands in a row refused, the last one: {reason}")
        hold = self._hold(arm, Verdict.HELD, reason)
        if gripper is not None and hold.action_A is not None:
            hold.action_A[6] = gripper  # the fingers may move where the arm cannot
        return hold

    @staticmethod
    def _hold(arm: ArmState, verdict: Verdict, reason: str) -> Decision:
        return Decision(verdict, hold_action(arm.target), (reason,), arm.stamp_ns, "hold")

    @staticmethod
    def _drop(command: Command, reason: str) -> Decision:
        return Decision(Verdict.DROPPED, None, (reason,), command.stamp_ns, command.source)


def hold_action(target: EndEffectorTarget) -> FloatArray:
    """The (7,) float32 action that keeps the arm where it was told to be, gripper included."""
    action_A = np.zeros(ACTION_DIM, np.float32)
    action_A[6] = target.gripper
    return action_A

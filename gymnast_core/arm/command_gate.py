"""The command gate without ROS: which commands may pass, and when the arm must hold.

One gate stands between every commander (policy, teleoperation) and the arm. It knows the arm's target and joints, so
it judges where a command would lead, not only how large it is. Time comes in as arguments: the observation a command
answers is named by that observation's stamp, deadlines run on the caller's monotonic clock.
"""

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gymnast_core.arm.envelope import ArmState, Envelope, MotionRefusedError, hold_action
from gymnast_core.arm.latch import StopLatch
from gymnast_core.arm.limits import GateLimits
from gymnast_core.errors import UnreachableError
from gymnast_core.types import ACTION_DIM, FloatArray

__all__ = [
    "ArmState", "Command", "CommandGate", "GateDecision", "GateLimits", "GateState",
    "GateVerdict", "hold_action",
]  # fmt: skip

_REST_A = (0.0,) * ACTION_DIM


@dataclass(frozen=True, eq=False)
class Command:
    """One wanted action.

    Attributes:
        action_A: (7,) float32.
        stamp_ns: stamp of the observation it answers.
        source: what asks for it: "policy" or "teleop".
    """

    action_A: FloatArray
    stamp_ns: int
    source: str = "policy"


class GateVerdict(str, enum.Enum):
    """What the gate did with a command."""

    FORWARDED = "forwarded"
    LIMITED = "limited"
    HELD = "held"
    """The arm holds: the command was for now, but not allowed."""
    DROPPED = "dropped"
    """Nothing is sent: the command is not for now, or the gate is closed."""


@dataclass(frozen=True, eq=False)
class GateDecision:
    """Answer to one command.

    Attributes:
        verdict: what was done.
        action_A: (7,) float32 for the arm, or None when nothing is sent.
        reasons: why it differs from what was wanted; short words that are counted.
        stamp_ns: of the observation it answers.
        source: the command's source, or "hold".
    """

    verdict: GateVerdict
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
    last_action_A: Sequence[float] = _REST_A
    refusals: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class CommandGate:
    """Checks every command; latches the emergency stop. Not thread safe except latch_estop().

    Args:
        limits: the envelope.
        armed: open from the start, and again when the arm's process was restarted: for simulators.
            A real arm waits for re_arm() both times.
        latch: of the emergency stop, where the arm's process shares it; a stop that is latched in it stays.
    """

    def __init__(
        self, limits: GateLimits | None = None, *, armed: bool = False, latch: StopLatch | None = None
    ) -> None:
        self.limits = limits or GateLimits()
        self._envelope = Envelope(self.limits)
        self._reopens = armed
        self._state = GateState.ARMED if armed else GateState.DISARMED
        self._reason = "" if armed else "not armed yet; call re_arm"
        self._memory = _Memory()
        self._taken_over = False
        self._latch, self._lock = latch or StopLatch(), threading.Lock()
        self._stop_reason = "latched before this gate was started" if self._latch.stopped else ""

    @property
    def state(self) -> GateState:
        """Whether commands pass; the emergency stop wins over everything."""
        return GateState.ESTOP if self._latch.stopped else self._state

    @property
    def reason(self) -> str:
        """Why they do not."""
        return self._stop_reason if self._latch.stopped else self._reason

    @property
    def counts(self) -> Counter[str]:
        """How many commands met each verdict, and why."""
        return self._memory.counts

    @property
    def arm(self) -> ArmState | None:
        """The newest arm state."""
        return self._memory.arm

    def use(self, limits: GateLimits) -> None:
        """Judge by another envelope from the next command on; what was commanded before stays as it was."""
        self.limits, self._envelope = limits, Envelope(limits)

    def latch_estop(self, reason: str) -> None:
        """Close the gate until re_arm(); wins over everything and may be called from any thread."""
        with self._lock:
            if not self._latch.stopped:
                self._stop_reason = reason
                self._latch.latch()

    def stop(self, reason: str) -> None:
        """Close the gate on a fault; an emergency stop stays one."""
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
        self._taken_over = False
        with self._lock:  # a stop that comes meanwhile comes afterwards
            self._state, self._reason = GateState.ARMED, ""
            self._latch.release()
        return ""

    def busy(self, now_ns: int) -> bool:
        """Whether somebody commands a running episode now."""
        memory = self._memory
        if memory.arm is None or not memory.arm.running or memory.commanded_at_ns is None:
            return False
        return now_ns - memory.commanded_at_ns <= self.limits.deadman_ns

    @property
    def taken_over(self) -> bool:
        """Whether a human commands."""
        return self._taken_over

    def take_over(self, taken_over: bool) -> None:
        """A human takes the arm from the policy, or gives it back.

        Nothing jumps: deltas add to the same target whatever the source, and the seam limits hold across the change.
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
            memory.last_action_A, memory.refusals = _REST_A, 0
        memory.arm, memory.observed_at_ns = arm, now_ns
        if not arm.running:
            self._rest()
        if self.limits.effort_limit and arm.effort_J is not None:
            over = np.abs(arm.effort_J) > np.array(self.limits.effort_limit)
            if over.any() or not np.isfinite(arm.effort_J).all():
                efforts, limits = np.round(arm.effort_J).tolist(), list(self.limits.effort_limit)
                self.stop(f"effort {efforts} beyond {limits}; free the arm, then re-arm")

    def decide(self, command: Command, now_ns: int) -> GateDecision:
        """Judge one command at monotonic time now_ns."""
        decision = self._decide(command, now_ns)
        counts = self._memory.counts
        counts[decision.verdict.value] += 1
        for reason in decision.reasons:
            counts[reason] += 1
        return decision

    def tick(self, now_ns: int) -> GateDecision | None:
        """Call once per control period: a hold when the link has gone silent, else None."""
        memory = self._memory
        if self.state is not GateState.ARMED or memory.commanded_at_ns is None or memory.arm is None:
            return None
        for name, last_ns in (("commands", memory.commanded_at_ns), ("observations", memory.observed_at_ns)):
            if now_ns - last_ns > self.limits.deadman_ns:
                self._state = GateState.HOLDING
                self._reason = f"{name} silent for {(now_ns - last_ns) / 1e9:.2f} s"
                memory.counts[f"silent_{name}"] += 1
                memory.last_action_A = _REST_A
                return self._hold(memory.arm, GateVerdict.HELD, f"silent_{name}")
        return None

    def _rest(self) -> None:
        """The episode is over; silence is no fault."""
        self._memory.commanded_at_ns = None
        if self._state is GateState.HOLDING:
            self._state, self._reason = GateState.ARMED, ""

    def _decide(self, command: Command, now_ns: int) -> GateDecision:
        memory, arm = self._memory, self._memory.arm
        state = self.state
        if state in (GateState.ESTOP, GateState.STOPPED, GateState.DISARMED):
            return self._drop(command, state.value)
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
            action_A, reasons = self._envelope.limit(command.action_A, memory.last_action_A, arm)
        except UnreachableError:
            return self._refuse(arm, "unreachable", gripper=float(np.clip(command.action_A[6], 0.0, 1.0)))
        except MotionRefusedError as error:
            return self._refuse(arm, str(error))
        memory.refusals = 0
        memory.last_action_A = action_A.tolist()
        verdict = GateVerdict.LIMITED if reasons else GateVerdict.FORWARDED
        return GateDecision(verdict, action_A, reasons, command.stamp_ns, command.source)

    def _refuse(self, arm: ArmState, reason: str, *, gripper: float | None = None) -> GateDecision:
        memory = self._memory
        memory.refusals += 1
        memory.last_action_A = _REST_A
        if memory.refusals >= self.limits.max_refusals:
            self.stop(f"{memory.refusals} commands in a row refused, the last one: {reason}")
        hold = self._hold(arm, GateVerdict.HELD, reason)
        if gripper is not None and hold.action_A is not None:
            hold.action_A[6] = gripper  # the fingers may move where the arm cannot
        return hold

    @staticmethod
    def _hold(arm: ArmState, verdict: GateVerdict, reason: str) -> GateDecision:
        return GateDecision(verdict, hold_action(arm.target), (reason,), arm.stamp_ns, "hold")

    @staticmethod
    def _drop(command: Command, reason: str) -> GateDecision:
        return GateDecision(GateVerdict.DROPPED, None, (reason,), command.stamp_ns, command.source)

"""What a policy does on recorded observations of this robot, without an arm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.policy import Policy
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import Observation

BEYOND = 2.0
"""A motion larger than this many limits is taken for broken weights; the gate limits smaller ones."""
LEAST_CALLS = 4
_SLACK = 1.001
_SLOW_IN_A_ROW = 3


@dataclass(frozen=True)
class ShadowReport:
    """What a policy did on recorded observations.

    Attributes:
        reason: why it may not run; empty when it may.
        observations: how many it saw.
        largest_share: largest |motion| it asked for over the arm's limit of one step.
        typical_s: median time of a call after the first one.
        recorded: the observations come from episodes of this robot; else it had none yet, and they are neutral.
    """

    reason: str
    observations: int = 0
    largest_share: float = 0.0
    typical_s: float = 0.0
    recorded: bool = True


def allowed_latency_s(policy: Policy, spec: RobotSpec, max_latency_s: float) -> float:
    """Return the longest a call may take [s]: one control step per action of a chunk, or what was set."""
    return max_latency_s or spec.step_s * policy.chunk_length


def shadow_check(
    policy: Policy,
    recorded: Sequence[tuple[Observation, str]],
    *,
    spec: RobotSpec = WIDOWX_250S,
    max_latency_s: float = 0.0,
    asking: Callable[[int], None] = lambda index: None,
) -> ShadowReport:
    """Ask a policy for actions that are not executed.

    The median call counts, not the slowest: the check runs beside the running policy, whose turn may delay any single
    call. A policy that is slow three times in a row is not asked any further.

    Args:
        policy: the candidate.
        recorded: observations (B = 1) with their instructions, from this robot's episodes.
        spec: the arm.
        max_latency_s: longest typical call; 0 is one control step per action of a chunk.
        asking: called with the index of every call before it, for a caller that waits with a deadline.
    """
    allowed_s, seen, largest = allowed_latency_s(policy, spec, max_latency_s), 0, 0.0
    calls_s: list[float] = []
    for seen in range(1, max(len(recorded), LEAST_CALLS) + 1):
        observation, instruction = recorded[(seen - 1) % len(recorded)]
        asking(seen - 1)
        started = time.monotonic()
        try:
            actions_KA = policy.act(observation, [instruction]).actions_BKA[0]
        except Exception as error:  # noqa: BLE001  # whatever a policy raises, it must not run
            return _report(f"it raised {type(error).__name__}: {error}", seen, largest, calls_s)
        if seen > 1:  # the first call also warms up
            calls_s.append(time.monotonic() - started)
        if actions_KA.shape[0] == 0:
            return _report("it answers with no action", seen, largest, calls_s)
        if not np.isfinite(actions_KA).all():
            return _report("an action is not finite", seen, largest, calls_s)
        largest = max(largest, largest_share(actions_KA, spec))
        if largest > BEYOND * _SLACK:
            return _report(f"it asks for {largest:.1f} times the limit of one step", seen, largest, calls_s)
        if len(calls_s) >= _SLOW_IN_A_ROW and min(calls_s[-_SLOW_IN_A_ROW:]) > allowed_s:
            break
    typical_s = statistics.median(calls_s)
    slow = f"a call takes {typical_s:.2f} s, allowed are {allowed_s:.2f} s" if typical_s > allowed_s else ""
    return _report(slow, seen, largest, calls_s)


def largest_share(actions_KA: np.ndarray, spec: RobotSpec = WIDOWX_250S) -> float:
    """Return the largest motion of (K, 7) actions over the arm's limit of one step."""
    return float((np.abs(actions_KA[:, :6]) / spec.action_high_A[:6]).max())


def _report(reason: str, seen: int, largest: float, calls_s: Sequence[float]) -> ShadowReport:
    return ShadowReport(reason, seen, largest, statistics.median(calls_s) if calls_s else 0.0)

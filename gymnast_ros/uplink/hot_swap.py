"""From staged to running: load beside the running policy, try it on recorded observations, swap between episodes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gymnast_core.errors import GymnastError
from gymnast_core.policy import Policy
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import Observation
from gymnast_ros.uplink.robot_store import RobotStore

LOG = logging.getLogger(__name__)
_SLACK = 1.001


@dataclass(frozen=True)
class ShadowReport:
    """What a policy did on recorded observations, without an arm.

    Attributes:
        reason: why it may not run; empty when it may.
        observations: how many it saw.
        largest_share: largest |motion| it asked for over the arm's limit of one step.
        slowest_s: longest call.
    """

    reason: str
    observations: int
    largest_share: float
    slowest_s: float


def shadow_check(
    policy: Policy,
    recorded: Sequence[tuple[Observation, str]],
    *,
    spec: RobotSpec = WIDOWX_250S,
    max_latency_s: float | None = None,
    beyond: float = 2.0,
) -> ShadowReport:
    """Ask a policy for actions it will not execute.

    Args:
        policy: the candidate.
        recorded: observations (B = 1) with their instructions, from this robot's episodes.
        spec: the arm.
        max_latency_s: longest call allowed after the first one; None is one control step per action of a chunk.
        beyond: a motion larger than this many limits is taken for broken weights; the gate limits smaller ones.
    """
    allowed_s = max_latency_s if max_latency_s is not None else spec.step_s * policy.chunk_length
    limit_A = np.array([spec.max_translation_m] * 3 + [spec.max_rotation_rad] * 3)
    largest = slowest_s = 0.0
    for index, (observation, instruction) in enumerate(recorded):
        started = time.monotonic()
        try:
            actions_KA = policy.act(observation, [instruction]).actions_BKA[0]
        except (GymnastError, ValueError, RuntimeError) as error:
            return ShadowReport(f"it failed: {type(error).__name__}: {error}", index, largest, slowest_s)
        if index:  # the first call also warms up
            slowest_s = max(slowest_s, time.monotonic() - started)
        if not np.isfinite(actions_KA).all():
            return ShadowReport("an action is not finite", index + 1, largest, slowest_s)
        largest = max(largest, float((np.abs(actions_KA[:, :6]) / limit_A).max()))
    if largest > beyond * _SLACK:
        reason = f"it asks for {largest:.1f} times the limit of one step"
    elif slowest_s > allowed_s:
        reason = f"a call took {slowest_s:.3f} s, allowed are {allowed_s:.3f} s"
    else:
        reason = ""
    return ShadowReport(reason, len(recorded), largest, slowest_s)


def try_staged(
    store: RobotStore,
    load: Callable[[Path], Policy],
    recorded: Sequence[tuple[Observation, str]],
    *,
    probation_episodes: int = 0,
    spec: RobotSpec = WIDOWX_250S,
    max_latency_s: float | None = None,
) -> tuple[Policy | None, str]:
    """Between episodes: check the staged checkpoint and make it current, or turn it down.

    The running policy stays loaded and in use whatever happens here.

    Args:
        store: the robot's checkpoints.
        load: reads a checkpoint folder into a policy.
        recorded: see shadow_check.
        probation_episodes: good episodes it then needs before it is trusted.
        spec: the arm.
        max_latency_s: see shadow_check.

    Returns:
        The new policy to run, or None, and why not (empty when nothing was staged).
    """
    folder = store.staged()
    if folder is None:
        return None, ""
    try:
        policy = load(folder)
    except (GymnastError, ValueError, KeyError, RuntimeError, OSError) as error:
        reason = f"it does not load: {type(error).__name__}: {error}"
    else:
        reason = shadow_check(policy, recorded, spec=spec, max_latency_s=max_latency_s).reason
    if reason:
        LOG.error("checkpoint_turned_down checkpoint=%s reason=%s", folder.name, reason)
        store.reject(folder.name, reason)
        return None, reason
    store.swap(folder.name, probation_episodes=probation_episodes)
    return policy, ""

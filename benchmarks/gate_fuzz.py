"""Fuzzes the command gate: hostile streams through the pure core, and through the real gate process.

python benchmarks/gate_fuzz.py --streams 1000000 --workers 2 --node-streams 1000 --json benchmarks/gate_fuzz.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core import kinematics
from gymnast_core.kinematics import DEFAULT_ROTATION, EndEffectorTarget
from gymnast_core.safety import ArmState, Command, CommandGate, Decision, GateLimits, GateState
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray

SECOND = 1_000_000_000
STEP_NS = WIDOWX_250S.step_ns
HAZARDS = ("wild", "not_finite", "replay", "stall", "seam", "clock_back", "future", "wall")
STEPS = 4
DEADMAN_NS = 400_000_000
GUESS_J = np.array([0.0, 0.02, 0.18, 0.0, 1.37, 0.0])
STARTS = [
    (np.array(position), kinematics.inverse(position, DEFAULT_ROTATION, GUESS_J))
    for position in ((0.28, 0.0, 0.12), (0.20, -0.10, 0.05), (0.33, 0.10, 0.02), (0.24, 0.12, 0.18), (0.40, 0.0, 0.10))
]


class Arm:
    """Obeys exactly, and counts what it should never have been told."""

    def __init__(self, rng: np.random.Generator, limits: GateLimits) -> None:
        position, joints_J = STARTS[rng.integers(len(STARTS))]
        self.state = ArmState(SECOND, EndEffectorTarget(position, DEFAULT_ROTATION, 1.0), joints_J)
        self.limits, self.violations, self.told = limits, Counter[str](), 0
        self._last_A = np.zeros(7)

    def obey(self, action_A: FloatArray) -> None:
        """Check one told action against the envelope, then move there."""
        self.told += 1
        spec, bad = self.limits.spec, self.violations
        bad["not_finite"] += int(not np.isfinite(action_A).all())
        bad["step_limit"] += int(np.abs(action_A[:3]).max() > spec.max_translation_m + 1e-6)
        bad["step_limit"] += int(np.abs(action_A[3:6]).max() > spec.max_rotation_rad + 1e-6)
        bad["gripper"] += int(not 0.0 <= action_A[6] <= 1.0)
        bad["seam"] += int(
            action_A[:6].any() and (np.abs(action_A[:3] - self._last_A[:3]) > self.limits.max_change_m + 1e-6).any()
        )
        self._last_A = action_A.astype(np.float64)
        if not action_A[:6].any():
            return
        target, _ = self.state.target.advanced(action_A)
        joints_J = kinematics.inverse(target.position_m, target.rotation, self.state.target_joints_J)
        bad["workspace"] += int((target.position_m < np.array(spec.workspace_low_m) - 1e-9).any())
        bad["workspace"] += int((target.position_m > np.array(spec.workspace_high_m) + 1e-9).any())
        bad["joint_limits"] += int(not kinematics.within_limits(joints_J))
        step_rad = np.abs(joints_J - self.state.target_joints_J).max()
        bad["joint_velocity"] += int(step_rad > self.limits.joint_step_rad + 1e-6)
        self.state = replace(self.state, target=target, target_joints_J=joints_J)

    def rest(self) -> None:
        """It was stopped: the next action is compared with standing still."""
        self._last_A = np.zeros(7)

    def advance(self, by_ns: int = STEP_NS) -> ArmState:
        """The next observation."""
        self.state = replace(self.state, stamp_ns=self.state.stamp_ns + by_ns)
        return self.state


def hostile(rng: np.random.Generator, hazard: str) -> FloatArray:
    """An action of one kind of hazard."""
    action_A = rng.normal(0.0, 0.03, 7).astype(np.float32)
    action_A[3:6] *= rng.choice([0.0, 3.0])
    if hazard == "wild":
        action_A *= np.float32(10.0 ** rng.uniform(0, 6))
    elif hazard == "not_finite":
        action_A[rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
    elif hazard == "seam":
        action_A[:3] = rng.choice([-0.05, 0.05], 3)
    elif hazard == "wall":
        action_A[:3] = np.sign(rng.normal(size=3)) * 0.05
        action_A[3:6] = rng.choice([-0.25, 0.0, 0.25], 3)
    return action_A


def stream(seed: int, limits: GateLimits) -> tuple[Counter[str], Counter[str], int, int, int]:
    """One stream of STEPS commands; returns violations, verdicts, actions told, link losses, losses stopped in time."""
    rng = np.random.default_rng([seed, 20261122])
    arm, gate = Arm(rng, limits), CommandGate(limits)
    now_ns, lost, stopped = 0, 0, 0
    gate.observe(arm.state, now_ns)
    gate.re_arm(now_ns)
    previous: Command | None = None
    for _ in range(STEPS):
        hazard = HAZARDS[rng.integers(len(HAZARDS))]
        command = Command(hostile(rng, hazard), arm.state.stamp_ns + (STEP_NS if hazard == "future" else 0))
        if hazard == "replay" and previous is not None:
            command = previous
        decision = gate.decide(command, now_ns)
        if decision.action_A is not None:
            arm.obey(decision.action_A)
        previous = command
        if hazard == "stall" and gate.state is GateState.ARMED and gate.tick(now_ns) is None:
            commanded = decision.verdict.value != "dropped"
            now_ns += 2 * SECOND
            held = gate.tick(now_ns)
            lost += int(commanded)
            stopped += int(commanded and held is not None and not _moves(held))
            if held is not None and held.action_A is not None:
                arm.obey(held.action_A)
        now_ns += STEP_NS
        gate.observe(arm.advance(-3 * STEP_NS if hazard == "clock_back" else STEP_NS), now_ns)
        if gate.state is GateState.STOPPED:
            gate.re_arm(now_ns)
            arm.rest()
    return arm.violations, gate.counts, arm.told, lost, stopped


def _moves(decision: Decision) -> bool:
    return decision.action_A is None or bool(decision.action_A[:6].any())


def many(job: tuple[int, int]) -> tuple[Counter[str], Counter[str], int, int, int]:
    """Streams of seeds start..stop."""
    limits = GateLimits(max_change_m=0.06, max_change_rad=0.3, deadman_ns=DEADMAN_NS)
    violations, verdicts, sums = Counter[str](), Counter[str](), np.zeros(3, np.int64)
    for seed in range(*job):
        bad, counts, *rest = stream(seed, limits)
        violations.update(bad)
        verdicts.update(counts)
        sums += rest
    told, lost, stopped = (int(value) for value in sums)
    return violations, verdicts, told, lost, stopped


def fuzz_core(streams: int, workers: int) -> dict[str, Any]:
    """The pure core, in several processes."""
    started, piece = time.monotonic(), 2000
    jobs = [(start, min(start + piece, streams)) for start in range(0, streams, piece)]
    violations, verdicts, told, lost, stopped = Counter[str](), Counter[str](), 0, 0, 0
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for bad, counts, one_told, one_lost, one_stopped in pool.imap_unordered(many, jobs):
            violations.update(bad)
            verdicts.update(counts)
            told, lost, stopped = told + one_told, lost + one_lost, stopped + one_stopped
    return {
        "streams": streams, "commands": streams * STEPS, "told": told, "violations": dict(+violations),
        "verdicts": dict(verdicts), "links_lost": lost, "stopped_within_one_tick": stopped,
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def fuzz_node(streams: int, domain_id: int) -> dict[str, Any]:
    """The real gate process over DDS, with the same hostile commands and the same arm that obeys exactly."""
    os.environ |= {"ROS_DOMAIN_ID": str(domain_id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    parameters = {
        "armed_at_start": "true",
        "max_change_m": "0.06",
        "max_change_rad": "0.3",
        "deadman_s": str(DEADMAN_NS / 1e9),
    }
    command = [sys.executable, "-m", "gymnast_ros.nodes.command_gate", "--ros-args"]
    command += [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    gate = subprocess.Popen(command)
    try:
        return _fuzz_process(streams)
    finally:
        gate.send_signal(signal.SIGINT)
        gate.wait(10.0)


def _fuzz_process(streams: int) -> dict[str, Any]:
    import rclpy

    from gymnast_ros.nodes.gate_probe import GateProbe

    started = time.monotonic()
    limits = GateLimits(max_change_m=0.06, max_change_rad=0.3, deadman_ns=DEADMAN_NS)
    rclpy.init()
    probe = GateProbe()
    violations, told, lost, stopped = Counter[str](), 0, 0, 0
    stamp_ns, latency_ms = SECOND, []
    for seed in range(streams):
        rng = np.random.default_rng([seed, 7])
        arm = Arm(rng, limits)
        for _ in range(STEPS):
            stamp_ns += STEP_NS
            arm.state = replace(arm.state, stamp_ns=stamp_ns, episode=seed)
            probe.observe(arm.state)
            hazard = HAZARDS[rng.integers(len(HAZARDS))]
            shift_ns = {"replay": -STEP_NS, "future": 30 * SECOND}.get(hazard, 0)
            for unasked_A in probe.drain():  # a hold, because this machine was slow for longer than the deadman
                arm.obey(unasked_A)
            sent_s = time.monotonic()
            answer = probe.ask(hostile(rng, hazard), stamp_ns + shift_ns, 0.02 if shift_ns else 1.0)
            if answer is not None:
                latency_ms.append((time.monotonic() - sent_s) * 1e3)
                arm.obey(answer)
            if hazard == "stall" and answer is not None and seed % 10 == 0:
                hold = probe.wait(DEADMAN_NS / 1e9 + 2 * WIDOWX_250S.step_s)
                lost += 1
                stopped += int(hold is not None and not hold[:6].any())
                if hold is not None:
                    arm.obey(hold)
        told += arm.told
        violations.update(arm.violations)
    probe.close()
    rclpy.try_shutdown()
    round_trip_ms = {f"p{share}": float(np.percentile(latency_ms, share)) for share in (50, 99)}
    return {
        "streams": streams, "commands": streams * STEPS, "told": told, "violations": dict(+violations),
        "links_lost": lost, "stopped_within_one_tick": stopped, "gate_round_trip_ms": round_trip_ms,
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Rows for people."""
    lines = []
    for name, part in result.items():
        violations = sum(part["violations"].values())
        lines.append(
            f"{name:>12}: {part['streams']} streams, {part['commands']} commands, {part['told']} reached the arm, "
            f"{violations} envelope violations, {part['stopped_within_one_tick']}/{part['links_lost']} lost links "
            f"stopped within one tick, {part['seconds']:.0f} s"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; exit code 1 if anything got through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000, help="through the pure core")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--node-streams", type=int, default=0, help="through the real gate process")
    parser.add_argument("--domain", type=int, default=97)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if args.streams:
        parts["core"] = lambda: fuzz_core(args.streams, args.workers)
    if args.node_streams:
        parts["gate process"] = lambda: fuzz_node(args.node_streams, args.domain)
    result = {name: run() for name, run in parts.items()}
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1, sort_keys=True))
    clean = all(
        not part["violations"] and part["stopped_within_one_tick"] == part["links_lost"] for part in result.values()
    )
    return 0 if clean else 1


if __name__ == "__main__":
    raise SystemExit(main())

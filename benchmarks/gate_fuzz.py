"""Fuzzes the command gate: hostile streams through the pure core, and through the real gate process.

python -m benchmarks.gate_fuzz --streams 1000000 --workers 2 --state /tmp/fuzz --node-streams 1000 --json FILE

With --state an interrupted run goes on where it was: finished pieces are kept in that folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.obedient_arm import SECOND, STARTS, STEP_NS, Arm, Ledger
from gymnast_core.arm.command_gate import Command, CommandGate, GateDecision, GateLimits, GateState
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import FloatArray
from gymnast_ros.keyring import VARIABLE, Keyring

HAZARDS = ("wild", "not_finite", "replay", "stall", "seam", "clock_back", "future", "wall")
STEPS = 4
PIECE = 2000
"""Streams of one job: drawn together, checked together."""
DEADMAN_NS = 400_000_000
LIMITS = GateLimits(max_change_m=0.06, max_change_rad=0.3, deadman_ns=DEADMAN_NS)


def hostile(rng: np.random.Generator, kinds_N: npt.NDArray[np.integer]) -> FloatArray:
    """(N, 7) float32 actions, one for each index into HAZARDS."""
    count = len(kinds_N)
    action_NA = rng.normal(0.0, 0.03, (count, 7))
    action_NA[:, 3:6] *= rng.choice([0.0, 3.0], (count, 1))
    kind = {name: kinds_N == HAZARDS.index(name) for name in HAZARDS}
    action_NA *= np.where(kind["wild"], 10.0 ** rng.uniform(0, 6, count), 1.0)[:, None]
    signs_N3 = np.sign(rng.normal(size=(count, 3)))
    action_NA[kind["seam"], :3] = 0.05 * signs_N3[kind["seam"]]
    action_NA[kind["wall"], :3] = 0.05 * signs_N3[kind["wall"]]
    action_NA[kind["wall"], 3:6] = rng.choice([-0.25, 0.0, 0.25], (count, 3))[kind["wall"]]
    broken = np.flatnonzero(kind["not_finite"])
    action_NA[broken, rng.integers(7, size=len(broken))] = rng.choice([np.nan, np.inf, -np.inf], len(broken))
    return action_NA.astype(np.float32)


class Tally:
    """Counts over many streams."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.lost = self.stopped = 0


def stream(arm: Arm, kinds: Sequence[str], actions_TA: FloatArray, tally: Tally) -> None:
    """One stream of commands through a gate of its own; the arm obeys and observes."""
    gate = CommandGate(LIMITS)
    now_ns = 0
    gate.observe(arm.state, now_ns)
    gate.re_arm(now_ns)
    previous: Command | None = None
    for hazard, action_A in zip(kinds, actions_TA, strict=True):
        command = Command(action_A, arm.state.stamp_ns + (STEP_NS if hazard == "future" else 0))
        if hazard == "replay" and previous is not None:
            command = previous
        decision = gate.decide(command, now_ns)
        if decision.action_A is not None:
            arm.obey(decision.action_A)
        previous = command
        if hazard == "stall" and gate.state is GateState.ARMED and gate.tick(now_ns) is None:
            now_ns += 2 * SECOND
            held = gate.tick(now_ns)
            commanded = decision.verdict.value != "dropped"
            tally.lost += int(commanded)
            tally.stopped += int(commanded and held is not None and not _moves(held))
            if held is not None and held.action_A is not None:
                arm.obey(held.action_A)
        now_ns += STEP_NS
        gate.observe(arm.advance(-3 * STEP_NS if hazard == "clock_back" else STEP_NS), now_ns)
        if gate.state is GateState.STOPPED:
            gate.re_arm(now_ns)
            arm.rest()
    tally.verdicts.update(gate.counts)


def _moves(decision: GateDecision) -> bool:
    return decision.action_A is None or bool(decision.action_A[:6].any())


def piece(job: tuple[int, int]) -> dict[str, Any]:
    """Streams start..stop; start names the random numbers, so a piece is always the same."""
    start, stop = job
    rng = np.random.default_rng([start, 20261122])
    kinds_NT = rng.integers(len(HAZARDS), size=(stop - start, STEPS))
    actions_NTA = hostile(rng, kinds_NT.ravel()).reshape(stop - start, STEPS, 7)
    starts_N = rng.integers(len(STARTS), size=stop - start)
    ledger, tally = Ledger(), Tally()
    for kinds_T, actions_TA, place in zip(kinds_NT.tolist(), actions_NTA, starts_N.tolist(), strict=True):
        stream(Arm(ledger, place), [HAZARDS[kind] for kind in kinds_T], actions_TA, tally)
    return {
        "start": start, "streams": stop - start, "told": len(ledger.told), "moves": len(ledger.moves),
        "violations": dict(ledger.violations(LIMITS)), "verdicts": dict(tally.verdicts),
        "links_lost": tally.lost, "stopped_within_one_tick": tally.stopped, "cpu_seconds": 0.0,
    }  # fmt: skip


def timed_piece(job: tuple[int, int]) -> dict[str, Any]:
    """A piece with the processor time it took."""
    started_s = time.process_time()
    return {**piece(job), "cpu_seconds": time.process_time() - started_s}


def fuzz_core(streams: int, workers: int, state: Path | None = None) -> dict[str, Any]:
    """The pure core, in several processes; pieces found in the state folder are not run again."""
    started = time.monotonic()
    jobs = [(start, min(start + PIECE, streams)) for start in range(0, streams, PIECE)]
    done = {job: found for job in jobs if (found := _kept(state, job)) is not None}
    left = [job for job in jobs if job not in done]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for result in pool.imap_unordered(timed_piece, left):
            job = (result["start"], result["start"] + result["streams"])
            done[job] = result
            _keep(state, job, result)
    parts = list(done.values())
    violations, verdicts = Counter[str](), Counter[str]()
    for part in parts:
        violations.update(part["violations"])
        verdicts.update(part["verdicts"])
    sums = {name: sum(part[name] for part in parts) for name in ("streams", "told", "moves", "links_lost")}
    cpu_s = sum(part["cpu_seconds"] for part in parts)
    return {
        **sums, "commands": sums["streams"] * STEPS, "violations": dict(+violations), "verdicts": dict(verdicts),
        "stopped_within_one_tick": sum(part["stopped_within_one_tick"] for part in parts),
        "streams_per_core_second": sums["streams"] / cpu_s, "seconds": time.monotonic() - started,
    }  # fmt: skip


def _kept(state: Path | None, job: tuple[int, int]) -> dict[str, Any] | None:
    path = None if state is None else state / f"{job[0]}-{job[1]}.json"
    return None if path is None or not path.is_file() else dict(json.loads(path.read_text()))


def _keep(state: Path | None, job: tuple[int, int], result: dict[str, Any]) -> None:
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
        fresh = state / f".{job[0]}"
        fresh.write_text(json.dumps(result))
        fresh.rename(state / f"{job[0]}-{job[1]}.json")


def fuzz_node(streams: int, domain_id: int) -> dict[str, Any]:
    """The real gate process over DDS, with the same hostile commands and the same arm that obeys exactly."""
    keys = tempfile.TemporaryDirectory()
    os.environ |= {
        "ROS_DOMAIN_ID": str(domain_id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        VARIABLE: str(Keyring.make(Path(keys.name)).folder),
    }  # fmt: skip
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
        keys.cleanup()


def _fuzz_process(streams: int) -> dict[str, Any]:
    import rclpy

    from benchmarks.gate_probe import GateProbe

    started = time.monotonic()
    rclpy.init()
    probe = GateProbe()
    ledger, lost, stopped = Ledger(), 0, 0
    stamp_ns, latency_ms = SECOND, []
    for seed in range(streams):
        rng = np.random.default_rng([seed, 7])
        arm = Arm(ledger, int(rng.integers(len(STARTS))))
        kinds_T = rng.integers(len(HAZARDS), size=STEPS)
        for kind, action_A in zip(kinds_T.tolist(), hostile(rng, kinds_T), strict=True):
            stamp_ns += STEP_NS
            arm.state = replace(arm.state, stamp_ns=stamp_ns, episode=seed)
            probe.observe(arm.state)
            shift_ns = {"replay": -STEP_NS, "future": 30 * SECOND}.get(HAZARDS[kind], 0)
            for unasked_A in probe.drain():  # a hold, because this machine was slow for longer than the deadman
                arm.obey(unasked_A)
            sent_s = time.monotonic()
            answer = probe.ask(action_A, stamp_ns + shift_ns, 0.02 if shift_ns else 1.0)
            if answer is not None:
                latency_ms.append((time.monotonic() - sent_s) * 1e3)
                arm.obey(answer)
            if HAZARDS[kind] == "stall" and answer is not None and seed % 10 == 0:
                hold = probe.wait(DEADMAN_NS / 1e9 + 2 * WIDOWX_250S.step_s)
                lost += 1
                stopped += int(hold is not None and not hold[:6].any())
                if hold is not None:
                    arm.obey(hold)
    probe.close()
    rclpy.try_shutdown()
    round_trip_ms = {f"p{share}": float(np.percentile(latency_ms, share)) for share in (50, 99)}
    return {
        "streams": streams, "commands": streams * STEPS, "told": len(ledger.told),
        "violations": dict(ledger.violations(LIMITS)), "links_lost": lost, "stopped_within_one_tick": stopped,
        "gate_round_trip_ms": round_trip_ms, "seconds": time.monotonic() - started,
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
            + (f", {rate:.0f} streams/s per core" if (rate := part.get("streams_per_core_second")) else "")
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; exit code 1 if anything got through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000, help="through the pure core")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--state", type=Path, help="folder of finished pieces; the same one goes on")
    parser.add_argument("--node-streams", type=int, default=0, help="through the real gate process")
    parser.add_argument("--domain", type=int, default=97)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if args.streams:
        parts["core"] = lambda: fuzz_core(args.streams, args.workers, args.state)
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

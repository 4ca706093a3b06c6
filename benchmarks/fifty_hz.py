"""Real-time chunking at 50 Hz on the simulated arm: chunks of 50, inference that takes 90 or 200 ms.

    python -m benchmarks.fifty_hz                  # the shipped flow policy in lockstep, then 20 s of wall clock
    python -m benchmarks.fifty_hz --episodes 10 --seconds 0

In lockstep time stands still while anything is computed, and a chunk arrives a fixed number of ticks after it was asked
for: a busy machine changes nothing. The wall-clock part runs the same loop with a policy that sleeps.
A seam is a tick at which another plan takes over; a jump is the largest change of a commanded speed along one axis from
one tick to the next. Every command passes the gate's envelope.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.policy import Disagreeing, control_loop
from gymnast_core.arm.envelope import ArmState, Envelope
from gymnast_core.arm.limits import GateLimits
from gymnast_core.errors import SafetyError
from gymnast_core.policies import load_policy
from gymnast_core.policies.chunking import ChunkingConfig, RealTimeChunking
from gymnast_core.policies.stretched import StretchedPolicy
from gymnast_core.policy import Policy
from gymnast_core.rollout import run_episode
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.types import ActionChunk, Observation
from gymnast_ros.rates import steps_per_action
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.simulated_arm import SimulatedArm
from gymnast_ros.sim.tasks import TASKS

RATE_HZ, POLICY_HZ = 50.0, 5.0
PARTS = steps_per_action(RATE_HZ, POLICY_HZ)
CHUNKING = ChunkingConfig(horizon=20, expected_delay=10, max_jump_m=0.001, max_jump_rad=0.005)
"""As `gymnast up --rate-hz 50 --chunking real_time` has it."""
LATENCIES_S = (0.09, 0.2)
INSTRUCTIONS = tuple(task.instruction for task in TASKS.values())
JITTER_BOUND = 0.1
"""Of a period, as in benchmarks.policy."""


class OnTick(Future[ActionChunk]):
    """Done at its tick, or at once for a caller that waits: an arm that stands still loses nothing."""

    def __init__(self, chunk: ActionChunk) -> None:
        super().__init__()
        self.chunk = chunk

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See Future.exception."""
        if not self.done():
            self.set_result(self.chunk)
        return super().exception(timeout)


class LockstepWorker:
    """A ChunkWorker whose chunks arrive a number of ticks later, however long computing them takes."""

    def __init__(self, latency_s: float) -> None:
        self._ticks, self._now = math.ceil(latency_s * RATE_HZ), 0
        self._waiting: list[tuple[int, OnTick]] = []

    def submit(self, work: Callable[[], ActionChunk]) -> Future[ActionChunk]:
        """Compute now, deliver later."""
        future = OnTick(work())
        self._waiting.append((self._now + self._ticks, future))
        return future

    def tick(self) -> None:
        """A tick is over."""
        self._now += 1
        for due, future in self._waiting:
            if due <= self._now:
                future.exception()
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]

    def shutdown(self) -> None:
        """Nothing runs."""


class Blended:
    """Hides that a policy can plan on from what is committed: the chunks are blended afterwards."""

    def __init__(self, inner: Policy) -> None:
        self._inner, self.version, self.chunk_length = inner, inner.version, inner.chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """See Policy."""
        return self._inner.act(observation, instruction, rng=rng)


@dataclass
class Found:
    """What was seen of one policy at one latency."""

    at_seams: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    wanted: list[float] = field(default_factory=list)
    ticks: int = 0
    starved: int = 0
    cut: int = 0
    successes: int = 0


def lockstep(policy: Policy, latency_s: float, seeds: Sequence[int]) -> Found:
    """Run episodes of every task on the simulated arm at 50 Hz."""
    arm, found = SimulatedArm(rate_hz=RATE_HZ), Found()
    envelope = Envelope(GateLimits().at(RATE_HZ))
    for seed, instruction in [(seed, text) for text in INSTRUCTIONS for seed in seeds]:
        worker = LockstepWorker(latency_s)
        chunking = RealTimeChunking(policy, CHUNKING, worker=worker)
        observation, last_A, done = arm.reset(instruction, seed=seed), np.zeros(7, np.float32), False
        while not done:
            before = len(chunking.seams)
            wanted_A = chunking.act(observation, [instruction]).actions_BKA[0, 0]
            try:
                sent_A, _ = envelope.limit(wanted_A, last_A.tolist(), ArmState(0, *arm.arm_target()))
            except SafetyError:
                sent_A = np.array([0.0] * 6 + [last_A[6]], np.float32)
            found.cut += int(not np.allclose(sent_A, wanted_A, atol=1e-6))
            jump_m_s = float(np.abs(wanted_A - last_A)[:3].max()) * RATE_HZ
            (found.at_seams if len(chunking.seams) > before else found.inside).append(jump_m_s)
            result = arm.step(sent_A[None])
            chunking.on_step(sent_A[None], result, ActionChunk(sent_A[None, None], policy.version), 0)
            observation, last_A, done = result.observation, result.commanded_BA[0], bool(result.done_B.all())
            found.ticks += 1
            worker.tick()
        found.wanted += [float(seam.raw_jump_B6[:, :3].max()) * RATE_HZ for seam in chunking.seams]
        found.starved += chunking.starved_ticks
        found.successes += int(arm.succeeded())
    arm.close()
    return found


def waiting(seeds: Sequence[int]) -> int:
    """Return in how many of the same episodes the flow succeeds at 5 Hz, time standing still while it thinks."""
    flow, env, successes = load_policy(shipped_checkpoints() / "flow_policy"), SimEnv(), 0
    for instruction in INSTRUCTIONS:
        for seed in seeds:
            run_episode(env, flow, instruction, seed=seed)
            successes += int(env.succeeded())
    env.close()
    return successes


def policies() -> dict[str, Policy]:
    """The shipped flow policy, planning on or blended; and one that contradicts itself as badly as it can."""
    flow = StretchedPolicy(load_policy(shipped_checkpoints() / "flow_policy"), PARTS)
    return {
        "flow, planning on": flow,
        "flow, blended": Blended(flow),
        "contradicting itself": StretchedPolicy(Disagreeing(0.0), PARTS),
    }


def show_lockstep(console: Console, seeds: Sequence[int]) -> bool:
    """Print a line for every policy and latency; returns whether all bounds were kept."""
    table = Table(
        title=f"50 Hz in lockstep, chunks of 50, {len(seeds)} episodes of each task; speeds in mm/s",
        title_justify="left",
    )
    heads = ("policy", "latency ms", "ticks", "starved", "seams", "wanted jump p99", "at seams p50", "p99", "largest",
             "inside p99", "cut by the gate", "successes")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head == "policy" else "right")
    bound, kept = CHUNKING.max_jump_m * RATE_HZ, True
    for name, policy in policies().items():
        for latency_s in LATENCIES_S:
            found = lockstep(policy, latency_s, seeds)
            kept &= found.starved == 0 and max(found.at_seams) <= bound + 1e-4
            speeds = (*_share(found.wanted, 99), *_share(found.at_seams, 50, 99, 100), *_share(found.inside, 99))
            counts = (1e3 * latency_s, found.ticks, found.starved, len(found.at_seams))
            row = (*counts, *(1e3 * speed for speed in speeds), found.cut, found.successes)
            table.add_row(name, *(f"{value:.4g}" for value in row))
    console.print(table)
    episodes = len(seeds) * len(INSTRUCTIONS)
    console.print(f"the flow at 5 Hz, waiting for every chunk: {waiting(seeds)} successes of {episodes}")
    console.print(f"bound of a seam {1e3 * bound:.0f} mm/s and no tick without an action: {_verdict(kept)}")
    return kept


def show_wall_clock(console: Console, seconds: float) -> None:
    """Print how late ticks of a real 50 Hz loop are while the policy sleeps beside it."""
    for latency_s in LATENCIES_S:
        wrapped = RealTimeChunking(StretchedPolicy(Disagreeing(latency_s), PARTS), CHUNKING)
        late, actions = control_loop(_acting(wrapped), round(seconds * RATE_HZ), period_s=1 / RATE_HZ)
        p50, p99 = (1e3 * value for value in _share(late.tolist(), 50, 99))
        largest = float(np.abs(np.diff(actions, axis=0))[:, :3].max()) * RATE_HZ
        seams, starved = len(wrapped.seams), wrapped.starved_ticks
        wrapped.close()
        console.print(
            f"wall clock, {1e3 * latency_s:.0f} ms: jitter p50 {p50:.2f} ms, p99 {p99:.2f} ms (bound "
            f"{1e3 * JITTER_BOUND / RATE_HZ:.0f} ms: {_verdict(p99 <= 1e3 * JITTER_BOUND / RATE_HZ)}), largest jump "
            f"{1e3 * largest:.0f} mm/s, {seams} seams, {starved} starved"
        )


def _acting(policy: RealTimeChunking) -> Callable[[Observation], np.ndarray[Any, Any]]:
    return lambda seen: policy.act(seen, INSTRUCTIONS[:1]).actions_BKA[0, 0]


def _share(values: Sequence[float], *percents: float) -> list[float]:
    return [float(np.percentile(values, percent)) for percent in percents]


def _verdict(kept: bool) -> str:
    return "kept" if kept else "BROKEN"


def main() -> int:
    """Measure and print; 1 where lockstep breaks a bound."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=10, help="of each task")
    parser.add_argument("--seconds", type=float, default=10.0, help="wall clock for each latency; 0 leaves it out")
    options = parser.parse_args()
    console, began_s = Console(width=170), time.monotonic()
    kept = show_lockstep(console, range(2_000_000, 2_000_000 + options.episodes))
    if options.seconds > 0:
        show_wall_clock(console, options.seconds)
    console.print(f"{time.monotonic() - began_s:.0f} s")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

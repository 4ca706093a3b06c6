"""Real-time chunking: the next chunk is computed while this one executes. A policy holding a policy.

At tick i inference starts on the newest observation; the old plan goes on. When the new chunk arrives at tick i+d, its
first d actions are history: they are frozen to what was commanded meanwhile. What both plans still cover is blended,
old weighing less and less, and no component of the arm's motion may jump by more than a bound from one tick to the
next while a new plan takes over. Nothing here ever waits, except for an episode's very first chunk.

Source:
    Black, Galliker, Levine, "Real-Time Execution of Action Chunking Flow Policies", arXiv 2506.07339: the schedule
    (algorithm 1) and the soft mask (eq. 5). A flow that acts greedily plans on from what is committed, inside the flow
    (gymnast_core.policies.inpainting); for other policies the mask blends finished chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.policies.plans import GRIPPER, Plan, blend, committed_by
from gymnast_core.policy import Committed, ContinuingPolicy, Policy, can_continue
from gymnast_core.types import ActionChunk, FloatArray, Observation, StepResult


class ChunkWorker(Protocol):
    """Runs inference beside the control loop; concurrent.futures executors keep it."""

    def submit(self, work: Callable[[], ActionChunk]) -> Future[ActionChunk]:
        """Start work and return at once."""
        ...

    def shutdown(self) -> None:
        """Release the thread."""
        ...


@dataclass(frozen=True)
class ChunkingConfig:
    """How plans follow each other.

    Attributes:
        horizon: ticks of a chunk executed before the next inference starts, at least 1.
        expected_delay: ticks an inference usually takes; horizon + expected_delay may not exceed K.
        max_jump_m: largest change of a translation component from one tick to the next at a seam.
        max_jump_rad: the same for rotation.
        first_wait_s: longest wait for an episode's first chunk; the arm stands still meanwhile.
        new_episode_gap_ns: observations further apart than this start a new episode.
    """

    horizon: int = 2
    expected_delay: int = 1
    max_jump_m: float = 0.01
    max_jump_rad: float = 0.05
    first_wait_s: float = 30.0
    new_episode_gap_ns: int = 2_000_000_000

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.horizon < 1 or self.expected_delay < 0:
            raise ConfigError(f"horizon must be at least 1 and expected_delay at least 0, got {self}")
        if self.max_jump_m <= 0 or self.max_jump_rad <= 0 or self.first_wait_s <= 0:
            raise ConfigError(f"max_jump_m, max_jump_rad and first_wait_s must be positive, got {self}")


@dataclass(frozen=True)
class Seam:
    """One change of plan.

    Attributes:
        delay: ticks the inference took.
        raw_jump_B6: (B, 6) |new plan's action - action before it|, as the inner policy would have jumped.
        jump_B6: (B, 6) what was commanded instead.
    """

    delay: int
    raw_jump_B6: FloatArray
    jump_B6: FloatArray


@dataclass
class _Episode:
    """Everything that a new episode forgets."""

    instruction: tuple[str, ...]
    tick: int = 0
    last_time_ns: int = 0
    plan: Plan | None = None
    started: int = -1
    pending: Future[ActionChunk] | None = None
    continued: bool = False
    longest: int = 0
    last_BA: FloatArray | None = None
    settling: bool = False
    blended_until: int = 0
    seams: list[Seam] = field(default_factory=list)
    starved: int = 0


class RealTimeChunking:
    """One action per call from a policy that thinks in chunks and takes longer than a tick.

    Also an Observer of gymnast_core.rollout: passed to run_episode it learns where episodes begin. Without that it
    notices by itself from the instruction, from time running backwards, or from a gap.

    Attributes:
        inner: the policy that plans.
        config: how plans follow each other.
    """

    chunk_length = 1

    def __init__(self, inner: Policy, config: ChunkingConfig | None = None, worker: ChunkWorker | None = None) -> None:
        self.inner = inner
        self.config = config or ChunkingConfig()
        if self.config.horizon + self.config.expected_delay > inner.chunk_length:
            raise ConfigError(
                f"horizon {self.config.horizon} + expected_delay {self.config.expected_delay} exceeds the chunk of "
                f"{inner.chunk_length}: the arm would run out of actions; shorten one or speed up the policy"
            )
        self._worker: ChunkWorker = worker or ThreadPoolExecutor(1, thread_name_prefix="chunk")
        self._continuing: ContinuingPolicy | None = can_continue(inner)
        self._episode = _Episode(())

    @property
    def version(self) -> str:
        """The planning policy's version."""
        return self.inner.version

    @property
    def seams(self) -> Sequence[Seam]:
        """Changes of plan in this episode."""
        return tuple(self._episode.seams)

    @property
    def starved_ticks(self) -> int:
        """Ticks of this episode at which no planned action was left and the arm was held."""
        return self._episode.starved

    def close(self) -> None:
        """Stop the worker."""
        self._worker.shutdown()

    def reset(self) -> None:
        """Forget the plan; an inference still under way is ignored when it ends."""
        self._episode = _Episode(())

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        """Start a new episode (gymnast_core.rollout.Observer)."""
        self.reset()

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        """Take up what was really commanded: limits of the gate belong to the frozen past."""
        if self._episode.last_BA is not None:
            self._episode.last_BA = result.commanded_BA.copy()

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return this tick's action as a chunk of one; tokens are left out, because blended actions have none.

        Raises:
            ContractError: the number of instructions differs from B.
            GymnastError: whatever the inner policy raised in the background, one tick later.
        """
        if len(instruction) != observation.batch_size:
            raise ContractError(f"{len(instruction)} instructions for {observation.batch_size} rows; pass one per row")
        self._begin_if_new(observation, tuple(instruction))
        episode = self._episode
        if episode.pending is None and self._is_due():
            self._start(observation, instruction, rng)
        if episode.plan is None and episode.pending is not None:
            episode.pending.exception(timeout=self.config.first_wait_s)
        self._take_over()
        action_BA = self._settle(self._planned(observation.batch_size))
        episode.last_BA, episode.tick = action_BA, episode.tick + 1
        episode.last_time_ns = int(observation.time_ns_B[0])
        version = episode.plan.version if episode.plan else self.inner.version
        return ActionChunk(action_BA[:, None].astype(np.float32), version)

    def _begin_if_new(self, observation: Observation, instruction: tuple[str, ...]) -> None:
        elapsed = int(observation.time_ns_B[0]) - self._episode.last_time_ns
        running = self._episode.instruction == instruction and 0 <= elapsed <= self.config.new_episode_gap_ns
        if not running:
            self._episode = _Episode(instruction)

    def _is_due(self) -> bool:
        episode = self._episode
        return episode.started < 0 or episode.tick - episode.started >= self.config.horizon

    def _start(self, observation: Observation, instruction: Sequence[str], rng: np.random.Generator | None) -> None:
        self._episode.started = self._episode.tick
        drawn = {name: observation.images[name] for name in observation.images}  # lazy frames belong to this thread
        seen = replace(observation, images=drawn)
        committed = self._committed(observation.batch_size) if rng is None else None
        self._episode.continued = committed is not None
        self._episode.pending = self._worker.submit(lambda: self._asked(seen, instruction, rng, committed))

    def _asked(
        self, seen: Observation, instruction: Sequence[str], rng: np.random.Generator | None,
        committed: Committed | None,
    ) -> ActionChunk:  # fmt: skip
        if committed is None or self._continuing is None:
            return self.inner.act(seen, instruction, rng=rng)
        return self._continuing.act_after(committed, seen, instruction)

    def _committed(self, rows: int) -> Committed | None:
        """The plan from this tick on; frozen for as long as the slowest inference of this episode took."""
        episode, length = self._episode, self.inner.chunk_length
        if self._continuing is None or episode.plan is None:
            return None
        delay = min(max(self.config.expected_delay, episode.longest), length - self.config.horizon)
        return committed_by(episode.plan, episode.tick, rows, delay=delay, horizon=self.config.horizon)

    def _take_over(self) -> None:
        """Make a finished chunk the plan: frozen where executed, blended where both plans speak."""
        episode = self._episode
        if episode.pending is None or not episode.pending.done():
            return
        chunk, episode.pending = episode.pending.result(), None
        new = Plan(episode.started, chunk.actions_BKA.copy(), chunk.policy_version)
        delay = episode.tick - new.start
        first_BA = new.at(episode.tick)
        if first_BA is None:  # came after everything it planned; plan again
            return
        raw_BA = first_BA.copy()
        if episode.plan is not None:
            episode.longest = max(episode.longest, delay)
        if episode.plan is not None and not episode.continued:
            blend(episode.plan, new, episode.tick, horizon=self.config.horizon)
            episode.blended_until = new.start + new.actions_BKA.shape[1] - self.config.horizon
        episode.plan = new
        if episode.last_BA is not None:
            self._record(raw_BA, new, delay)

    def _record(self, raw_BA: FloatArray, new: Plan, delay: int) -> None:
        episode = self._episode
        episode.settling = True
        wanted_BA, last_BA = new.at(episode.tick), episode.last_BA
        if wanted_BA is not None and last_BA is not None:
            commanded = last_BA + self._bounded(wanted_BA - last_BA)
            episode.seams.append(
                Seam(delay, np.abs(raw_BA - last_BA)[:, :GRIPPER], np.abs(commanded - last_BA)[:, :GRIPPER])
            )

    def _planned(self, rows: int) -> FloatArray:
        """The plan's action for this tick, or hold: no motion, gripper as it was."""
        action_BA = self._episode.plan.at(self._episode.tick) if self._episode.plan else None
        if action_BA is not None:
            return action_BA.copy()
        self._episode.starved += 1
        hold_BA = np.zeros((rows, GRIPPER + 1), np.float32)
        last_BA = self._episode.last_BA
        hold_BA[:, GRIPPER] = 1.0 if last_BA is None else last_BA[:, GRIPPER]
        return hold_BA

    def _settle(self, wanted_BA: FloatArray) -> FloatArray:
        """Bound the change per tick until the new plan alone has been reached; from there the policy's word stands."""
        episode, last_BA = self._episode, self._episode.last_BA
        if last_BA is None or not episode.settling:
            return wanted_BA
        change_BA = self._bounded(wanted_BA - last_BA)
        reached = np.allclose(last_BA + change_BA, wanted_BA, atol=1e-7)
        episode.settling = not reached or episode.tick < episode.blended_until
        settled: FloatArray = (last_BA + change_BA).astype(np.float32)
        return settled

    def _bounded(self, change_BA: FloatArray) -> FloatArray:
        bound_A = np.array([self.config.max_jump_m] * 3 + [self.config.max_jump_rad] * 3 + [np.inf], np.float32)
        bounded: FloatArray = np.clip(change_BA, -bound_A, bound_A)
        return bounded

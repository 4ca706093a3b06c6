"""Roll a policy out in any environment and keep what a judge and a learner need: frames at chunk ends, tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_trainer.practice.gathering import Gathering
from cloud_trainer.progress import CancelledError, never
from cloud_trainer.world_model.compact.data import Clips, starts_of
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World
from gymnast_core.env import Env, instructions_for
from gymnast_core.errors import ContractError
from gymnast_core.policy import Policy
from gymnast_core.rollout import run_episode
from gymnast_core.types import (
    ActionChunk,
    FloatArray,
    IntArray,
    Observation,
    RolloutBatch,
    StepResult,
    Trace,
)


class RecordedActions:
    """A policy that plays back recorded actions, all rows in step; for audits."""

    chunk_length = 5

    def __init__(self, actions_BTA: FloatArray, version: str = "recorded") -> None:
        self._actions_BTA, self._step, self.version = actions_BTA, 0, version

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return the next recorded actions; past the end the last one repeats."""
        index = np.minimum(self._step + np.arange(self.chunk_length), self._actions_BTA.shape[1] - 1)
        self._step += self.chunk_length
        return ActionChunk(np.ascontiguousarray(self._actions_BTA[:, index]), self.version)


class _Keeper:
    """Observer that gathers a rollout: frames at chunk ends, and what the policy says of its choices."""

    def __init__(self, camera: str) -> None:
        self._camera = camera
        self._gathering = Gathering((), np.zeros((0, 1, 1, 3), np.uint8))
        self._traces: list[Trace] = []
        self._log_probs: list[FloatArray] = []
        self._version = ""

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        self._gathering = Gathering(instructions, observation.images[self._camera])

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        self._gathering.add(result)
        self._version = chunk.policy_version
        if index == 0:
            self._traces.append(chunk.trace)
        exact = chunk.log_probs_BKA
        self._log_probs.append(np.zeros_like(result.commanded_BA) if exact is None else exact[:, index])
        if index == chunk.actions_BKA.shape[1] - 1 or result.done_B.all():
            self._gathering.look(result.observation.images[self._camera])

    def rollouts(self, group_B: IntArray | None) -> RolloutBatch:
        return self._gathering.rollouts(
            self._version, log_probs_BTA=np.stack(self._log_probs, axis=1), group_B=group_B,
            trace={name: np.stack([trace[name] for trace in self._traces], axis=1) for name in self._traces[0]},
        )  # fmt: skip


def imagine(
    env: Env,
    policy: Policy,
    instruction: str | Sequence[str],
    *,
    seed: int,
    rng: np.random.Generator | None = None,
    group_B: IntArray | None = None,
    cancelled: Callable[[], bool] = never,
) -> RolloutBatch:
    """Run one batch of episodes in any environment.

    Args:
        env: reset here.
        policy: asked at every chunk start.
        instruction: one for all rows, or B.
        seed: of the start states.
        rng: sampling noise of the policy; None is greedy.
        group_B: (B,) group of each row; default: each row its own.
        cancelled: asked before every step.

    Returns:
        B rollouts; frames at 0, K, 2K, ... and the end.

    Raises:
        CancelledError: cancelled.
    """
    rows = instructions_for(instruction, env.spec.batch_size)
    keeper = _Keeper(env.spec.cameras[0])
    last = run_episode(env, policy, rows, seed=seed, rng=rng, observers=[keeper], cancelled=cancelled)
    if not last.done_B.all():
        raise CancelledError("cancelled while imagining")
    return keeper.rollouts(group_B)


def imagine_from(
    world: World,
    starts: Sequence[StartState],
    policy: Policy,
    *,
    seed: int,
    rng: np.random.Generator | None = None,
    group_B: IntArray | None = None,
    cancelled: Callable[[], bool] = never,
) -> RolloutBatch:
    """Run one episode from every start in a world, one after the other as many as it dreams together.

    Args:
        world: to dream in.
        starts: one per row.
        policy: asked at every chunk start.
        seed: of the world's noise.
        rng: sampling noise of the policy; None is greedy.
        group_B: (B,) group of each row; default: each row its own.
        cancelled: asked before every step.

    Raises:
        CancelledError: cancelled.
    """
    group_B = np.arange(len(starts)) if group_B is None else group_B
    batches = []
    for rows in _batches(world, len(starts)):
        env, texts = world.env(starts[rows]), [start.instruction for start in starts[rows]]
        own = seed + rows.start
        batches.append(imagine(env, policy, texts, seed=own, rng=rng, group_B=group_B[rows], cancelled=cancelled))
    return join_rollouts(batches)


def _batches(world: World, rows: int) -> list[slice]:
    most = world.batch_size or max(1, rows)
    return [slice(low, low + most) for low in range(0, rows, most)]


def join_rollouts(batches: Sequence[RolloutBatch]) -> RolloutBatch:
    """Put batches behind each other; where all rows of one ended sooner, they stand still to the end of the longest.

    Raises:
        ContractError: their kept frames differ otherwise.
    """
    longest = max(batches, key=lambda batch: batch.actions_BTA.shape[1])
    batches = [_lengthened(batch, longest) for batch in batches]
    return replace(RolloutBatch.joined(batches), policy_version=longest.policy_version)


def _lengthened(batch: RolloutBatch, longest: RolloutBatch) -> RolloutBatch:
    frames, steps = len(batch.frame_steps_F), batch.actions_BTA.shape[1]
    if list(batch.frame_steps_F) != list(longest.frame_steps_F[:frames]):
        raise ContractError("rollouts keep frames at different steps; they cannot be joined")
    still, idle = len(longest.frame_steps_F) - frames, longest.actions_BTA.shape[1] - steps
    if not still and not idle:
        return batch
    shown = np.concatenate((batch.frames_BFHWC, np.repeat(batch.frames_BFHWC[:, -1:], still, axis=1)), axis=1)
    return replace(
        batch,
        frame_steps_F=longest.frame_steps_F,
        frames_BFHWC=shown,
        actions_BTA=_padded(batch.actions_BTA, steps + idle),
        log_probs_BTA=_padded(batch.log_probs_BTA, steps + idle),
        trace={name: _padded(array, longest.trace[name].shape[1]) for name, array in batch.trace.items()},
    )


def _padded(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """The array with its second axis filled up with zeros."""
    return np.pad(array, ((0, 0), (0, length - array.shape[1]), *((0, 0),) * (array.ndim - 2)))


def replay_clips(
    world: World, clips: Clips, *, seed: int, step: int = 0, cancelled: Callable[[], bool] = never
) -> RolloutBatch:
    """Imagine recorded episodes again: their start frame, their actions, the model's frames.

    Args:
        world: to dream in.
        clips: episodes of any length, at its image size; a shorter one's dream ends, and stands still, where it did.
        seed: of the model's noise.
        step: where the dream takes over from the recording, a chunk start.
        cancelled: asked before every step.
    """
    starts, batches = starts_of(clips, steps=(step,), ends=clips.length_N), []
    for rows in _batches(world, len(starts)):
        env = world.env(starts[rows])
        policy = RecordedActions(clips.actions_NTA[rows, step:])
        texts = clips.instructions[rows]
        batches.append(imagine(env, policy, texts, seed=seed + rows.start, cancelled=cancelled))
    rollouts = join_rollouts(batches)
    frames = rollouts.frames_BFHWC.copy()
    frames[:, 0] = clips.frames_NTHWC[:, 0]
    return replace(rollouts, frames_BFHWC=frames, group_B=np.arange(len(starts)))

"""Pieces of rollout work and the workers that do them.

A piece names its starts and its seeds, so its result does not depend on the worker, or on how often it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.practice.policy_weights import Weights, load_weights
from cloud_trainer.practice.train import first_frames, judged
from cloud_trainer.progress import Cancelled, never
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.judge import Judge
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.policy import Policy, Wrapper
from gymnast_core.types import ActionChunk, ByteArray, Observation, RolloutBatch


@dataclass(frozen=True)
class Ground:
    """A world, and where in it practice may begin.

    Attributes:
        world: makes the world, e.g. functools.partial(load_world, folder).
        starts: recorded beginnings.
        keyframes: recorded later chunk starts, for GrpoConfig.keyframe_share of the groups here.
        share: of all groups that begin here; the first ground has what the others leave.
    """

    world: Callable[[], World]
    starts: Sequence[StartState]
    keyframes: Sequence[StartState] = ()
    share: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to build itself; every part travels to other processes.

    Attributes:
        worlds: make the worlds, one of each ground.
        judge: makes the judge, e.g. functools.partial(LearnedJudge.load, folder).
        policy: checkpoint folder the policy is built from; newer weights are sent by version. None where the
            learner's own policy acts.
        lora: a fresh adapter is trained on it; see load_trainable.
        temperature: of sampling.
        exploration: of a flow policy; None is its checkpoint's own.
        mask_after_success: see GrpoConfig.
        device: of a large policy, as the worker's process sees it; see load_trainable.
    """

    worlds: tuple[Callable[[], World], ...]
    judge: Callable[[], Judge]
    policy: Path | None = None
    lora: LoraSettings | None = None
    temperature: float = 1.0
    exploration: Exploration | None = None
    mask_after_success: bool = False
    device: str = "cpu"

    @staticmethod
    def of(
        grounds: Sequence[Ground], judge: Callable[[], Judge], policy: Path | None, lora: LoraSettings | None,
        config: GrpoConfig, *, device: str = "cpu",
    ) -> Recipe:  # fmt: skip
        """Return it for practice on these grounds, with what the configuration says about sampling and judging."""
        worlds = tuple(ground.world for ground in grounds)
        return Recipe(
            worlds, judge, policy, lora, config.temperature, config.exploration, config.mask_after_success, device
        )


@dataclass(frozen=True)
class Work:
    """A piece: some groups.

    Attributes:
        index: its place in the batch.
        starts: one per group.
        first_group: name of its first group; the others follow.
        group_size: rollouts per group.
        seed: of the world's noise and the policy's samples.
        ground: which of the worlds it is dreamt in.
    """

    index: int
    starts: tuple[StartState, ...]
    first_group: int
    group_size: int
    seed: int
    ground: int = 0


@dataclass(frozen=True)
class Imagined:
    """A rolled-out piece before judgement.

    Attributes:
        rollouts: rows of the piece's groups.
        first_BHWC: their episodes' first frames.
        seconds: {"policy", "world_model"} of wall time.
    """

    rollouts: RolloutBatch
    first_BHWC: ByteArray
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Piece:
    """A finished piece.

    Attributes:
        index: of the work.
        scored: rollouts with rewards.
        seconds: {"policy", "world_model", "judge"} of wall time.
    """

    index: int
    scored: Scored
    seconds: Mapping[str, float]


class _Timed(Wrapper):
    """A policy holding a policy: separates drawing the frame (world model) from choosing the action."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.policy_s = 0.0

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        drawn = replace(observation, images={name: observation.images[name] for name in observation.images})
        begin = time.perf_counter()
        chunk = self.inner.act(drawn, instruction, rng=rng)
        self.policy_s += time.perf_counter() - begin
        return chunk


def roll_out(world: World, policy: Policy, work: Work, version: str, *, cancelled: Cancelled = never) -> Imagined:
    """Imagine a piece under a policy's present weights; their version rides with the data.

    Raises:
        CancelledError: cancelled; asked before every imagined step.
    """
    rows = [start for start in work.starts for _ in range(work.group_size)]
    group_B = work.first_group + np.repeat(np.arange(len(work.starts)), work.group_size)
    timed, rng = _Timed(policy), np.random.default_rng(work.seed)
    begin = time.perf_counter()
    with _rows_together(policy):
        rollouts = imagine_from(world, rows, timed, seed=work.seed, rng=rng, group_B=group_B, cancelled=cancelled)
    spent = time.perf_counter() - begin
    seconds = {"policy": timed.policy_s, "world_model": spent - timed.policy_s}
    return Imagined(replace(rollouts, policy_version=version), first_frames(rows), seconds)


@contextmanager
def _rows_together(policy: Policy) -> Iterator[None]:
    """Let a small policy act on many rows in one pass: a piece has the same rows wherever it is done."""
    acting: Any = getattr(policy, "base", policy)
    alone = getattr(acting, "row_by_row", None)
    if alone is None:
        yield
        return
    acting.row_by_row = False
    try:
        yield
    finally:
        acting.row_by_row = alone


class RolloutWorker:
    """Worlds and policy in one place: imagines pieces."""

    def __init__(self, recipe: Recipe) -> None:
        self.worlds = [make() for make in recipe.worlds]
        if recipe.policy is None:
            raise ConfigError("a rollout worker needs the recipe's policy folder")
        self.policy = load_trainable(
            recipe.policy, temperature=recipe.temperature, exploration=recipe.exploration, lora=recipe.lora,
            device=recipe.device,
        )  # fmt: skip
        self._version = ""

    def imagine(self, work: Work, version: str, weights: Weights) -> Imagined:
        """Roll a piece out under the weights of a version."""
        if version != self._version:
            load_weights(self.policy, weights)
            self._version = version
        return roll_out(self.worlds[work.ground], self.policy, work, version)


class JudgeWorker:
    """The judge in one place: rewards pieces."""

    def __init__(self, recipe: Recipe) -> None:
        self.judge, self._mask = recipe.judge(), recipe.mask_after_success

    def score(self, work_index: int, imagined: Imagined) -> Piece:
        """Reward a piece."""
        begin = time.perf_counter()
        scored = judged(imagined.rollouts, self.judge, imagined.first_BHWC, mask=self._mask)
        return Piece(work_index, scored, {**imagined.seconds, "judge": time.perf_counter() - begin})

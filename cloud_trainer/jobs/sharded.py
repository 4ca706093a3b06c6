"""Groups of imagined rollouts, cut into pieces of work that may run anywhere and come back the same.

A piece names its starts and its seeds, so its result does not depend on which worker runs it, how many there are, or
how often it had to be run again. The pool decides where: in this process, or on Ray (ray_backend.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from cloud_trainer.grpo.trainer import GrpoConfig, Scored, join_scored
from cloud_trainer.jobs.imagine import imagine
from cloud_trainer.jobs.train import judged
from cloud_trainer.world_model.compact_data import StartState
from cloud_trainer.world_model.compact_env import CompactWorldModelEnv
from cloud_trainer.world_model.compact_model import CompactWorldModel
from gymnast_core.env import Env
from gymnast_core.errors import ConfigError
from gymnast_core.judge import Judge
from gymnast_core.policies import load_policy
from gymnast_core.policies.trainable import TokenPolicy
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, ByteArray, Observation, RolloutBatch

Weights = Mapping[str, np.ndarray[Any, Any]]
"""Tensors of a policy's network by name."""


class SampledPolicy(TokenPolicy, Protocol):
    """A token policy that says which checkpoint it came from."""

    @property
    def version(self) -> str:
        """Id of the checkpoint it was loaded from."""
        ...


class World(Protocol):
    """Makes environments that begin at given starts."""

    def env(self, starts: Sequence[StartState]) -> Env:
        """Return an environment whose row b begins at starts[b]."""
        ...

    def first_frames(self, starts: Sequence[StartState]) -> ByteArray:
        """Return (B, H, W, 3): what the judge compares the end with."""
        ...


class CompactWorld:
    """World over the compact world model."""

    def __init__(self, model: CompactWorldModel, *, max_steps: int = 15) -> None:
        self.model, self.max_steps = model, max_steps

    @classmethod
    def load(cls, folder: Path, max_steps: int = 15) -> CompactWorld:
        """Read the model's checkpoint folder."""
        return cls(CompactWorldModel.load(folder), max_steps=max_steps)

    def env(self, starts: Sequence[StartState]) -> Env:
        """See World."""
        return CompactWorldModelEnv(self.model, starts, max_steps=self.max_steps, in_order=True)

    def first_frames(self, starts: Sequence[StartState]) -> ByteArray:
        """See World."""
        return np.stack([start.first_HWC for start in starts])


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to build itself; every part travels to other processes.

    Attributes:
        world: makes the world, e.g. functools.partial(CompactWorld.load, folder).
        judge: makes the judge, e.g. functools.partial(LearnedJudge.load, folder).
        policy: checkpoint folder the policy is built from; newer weights are sent by version.
        temperature: of sampling.
        mask_after_success: see GrpoConfig.
    """

    world: Callable[[], World]
    judge: Callable[[], Judge]
    policy: Path
    temperature: float = 1.0
    mask_after_success: bool = False


@dataclass(frozen=True)
class Work:
    """A piece: some groups.

    Attributes:
        index: its place in the batch.
        starts: one per group.
        first_group: name of its first group; the others follow.
        group_size: rollouts per group.
        seed: of the world's noise and the policy's samples.
    """

    index: int
    starts: tuple[StartState, ...]
    first_group: int
    group_size: int
    seed: int


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


class Pool(Protocol):
    """Runs pieces somewhere."""

    def run(self, version: str, weights: Weights, works: Sequence[Work]) -> Iterator[Piece]:
        """Yield every piece once, in any order.

        Args:
            version: names the weights; workers that have them already do not load them again.
            weights: of the policy's network.
            works: pieces.
        """
        ...

    def close(self) -> None:
        """Free the workers; safe to call twice."""
        ...


class _Timed:
    """A policy holding a policy: separates drawing the frame (world model) from choosing the action."""

    def __init__(self, inner: Policy) -> None:
        self.inner, self.world_s, self.policy_s = inner, 0.0, 0.0

    @property
    def version(self) -> str:
        return self.inner.version

    @property
    def chunk_length(self) -> int:
        return self.inner.chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        begin = time.perf_counter()
        drawn = replace(observation, images={name: observation.images[name] for name in observation.images})
        middle = time.perf_counter()
        chunk = self.inner.act(drawn, instruction, rng=rng)
        self.world_s += middle - begin
        self.policy_s += time.perf_counter() - middle
        return chunk


class RolloutWorker:
    """World and policy in one place: imagines pieces."""

    def __init__(self, recipe: Recipe) -> None:
        self.world = recipe.world()
        self.policy = load_policy(recipe.policy)
        for name, value in (("row_by_row", False), ("temperature", recipe.temperature)):
            if hasattr(self.policy, name):
                setattr(self.policy, name, value)
        self._version = ""

    def imagine(self, work: Work, version: str, weights: Weights) -> Imagined:
        """Roll a piece out under the weights of a version; the version rides with the data."""
        if version != self._version:
            load_weights(self.policy, weights)
            self._version = version
        rows = [start for start in work.starts for _ in range(work.group_size)]
        group_B = work.first_group + np.repeat(np.arange(len(work.starts)), work.group_size)
        timed = _Timed(self.policy)
        begin = time.perf_counter()
        rollouts = imagine(
            self.world.env(rows),
            timed,
            [row.instruction for row in rows],
            seed=work.seed,
            rng=np.random.default_rng(work.seed),
            group_B=group_B,
        )
        spent = time.perf_counter() - begin
        seconds = {"policy": timed.policy_s, "world_model": spent - timed.policy_s}
        return Imagined(replace(rollouts, policy_version=version), self.world.first_frames(rows), seconds)


class JudgeWorker:
    """The judge in one place: rewards pieces."""

    def __init__(self, recipe: Recipe) -> None:
        self.judge, self._mask = recipe.judge(), recipe.mask_after_success

    def score(self, work_index: int, imagined: Imagined) -> Piece:
        """Reward a piece."""
        begin = time.perf_counter()
        scored = judged(imagined.rollouts, self.judge, imagined.first_BHWC, mask=self._mask)
        return Piece(work_index, scored, {**imagined.seconds, "judge": time.perf_counter() - begin})


class LocalPool:
    """Everything in this process, one piece after the other.

    Attributes:
        recipe: what it is built from.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._rollouts, self._judge = RolloutWorker(recipe), JudgeWorker(recipe)

    def run(self, version: str, weights: Weights, works: Sequence[Work]) -> Iterator[Piece]:
        """See Pool."""
        for work in works:
            yield self._judge.score(work.index, self._rollouts.imagine(work, version, weights))

    def close(self) -> None:
        """Nothing to free."""


@dataclass
class Ledger:
    """Where the time went, over the life of a sampler.

    Attributes:
        seconds: worker seconds by "policy", "world_model", "judge".
        wall_s: seconds the learner waited for pieces.
        rollouts: rows sampled.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    rollouts: int = 0

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        self.rollouts += len(piece.scored.reward_B)
        for name, value in piece.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value


class ShardedSampler:
    """A jobs.train.Sampler that spreads its groups over a pool.

    Attributes:
        pool: where pieces run.
        ledger: where the time went.
    """

    def __init__(
        self,
        pool: Pool,
        starts: Sequence[StartState],
        config: GrpoConfig,
        *,
        keyframes: Sequence[StartState] = (),
        groups_per_piece: int = 4,
    ) -> None:
        """Bind starts to a pool.

        Args:
            pool: where pieces run.
            starts: recorded beginnings.
            config: group sizes and keyframe share.
            keyframes: recorded later chunk starts, for config.keyframe_share of the groups.
            groups_per_piece: granularity; part of the result, unlike the number of workers.

        Raises:
            ConfigError: no starts, a keyframe share without keyframes, or an empty piece.
        """
        if not starts or (config.keyframe_share > 0 and not keyframes) or groups_per_piece < 1:
            raise ConfigError(
                f"{len(starts)} starts, {len(keyframes)} keyframes for share {config.keyframe_share}, "
                f"{groups_per_piece} groups per piece; give starts, keyframes where asked for, and at least 1 group"
            )
        self.pool, self.ledger = pool, Ledger()
        self._starts, self._keyframes, self._config = list(starts), list(keyframes), config
        self._groups_per_piece = groups_per_piece
        self._published = 0

    def __call__(self, policy: SampledPolicy, rng: np.random.Generator) -> Scored:
        """Sample config.groups groups from the policy's present weights."""
        return self.sample(self.next_version(policy), weights_of(policy), rng)

    def sample(self, version: str, weights: Weights, rng: np.random.Generator) -> Scored:
        """Sample config.groups groups from given weights, which nobody has used under this version before."""
        begin = time.perf_counter()
        works = self._cut(rng)
        self._published += 1
        pieces: dict[int, Scored] = {}
        for piece in self.pool.run(version, weights, works):
            pieces[piece.index] = piece.scored
            self.ledger.add(piece)
        self.ledger.wall_s += time.perf_counter() - begin
        joined = pieces[0]
        for index in range(1, len(works)):
            joined = join_scored(joined, pieces[index])
        return joined

    def next_version(self, policy: SampledPolicy) -> str:
        """Return the name the next batch's weights will have: the checkpoint and the number of the batch."""
        return f"{policy.version}#{self._published + 1}"

    def _cut(self, rng: np.random.Generator) -> list[Work]:
        late = round(self._config.groups * self._config.keyframe_share)
        chosen = _spread(self._starts, self._config.groups - late, rng) + _spread(self._keyframes, late, rng)
        size = self._groups_per_piece
        return [
            Work(index, tuple(chosen[first : first + size]), first, self._config.group_size, int(rng.integers(2**31)))
            for index, first in enumerate(range(0, len(chosen), size))
        ]


def _spread(available: Sequence[StartState], count: int, rng: np.random.Generator) -> list[StartState]:
    """Draw without repeats as long as there are enough."""
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += rng.permutation(len(available)).tolist()
    return [available[index] for index in drawn[:count]]


def weights_of(policy: Policy | TokenPolicy) -> Weights:
    """Copy a policy's tensors out; bfloat16 travels as raw 16-bit words, numpy has no such type.

    Tensors sharded over ranks are gathered: then every rank must call this at the same time.
    """
    weights = {}
    for name, tensor in _network(policy).state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        plain = whole.detach().cpu()
        weights[name] = (plain.view(torch.int16) if plain.dtype is torch.bfloat16 else plain).numpy().copy()
    return weights


def load_weights(policy: Policy | TokenPolicy, weights: Weights) -> None:
    """Put tensors into a policy's network, by name."""
    network = _network(policy)
    own = network.state_dict()
    with torch.no_grad():
        for name, array in weights.items():
            tensor = torch.from_numpy(np.array(array))
            own[name].copy_(tensor.view(torch.bfloat16) if own[name].dtype is torch.bfloat16 else tensor)


def _network(policy: Policy | TokenPolicy) -> nn.Module:
    network = getattr(policy, "network", None)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{type(policy).__name__} has no network to send weights of; use a trainable policy")
    return network

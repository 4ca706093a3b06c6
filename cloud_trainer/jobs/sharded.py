"""Groups of imagined rollouts, cut into pieces of work that may run anywhere and come back the same.

A piece names its starts and its seeds, so its result does not depend on which worker runs it, how many there are, or
how often it had to be run again. The pool decides where: in this process, or on Ray (ray_backend.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.grpo.scored import Scored, join_scored
from cloud_trainer.jobs.pieces import JudgeWorker, Piece, Recipe, RolloutWorker, Work
from cloud_trainer.jobs.policy_weights import Weights, weights_of
from cloud_trainer.world_model.compact_data import StartState
from gymnast_core.errors import ConfigError
from gymnast_core.policies.trainable import TokenPolicy


class SampledPolicy(TokenPolicy, Protocol):
    """A token policy that says which checkpoint it came from."""

    @property
    def version(self) -> str:
        """Id of the checkpoint it was loaded from."""
        ...


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

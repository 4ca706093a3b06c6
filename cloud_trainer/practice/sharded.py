"""Groups of imagined rollouts, cut into pieces of work that may run anywhere and come back the same.

A piece names its starts and its seeds, so its result does not depend on which worker runs it, how many there are, or
how often it had to be run again. The pool decides where: in this process, or on Ray (ray/backend.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cloud_trainer.practice.grpo.scored import Scored, join_scored
from cloud_trainer.practice.pieces import Ground, JudgeWorker, Piece, Recipe, Work, roll_out
from cloud_trainer.progress import Cancelled, never
from cloud_trainer.world_model.starts import StartState
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.trainable import LearningPolicy


class SampledPolicy(LearningPolicy, Protocol):
    """A learning policy that says which checkpoint it came from."""

    @property
    def version(self) -> str:
        """Id of the checkpoint it was loaded from."""
        ...


class Pool(Protocol):
    """Runs pieces somewhere."""

    def run(self, version: str, policy: SampledPolicy, works: Sequence[Work]) -> Iterator[Piece]:
        """Yield every piece once, in any order.

        Args:
            version: names the policy's present weights; workers that have them already do not load them again.
            policy: acts.
            works: pieces.
        """
        ...

    def close(self) -> None:
        """Free the workers; safe to call twice."""
        ...


class LocalPool:
    """Everything in this process, one piece after the other; the learner's own policy acts.

    Args:
        recipe: what it is built from, but for the policy.
        cancelled: asked before every imagined step.
    """

    def __init__(self, recipe: Recipe, *, cancelled: Cancelled = never) -> None:
        self._worlds, self._judge = [make() for make in recipe.worlds], JudgeWorker(recipe)
        self._cancelled = cancelled

    def run(self, version: str, policy: SampledPolicy, works: Sequence[Work]) -> Iterator[Piece]:
        """See Pool.

        Raises:
            CancelledError: cancelled.
        """
        for work in works:
            imagined = roll_out(self._worlds[work.ground], policy, work, version, cancelled=self._cancelled)
            yield self._judge.score(work.index, imagined)

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
        grounds: Sequence[Ground],
        config: GrpoConfig,
        *,
        groups_per_piece: int = 4,
    ) -> None:
        """Bind starts to a pool.

        Args:
            pool: where pieces run.
            grounds: where they begin; the pool's worlds are theirs, in this order.
            config: group sizes and keyframe share.
            groups_per_piece: granularity; part of the result, unlike the number of workers.

        Raises:
            ConfigError: no starts, a keyframe share without keyframes, or an empty piece.
        """
        for index, ground in enumerate(grounds):
            if not ground.starts or (config.keyframe_share > 0 and not ground.keyframes):
                raise ConfigError(
                    f"ground {index} has {len(ground.starts)} starts and {len(ground.keyframes)} keyframes for "
                    f"keyframe_share {config.keyframe_share}; collect episodes, or lower keyframe_share to 0"
                )
        if not grounds or groups_per_piece < 1:
            raise ConfigError(f"{len(grounds)} grounds, {groups_per_piece} groups per piece; at least 1 of each")
        self.pool, self.ledger = pool, Ledger()
        self._grounds, self._config = list(grounds), config
        self._groups_per_piece = groups_per_piece
        self._published = 0

    def __call__(self, policy: SampledPolicy, rng: np.random.Generator) -> Scored:
        """Sample config.groups groups from the policy's present weights."""
        version = self.next_version(policy)
        return self.sample(lambda works: self.pool.run(version, policy, works), rng)

    def sample(self, run: Callable[[Sequence[Work]], Iterator[Piece]], rng: np.random.Generator) -> Scored:
        """Sample config.groups groups by whatever runs the pieces."""
        begin = time.perf_counter()
        works = self._cut(rng)
        self._published += 1
        pieces: dict[int, Scored] = {}
        for piece in run(works):
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
        works: list[Work] = []
        first, size = 0, self._groups_per_piece
        for ground, groups in enumerate(shared_out(self._config.groups, self._grounds)):
            late = round(groups * self._config.keyframe_share)
            starts, keyframes = self._grounds[ground].starts, self._grounds[ground].keyframes
            chosen = _spread(starts, groups - late, rng) + _spread(keyframes, late, rng)
            for low in range(0, groups, size):
                part, seed = tuple(chosen[low : low + size]), int(rng.integers(2**31))
                works.append(Work(len(works), part, first + low, self._config.group_size, seed, ground))
            first += groups
        return works


def shared_out(groups: int, grounds: Sequence[Ground]) -> list[int]:
    """Return how many groups begin on each ground: their shares, rounded; the first has the rest, at least one."""
    others = [round(groups * ground.share) for ground in grounds[1:]]
    return [max(1, groups - sum(others)), *others]


def _spread(available: Sequence[StartState], count: int, rng: np.random.Generator) -> list[StartState]:
    """Draw without repeats as long as there are enough."""
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += rng.permutation(len(available)).tolist()
    return [available[index] for index in drawn[:count]]

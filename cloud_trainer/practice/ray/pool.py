"""Rollout and judge actors on Ray: a dead one costs the pieces it held, and they are run again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayActorError, RayTaskError

from cloud_trainer.practice.pieces import Imagined, JudgeWorker, Piece, Recipe, RolloutWorker, Work
from cloud_trainer.practice.policy_weights import Weights, weights_of
from cloud_trainer.practice.sharded import SampledPolicy
from gymnast_core.errors import TransientBridgeError
from gymnast_core.jobs.cluster import ActorConfig
from gymnast_core.policies.processor import use_threads

logger = logging.getLogger(__name__)


LOST = (RayActorError, ActorDiedError, ActorUnavailableError, ObjectLostError)
"""A process or a machine went away; the work itself is fine."""


class _RolloutActor:
    def __init__(self, recipe: Recipe, threads: int) -> None:
        use_threads(threads)
        self._worker = RolloutWorker(recipe)

    def imagine(self, work: Work, version: str, weights: Weights) -> tuple[Imagined, int]:
        """The second value is small: fetching it shows whether the first was made, without moving it."""
        return self._worker.imagine(work, version, weights), work.index


class _JudgeActor:
    def __init__(self, recipe: Recipe, threads: int) -> None:
        use_threads(threads)
        self._worker = JudgeWorker(recipe)

    def score(self, index: int, imagined: Imagined) -> Piece:
        return self._worker.score(index, imagined)


@dataclass
class _Task:
    """One call under way."""

    work: Work
    actor: int
    imagined: object = None
    """Reference to the rolled-out piece; None while it is being imagined."""


class RayPool:
    """sharded.Pool over Ray actors. ray.init() is the caller's business.

    Attributes:
        lost: pieces that had to be run again so far.
    """

    def __init__(self, recipe: Recipe, config: ActorConfig) -> None:
        self.config, self.lost = config, 0
        reserve = {"num_cpus": config.cpus_per_actor}
        self._make_rollout = ray.remote(_RolloutActor).options(num_gpus=config.gpus_per_actor, **reserve).remote
        self._make_judge = ray.remote(_JudgeActor).options(**reserve).remote
        self._arguments = (recipe, config.torch_threads)
        self.rollout_actors = [self._make_rollout(*self._arguments) for _ in range(config.rollout_actors)]
        self.judge_actors = [self._make_judge(*self._arguments) for _ in range(config.judge_actors)]

    def run(self, version: str, policy: SampledPolicy, works: Sequence[Work]) -> Iterator[Piece]:
        """See sharded.Pool and spread()."""
        return self.spread(version, weights_of(policy), works)

    def spread(self, version: str, weights: Weights, works: Sequence[Work]) -> Iterator[Piece]:
        """Yield every piece once, in any order, imagined under these weights.

        Raises:
            TransientBridgeError: a piece was lost too often, or nothing finished for wait_s.
        """
        shared = ray.put(dict(weights))
        todo, tried = deque(works), dict.fromkeys((work.index for work in works), 0)
        unjudged: deque[_Task] = deque()
        running: dict[Any, _Task] = {}
        while todo or unjudged or running:
            self._submit_judgements(unjudged, running)
            self._submit_rollouts(todo, unjudged, running, version, shared)
            done, _ = ray.wait(list(running), num_returns=1, timeout=self.config.wait_s)
            if not done:
                raise TransientBridgeError(f"no piece finished within {self.config.wait_s} s; is the cluster alive?")
            task = running.pop(done[0])
            try:
                answer = ray.get(done[0])
            except LOST as error:
                self._recover(task, error, tried, todo, unjudged)
                continue
            except RayTaskError as error:
                raise error.as_instanceof_cause() from error
            if isinstance(answer, Piece):
                yield answer
            else:
                unjudged.append(task)

    def _submit_judgements(self, unjudged: deque[_Task], running: dict[Any, _Task]) -> None:
        while unjudged:
            busy = [task.actor for task in running.values() if _judging(task)]
            free = [index for index in range(len(self.judge_actors)) if busy.count(index) < self.config.in_flight]
            if not free:
                return
            task = unjudged.popleft()
            actor = min(free, key=busy.count)
            call = self.judge_actors[actor].score.remote(task.work.index, task.imagined)
            running[call] = _Judging(task.work, actor, task.imagined)

    def _submit_rollouts(
        self, todo: deque[Work], unjudged: deque[_Task], running: dict[Any, _Task], version: str, shared: object
    ) -> None:
        while todo and len(unjudged) < self.config.judge_backlog:
            busy = [task.actor for task in running.values() if not _judging(task)]
            actor = min(range(len(self.rollout_actors)), key=busy.count)
            if busy.count(actor) >= self.config.in_flight:
                return
            work = todo.popleft()
            imagine = self.rollout_actors[actor].imagine.options(num_returns=2)
            imagined, made = imagine.remote(work, version, shared)
            running[made] = _Task(work, actor, imagined)

    def _recover(
        self, task: _Task, error: Exception, tried: dict[int, int], todo: deque[Work], unjudged: deque[_Task]
    ) -> None:
        """Start another actor in the dead one's place and put the piece back where it was."""
        self.lost += 1
        tried[task.work.index] += 1
        if tried[task.work.index] >= self.config.attempts:
            raise TransientBridgeError(f"piece {task.work.index} was lost {tried[task.work.index]} times: {error}")
        logger.warning("piece lost: kind=%s actor=%d piece=%d", type(task).__name__, task.actor, task.work.index)
        if isinstance(error, ObjectLostError):
            todo.appendleft(task.work)
            return
        at_judge = _judging(task)
        actors, make = (self.judge_actors, self._make_judge) if at_judge else (self.rollout_actors, self._make_rollout)
        if getattr(error, "actor_id", None) in (None, actors[task.actor]._actor_id.hex()):  # else: replaced already
            actors[task.actor] = make(*self._arguments)
        if at_judge:
            unjudged.appendleft(_Task(task.work, task.actor, task.imagined))
        else:
            todo.appendleft(task.work)

    def close(self) -> None:
        """End the actors."""
        for actor in [*self.rollout_actors, *self.judge_actors]:
            ray.kill(actor)
        self.rollout_actors, self.judge_actors = [], []


class _Judging(_Task):
    """A piece at a judge."""


def _judging(task: _Task) -> bool:
    return isinstance(task, _Judging)

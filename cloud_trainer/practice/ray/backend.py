"""The same jobs on Ray: rollout actors, judge actors, and a learner that survives being killed.

A dead rollout or judge actor costs the pieces it held: it is replaced and they are run again, with the same seeds, so
the result is the same. The learner writes its state after every iteration; when it dies, a new one continues there.
Weights go into the object store once per version. At most `in_flight` pieces wait at an actor and at most
`judge_backlog` for a judge, so a slow judge slows sampling down instead of filling memory.

A training job comes here when its configuration has `ray`, see cluster.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cloud_trainer.practice.grpo_job import GrpoJob
from cloud_trainer.practice.ray.pool import LOST, RayPool
from cloud_trainer.practice.train import Training
from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent, never, silent
from gymnast_core.errors import TransientBridgeError
from gymnast_core.jobs.cluster import RayConfig
from gymnast_core.policies.processor import use_threads

logger = logging.getLogger(__name__)


class _Learner:
    """Owns its pool, so that its death frees the actors."""

    def __init__(self, job: GrpoJob, config: RayConfig) -> None:
        use_threads(config.torch_threads)
        self._job, self._config = job, config
        self._events: list[ProgressEvent] = []
        self._stop = False

    def run(self) -> Training:
        return self._job.run(
            lambda recipe: RayPool(recipe, self._config), progress=self._events.append, cancelled=lambda: self._stop
        )

    def events(self, since: int) -> list[ProgressEvent]:
        return self._events[since:]

    def stop(self) -> None:
        self._stop = True


def run_on_ray(
    job: GrpoJob,
    config: RayConfig,
    *,
    progress: Progress = silent,
    cancelled: Cancelled = never,
    started: Callable[[Any], None] = lambda actor: None,
    poll_s: float = 0.2,
) -> Training:
    """Run a job with its learner as an actor, starting another one from the state file when it dies.

    Args:
        job: what to train.
        config: how to spread it.
        progress: called every iteration; one that is repeated after a death comes again.
        cancelled: asked every poll_s seconds.
        started: called with every learner actor.
        poll_s: between looks at the learner.

    Raises:
        CancelledError: cancelled; the state file has the last whole iteration.
        TransientBridgeError: the learner died more often than config.learner_restarts.
    """
    make = ray.remote(_Learner).options(num_cpus=config.cpus_per_actor, max_concurrency=2).remote
    for attempt in range(config.learner_restarts + 1):
        learner = make(job, config)
        started(learner)
        try:
            return _follow(learner, progress, cancelled, poll_s)
        except LOST as error:
            logger.warning("learner lost: attempt=%d state=%s error=%s", attempt + 1, job.state, error)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from error
        finally:
            ray.kill(learner)
    raise TransientBridgeError(f"the learner died {config.learner_restarts + 1} times; its state is in {job.state}")


def _follow(learner: Any, progress: Progress, cancelled: Cancelled, poll_s: float) -> Training:
    run, seen, asked_at = learner.run.remote(), 0, 0.0
    while True:
        done, _ = ray.wait([run], timeout=poll_s)
        for event in ray.get(learner.events.remote(seen)):
            seen += 1
            progress(event)
        if done:
            result: Training = ray.get(run)
            return result
        if cancelled() and not asked_at:
            asked_at = time.monotonic()
            ray.get(learner.stop.remote())
        if asked_at and time.monotonic() - asked_at > 60:
            raise CancelledError("the learner did not stop within 60 s and was ended; its state file is whole")

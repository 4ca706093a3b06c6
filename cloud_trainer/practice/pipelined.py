"""Sample the next batch while the learner works on this one; what comes back is a version old and is corrected.

The batch under way is not part of a state file, so an interrupted pipelined run continues validly but not to the bit;
use the plain sampler where that matters.
"""

from __future__ import annotations

import copy
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cloud_trainer.practice.grpo.off_policy import VersionLog, corrected, is_fresh_enough
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.sharded import SampledPolicy, ShardedSampler
from gymnast_core.jobs.cluster import OffPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ahead:
    """A batch being sampled."""

    version: str
    batch: Future[Scored]


class PipelinedSampler:
    """A jobs.train.Sampler around a ShardedSampler.

    Attributes:
        inner: samples.
        bounds: how old a batch may be and how its tokens then weigh.
        dropped: batches thrown away for their age.
    """

    def __init__(self, inner: ShardedSampler, bounds: OffPolicy | None = None) -> None:
        self.inner, self.bounds, self.dropped = inner, bounds or OffPolicy(), 0
        self._log, self._calls = VersionLog(), 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._ahead: _Ahead | None = None

    def __call__(self, policy: SampledPolicy, rng: np.random.Generator) -> Scored:
        """Return the batch that was under way, corrected, and start the next one from the present weights."""
        self._calls += 1
        scored = self._arrived()
        if scored is None:
            fresh = self._start(policy, rng)
            self._ahead = None
            scored = fresh.batch.result()
        self._ahead = self._start(policy, rng)
        return corrected(scored, policy, self.bounds)

    def _arrived(self) -> Scored | None:
        """The batch under way, unless it is too old by now."""
        if self._ahead is None:
            return None
        scored = self._ahead.batch.result()
        if is_fresh_enough(scored.rollouts, self._log, self._calls, self.bounds):
            return scored
        self.dropped += 1
        logger.warning("batch dropped: version=%s call=%d", scored.rollouts.policy_version, self._calls)
        return None

    def _start(self, policy: SampledPolicy, rng: np.random.Generator) -> _Ahead:
        frozen = copy.deepcopy(policy)
        seed = int(rng.integers(2**31))
        version = self.inner.next_version(frozen)
        self._log.record(version, self._calls)
        return _Ahead(version, self._thread.submit(self.inner, frozen, np.random.default_rng(seed)))

    def close(self) -> None:
        """Wait for the batch under way and end the thread."""
        self._thread.shutdown()

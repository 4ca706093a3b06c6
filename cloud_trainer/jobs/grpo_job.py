"""A GRPO run as one value: the same job in this process, on Ray, or with a sharded learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.grpo.off_policy import OffPolicy
from cloud_trainer.jobs.pieces import Recipe
from cloud_trainer.jobs.pipelined import PipelinedSampler
from cloud_trainer.jobs.sharded import ShardedSampler
from cloud_trainer.jobs.train import Training, run_grpo
from cloud_trainer.progress import Cancelled, Progress, never, silent
from cloud_trainer.world_model.compact_data import StartState


@dataclass(frozen=True)
class GrpoJob:
    """All of a GRPO run that travels to the learner; the in-process job takes the same parts.

    Attributes:
        parent: policy checkpoint to start from.
        recipe: how workers build world and judge; the rest of it follows from parent and config.
        starts: recorded beginnings.
        keyframes: recorded later chunk starts.
        config: how to reinforce.
        out: folder for candidates; on storage that every machine sees.
        state: state file; on the same storage.
        lineage: for the manifests.
        groups_per_piece: granularity of work.
        candidate_every: iterations between candidates.
        ahead: sample the next batch while the learner works on this one, and how stale rollouts are then corrected;
            such a run, interrupted, goes on validly but not to the bit. None waits for every batch.
    """

    parent: Path
    recipe: Recipe
    starts: Sequence[StartState]
    config: GrpoConfig
    out: Path
    state: Path
    keyframes: Sequence[StartState] = ()
    lineage: Mapping[str, Any] | None = None
    groups_per_piece: int = 4
    candidate_every: int = 5
    ahead: OffPolicy | None = None

    @property
    def worker_recipe(self) -> Recipe:
        """The recipe with what the configuration says about sampling and judging."""
        config = self.config
        return replace(
            self.recipe,
            policy=self.parent,
            temperature=config.temperature,
            mask_after_success=config.mask_after_success,
        )

    def run(
        self, make_pool: Callable[[Recipe], Any], *, progress: Progress = silent, cancelled: Cancelled = never
    ) -> Training:
        """Train to the end on a pool, from the state file where there is one."""
        pool = make_pool(self.worker_recipe)
        sampler = ShardedSampler(
            pool, self.starts, self.config, keyframes=self.keyframes, groups_per_piece=self.groups_per_piece
        )
        early = None if self.ahead is None else PipelinedSampler(sampler, self.ahead)
        try:
            return run_grpo(
                self.parent,
                early or sampler,
                self.config,
                self.out,
                candidate_every=self.candidate_every,
                lora=self.recipe.lora,
                state=self.state,
                lineage=self.lineage,
                progress=progress,
                cancelled=cancelled,
            )
        finally:
            if early is not None:
                early.close()
            pool.close()

"""A GRPO run as one value: the same job in this process, on Ray, or with a sharded learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_trainer.practice.dreams import watched
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.pieces import Ground, Recipe
from cloud_trainer.practice.pipelined import PipelinedSampler
from cloud_trainer.practice.recorded import Lesson
from cloud_trainer.practice.sharded import ShardedSampler
from cloud_trainer.practice.train import Anchor, Training, train
from cloud_trainer.progress import Cancelled, Progress, never, silent
from gymnast_core.jobs.cluster import OffPolicy
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.judge import Judge
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest


@dataclass(frozen=True)
class GrpoJob:
    """All of a GRPO run; every part travels to the learner, wherever that is.

    Attributes:
        parent: policy checkpoint to start from.
        grounds: where practice takes place.
        judge: makes the judge, e.g. functools.partial(LearnedJudge.load, folder).
        config: how to reinforce.
        out: folder for candidates, beside which the newest rollouts are kept to be looked at; on storage that every
            machine sees.
        state: state file; on the same storage.
        lora: a fresh adapter is trained; see load_trainable.
        lineage: for the manifests.
        anchor: makes a further loss of every optimiser step, e.g. jobs.adapt.frame_anchor; None has none.
        lesson: recorded episodes that come before the first iteration; None has none.
        groups_per_piece: granularity of work.
        candidate_every: iterations between candidates.
        ahead: sample the next batch while the learner works on this one, and how stale rollouts are then corrected;
            such a run, interrupted, goes on validly but not to the bit. None waits for every batch.
        device: of a large policy where it acts or learns, see load_trainable; the ranks of a sharded learner have
            their own.
    """

    parent: Path
    grounds: Sequence[Ground]
    judge: Callable[[], Judge]
    config: GrpoConfig
    out: Path
    state: Path
    lora: LoraSettings | None = None
    lineage: Mapping[str, Any] | None = None
    anchor: Callable[[], Anchor] | None = None
    lesson: Lesson | None = None
    groups_per_piece: int = 4
    candidate_every: int = 5
    ahead: OffPolicy | None = None
    device: str = "cpu"

    @property
    def recipe(self) -> Recipe:
        """What workers are built from."""
        return Recipe.of(self.grounds, self.judge, self.parent, self.lora, self.config, device=self.device)

    def sampler(self, pool: Any) -> ShardedSampler:
        """Return what samples this job's groups on a pool."""
        return ShardedSampler(pool, self.grounds, self.config, groups_per_piece=self.groups_per_piece)

    def run(
        self, make_pool: Callable[[Recipe], Any], *, progress: Progress = silent, cancelled: Cancelled = never
    ) -> Training:
        """Train to the end on a pool, from the state file where there is one.

        Raises:
            CancelledError: cancelled; the state file has the last whole iteration.
        """
        pool = make_pool(self.recipe)
        sampler = self.sampler(pool)
        early = None if self.ahead is None else PipelinedSampler(sampler, self.ahead)
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            return train(
                self._learner(), watched(early or sampler, self.out.parent), self.out,
                parent=read_manifest(self.parent).id, candidate_every=self.candidate_every,
                lesson=self.lesson, state=self.state, lineage=self.lineage, progress=progress, cancelled=cancelled,
            )  # fmt: skip
        finally:
            if early is not None:
                early.close()
            pool.close()

    def _learner(self) -> GrpoTrainer[LearningPolicy]:
        """The parent, as far as a state file says it was trained."""
        policy = load_trainable(
            self.parent, temperature=self.config.temperature, exploration=self.config.exploration, lora=self.lora,
            seed=self.config.seed, device=self.device,
        )  # fmt: skip
        trainer = GrpoTrainer(policy, self.config, anchor=None if self.anchor is None else self.anchor())
        if self.state.exists():
            trainer.load(self.state)
        return trainer

"""Where a job's rollouts and its learner run, when not in the job's own process: a Ray cluster.

A cluster is Ray's own: `ray start --head` on the first machine, `ray start --address=HEAD:6379` on the others. The
job's folder (inside the trainer's --folder) must lie on storage that every machine sees.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.settings import Count, CountOrZero, Positive, Settings

Actors = Annotated[int, Field(ge=1, le=4096)]
Few = Annotated[int, Field(ge=1, le=1024)]
Reserved = Annotated[float, Field(ge=0, le=4096)]


class OffPolicy(Settings):
    """How stale rollouts may be, and how they are corrected."""

    where: ClassVar[str] = "ahead"

    max_age: CountOrZero = 2
    """Updates between sampling and learning beyond which a batch is dropped."""
    weight_cap: Annotated[float, Field(ge=1)] = 2.0
    """Largest importance weight of a token."""


class ActorConfig(Settings):
    """How to spread rollouts."""

    where: ClassVar[str] = "ray"

    rollout_actors: Actors = 2
    """Each holds world model and policy, on one GPU where there are any."""
    judge_actors: Actors = 1
    """Each holds a judge."""
    cpus_per_actor: Reserved = 1.0
    """Ray's reservation."""
    gpus_per_actor: Reserved = 0.0
    """Ray's reservation for a rollout actor."""
    in_flight: Few = 2
    """Pieces waiting at one rollout actor, the running one included."""
    judge_backlog: Few = 4
    """Imagined pieces waiting for a judge before sampling pauses."""
    attempts: Count = 3
    """Times one piece may be lost before the job gives up."""
    wait_s: Positive = 600.0
    """Longest time without any piece finishing."""
    torch_threads: Few = 1
    """Per actor; part of the arithmetic, so of the exact result."""


class RayConfig(ActorConfig):
    """How to spread rollouts, with a learner on the cluster too."""

    learner_restarts: CountOrZero = 3
    """Times the learner may die."""


class RolloutCluster(ActorConfig):
    """A cluster for rollouts alone."""

    address: Annotated[str, Field(min_length=1)] = "local"
    """local starts Ray on this machine for the length of the job; auto or HOST:6379 joins a cluster."""


class ClusterConfig(RayConfig, RolloutCluster):
    """A cluster for rollouts and the learner."""

    learner_ranks: Annotated[int, Field(ge=0, le=4096)] = 0
    """0 learns in one process; more shard the learner over so many ranks (FSDP2 through Ray Train)."""
    learner_gpus: bool = False
    """One GPU per rank."""
    ahead: OffPolicy | None = None
    """Sample the next batch while the learner works on this one, corrected for its age; none waits for every batch."""

    @model_validator(mode="after")
    def _one_learner_samples_ahead(self) -> ClusterConfig:
        if self.ahead is not None and self.learner_ranks:
            raise ConfigError("ray.ahead is for one learner; leave out ahead or learner_ranks")
        return self

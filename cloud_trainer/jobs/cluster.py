"""Where a job's rollouts and its learner run, when not in the job's own process: a Ray cluster.

A cluster is Ray's own: `ray start --head` on the first machine, `ray start --address=HEAD:6379` on the others. The
job's folder (inside the trainer's --folder) must lie on storage that every machine sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from cloud_trainer.grpo.off_policy import OffPolicy
from cloud_trainer.judge.choice import build
from cloud_trainer.progress import Cancelled, Progress
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from cloud_trainer.jobs.fsdp import FsdpConfig
    from cloud_trainer.jobs.grpo_job import GrpoJob
    from cloud_trainer.jobs.ray_pool import RayConfig
    from cloud_trainer.jobs.train import Training


@dataclass(frozen=True)
class ClusterConfig:
    """A cluster and how to use it.

    Attributes:
        address: "local" starts Ray on this machine for the length of the job; "auto" or HOST:6379 joins a cluster.
        learner_ranks: 0 learns in one process; more shard the learner over so many ranks (FSDP2 through Ray Train).
        learner_gpus: one GPU per rank.
        ahead: sample the next batch while the learner works on this one, corrected for its age: fields of
            cloud_trainer.grpo.off_policy.OffPolicy (max_age, weight_cap); None waits for every batch.
        actors: fields of cloud_trainer.jobs.ray_pool.RayConfig: rollout_actors, judge_actors, gpus_per_actor, ...
    """

    address: str = "local"
    learner_ranks: int = 0
    learner_gpus: bool = False
    ahead: OffPolicy | None = None
    actors: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(values: Mapping[str, Any]) -> ClusterConfig:
        """Build one from a job's spec, where fields of RayConfig stand beside ours.

        Raises:
            ConfigError: an unknown setting, or ray is not installed.
        """
        own = {entry.name for entry in fields(ClusterConfig)} - {"actors"}
        actors = {name: value for name, value in values.items() if name not in own}
        chosen = {name: value for name, value in values.items() if name in own}
        if "ahead" in chosen:
            chosen["ahead"] = build(OffPolicy, chosen["ahead"], "ray.ahead")
        config = ClusterConfig(**chosen, actors=actors)
        if config.ahead is not None and config.learner_ranks:
            raise ConfigError("ray.ahead is for one learner; leave out ahead or learner_ranks")
        _ = config.pool
        return config

    @property
    def pool(self) -> RayConfig:
        """How rollouts are spread."""
        try:
            from cloud_trainer.jobs.ray_pool import RayConfig
        except ImportError as error:
            raise ConfigError(f"config.ray needs Ray ({error}); install this package with [ray]") from error
        return build(RayConfig, self.actors, "ray")

    @property
    def learner(self) -> FsdpConfig:
        """How the learner is spread."""
        from cloud_trainer.jobs.fsdp import FsdpConfig

        cpus = self.pool.cpus_per_actor
        return FsdpConfig(workers=self.learner_ranks, use_gpu=self.learner_gpus, cpus_per_worker=cpus)

    @property
    def reserved(self) -> dict[str, float]:
        """What actors and learner together reserve of the cluster."""
        pool, ranks = self.pool, max(1, self.learner_ranks)
        return {
            "CPU": pool.cpus_per_actor * (pool.rollout_actors + pool.judge_actors + ranks),
            "GPU": pool.gpus_per_actor * pool.rollout_actors + self.learner_ranks * self.learner_gpus,
        }


def train(job: GrpoJob, config: ClusterConfig, *, progress: Progress, cancelled: Cancelled) -> Training:
    """Run a GRPO job on the cluster, from its state file where there is one.

    Raises:
        ConfigError: the cluster has not what the job reserves; it would wait for ever.
        CancelledError: cancelled; the state file has the last whole iteration.
        TransientBridgeError: pieces or the learner were lost more often than allowed.
    """
    import ray

    where: dict[str, Any] = {} if config.address == "local" else {"address": config.address}
    ray.init(**where, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        there = {name: ray.cluster_resources().get(name, 0.0) for name in config.reserved}
        if any(need > there[name] for name, need in config.reserved.items()):
            raise ConfigError(
                f"the job reserves {config.reserved} of a cluster that has {there}; lower the actors, learner_ranks or "
                "cpus_per_actor"
            )
        if config.learner_ranks:
            from cloud_trainer.jobs.fsdp import run_on_ray_train

            return run_on_ray_train(job, config.pool, config.learner, storage=job.out.parent / "ray_train")
        from cloud_trainer.jobs.ray_backend import run_on_ray

        return run_on_ray(job, config.pool, progress=progress, cancelled=cancelled)
    finally:
        ray.shutdown()

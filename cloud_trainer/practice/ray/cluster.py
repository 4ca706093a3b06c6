"""Where a job's rollouts and its learner run, when not in the job's own process: a Ray cluster.

A cluster is Ray's own: `ray start --head` on the first machine, `ray start --address=HEAD:6379` on the others. The
job's folder (inside the trainer's --folder) must lie on storage that every machine sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from cloud_trainer.judge.choice import build
from cloud_trainer.practice.grpo.off_policy import OffPolicy
from cloud_trainer.progress import Cancelled, Progress
from cloud_trainer.ranges import Range, check_ranges
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from cloud_trainer.practice.grpo_job import GrpoJob
    from cloud_trainer.practice.pieces import Recipe
    from cloud_trainer.practice.ray.learner import FsdpConfig
    from cloud_trainer.practice.ray.pool import RayConfig, RayPool
    from cloud_trainer.practice.train import Training


@dataclass(frozen=True)
class ClusterConfig:
    """A cluster and how to use it.

    Attributes:
        address: "local" starts Ray on this machine for the length of the job; "auto" or HOST:6379 joins a cluster.
        learner_ranks: 0 learns in one process; more shard the learner over so many ranks (FSDP2 through Ray Train).
        learner_gpus: one GPU per rank.
        ahead: sample the next batch while the learner works on this one, corrected for its age: fields of
            cloud_trainer.practice.grpo.off_policy.OffPolicy (max_age, weight_cap); None waits for every batch.
        actors: fields of cloud_trainer.practice.ray.pool.RayConfig: rollout_actors, judge_actors, gpus_per_actor, ...
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
        if chosen.get("ahead") is not None:
            chosen["ahead"] = build(OffPolicy, chosen["ahead"], "ray.ahead")
        config = ClusterConfig(**chosen, actors=actors)
        if not isinstance(config.address, str) or not config.address:
            raise ConfigError(f"ray: address must be local, auto or HOST:PORT, got {config.address!r}")
        check_ranges(config, {"learner_ranks": Range(0, 4096, whole=True)}, "ray")
        if config.ahead is not None and config.learner_ranks:
            raise ConfigError("ray.ahead is for one learner; leave out ahead or learner_ranks")
        _ = config.pool
        return config

    @property
    def pool(self) -> RayConfig:
        """How rollouts are spread."""
        try:
            from cloud_trainer.practice.ray.pool import RayConfig
        except ImportError as error:
            raise ConfigError(f"config.ray needs Ray ({error}); install this package with [ray]") from error
        return build(RayConfig, self.actors, "ray")

    @property
    def learner(self) -> FsdpConfig:
        """How the learner is spread."""
        from cloud_trainer.practice.ray.learner import FsdpConfig

        cpus = self.pool.cpus_per_actor
        return FsdpConfig(workers=self.learner_ranks, use_gpu=self.learner_gpus, cpus_per_worker=cpus)

    def reserved(self, learners: int) -> dict[str, float]:
        """What actors and so many learners together reserve of the cluster."""
        pool = self.pool
        return {
            "CPU": pool.cpus_per_actor * (pool.rollout_actors + pool.judge_actors + learners),
            "GPU": pool.gpus_per_actor * pool.rollout_actors + learners * self.learner_gpus,
        }


def train(job: GrpoJob, config: ClusterConfig, *, progress: Progress, cancelled: Cancelled) -> Training:
    """Run a GRPO job on the cluster, from its state file where there is one.

    Raises:
        ConfigError: the cluster has not what the job reserves; it would wait for ever.
        CancelledError: cancelled; the state file has the last whole iteration.
        TransientBridgeError: pieces or the learner were lost more often than allowed.
    """
    with _joined(config, config.reserved(max(1, config.learner_ranks))):
        if config.learner_ranks:
            from cloud_trainer.practice.ray.learner import run_on_ray_train

            storage = job.out.parent / "ray_train"
            return run_on_ray_train(
                job, config.pool, config.learner, storage=storage, progress=progress, cancelled=cancelled
            )
        from cloud_trainer.practice.ray.backend import run_on_ray

        return run_on_ray(job, config.pool, progress=progress, cancelled=cancelled)


@contextmanager
def rollout_pool(recipe: Recipe, config: ClusterConfig) -> Iterator[RayPool]:
    """Rollout and judge actors alone, for who learns in this process or not at all.

    Raises:
        ConfigError: the cluster has not what they reserve.
    """
    with _joined(config, config.reserved(0)):
        from cloud_trainer.practice.ray.pool import RayPool

        pool = RayPool(recipe, config.pool)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def _joined(config: ClusterConfig, reserved: Mapping[str, float]) -> Iterator[None]:
    """Be on the cluster, which must have what is reserved."""
    import ray

    where: dict[str, Any] = {} if config.address == "local" else {"address": config.address}
    ray.init(**where, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        there = {name: ray.cluster_resources().get(name, 0.0) for name in reserved}
        if any(need > there[name] for name, need in reserved.items()):
            raise ConfigError(
                f"the job reserves {reserved} of a cluster that has {there}; lower the actors, learner_ranks or "
                "cpus_per_actor"
            )
        yield
    finally:
        ray.shutdown()

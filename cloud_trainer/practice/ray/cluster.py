"""Joining the Ray cluster that a job names, for its rollouts and its learner; see gymnast_core.jobs.cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cloud_trainer.progress import Cancelled, Progress
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.cluster import ClusterConfig, RolloutCluster

if TYPE_CHECKING:
    from cloud_trainer.practice.grpo_job import GrpoJob
    from cloud_trainer.practice.pieces import Recipe
    from cloud_trainer.practice.ray.pool import RayPool
    from cloud_trainer.practice.train import Training


def require_ray(config: RolloutCluster | None) -> None:
    """Return if a job that names a cluster can join one from here; to ask before anything is spent.

    Raises:
        ConfigError: Ray is not installed.
    """
    if config is not None and importlib.util.find_spec("ray") is None:
        raise ConfigError("config.ray needs Ray; install this package with [ray] at the trainer, or leave ray out")


def reserved(config: RolloutCluster, learners: int, *, gpus: bool = False) -> dict[str, float]:
    """Return what actors and so many learners together reserve of the cluster.

    Args:
        config: the actors.
        learners: beside them.
        gpus: each learner has one.
    """
    return {
        "CPU": config.cpus_per_actor * (config.rollout_actors + config.judge_actors + learners),
        "GPU": config.gpus_per_actor * config.rollout_actors + learners * gpus,
    }


def train(job: GrpoJob, config: ClusterConfig, *, progress: Progress, cancelled: Cancelled) -> Training:
    """Run a GRPO job on the cluster, from its state file where there is one.

    Raises:
        ConfigError: the cluster has not what the job reserves; it would wait for ever.
        CancelledError: cancelled; the state file has the last whole iteration.
        TransientBridgeError: pieces or the learner were lost more often than allowed.
    """
    with _joined(config, reserved(config, max(1, config.learner_ranks), gpus=config.learner_gpus)):
        if config.learner_ranks:
            from cloud_trainer.practice.ray.learner import FsdpConfig, run_on_ray_train

            spread = FsdpConfig(
                workers=config.learner_ranks, use_gpu=config.learner_gpus, cpus_per_worker=config.cpus_per_actor
            )
            storage = job.out.parent / "ray_train"
            return run_on_ray_train(job, config, spread, storage=storage, progress=progress, cancelled=cancelled)
        from cloud_trainer.practice.ray.backend import run_on_ray

        return run_on_ray(job, config, progress=progress, cancelled=cancelled)


@contextmanager
def rollout_pool(recipe: Recipe, config: RolloutCluster) -> Iterator[RayPool]:
    """Rollout and judge actors alone, for a caller that learns in this process or not at all.

    Raises:
        ConfigError: the cluster has not what they reserve.
    """
    with _joined(config, reserved(config, 0)):
        from cloud_trainer.practice.ray.pool import RayPool

        pool = RayPool(recipe, config)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def _joined(config: RolloutCluster, wanted: Mapping[str, float]) -> Iterator[None]:
    """Be on the cluster, which must have what is reserved."""
    import ray

    where: dict[str, Any] = {} if config.address == "local" else {"address": config.address}
    ray.init(**where, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        there = {name: ray.cluster_resources().get(name, 0.0) for name in wanted}
        if any(need > there[name] for name, need in wanted.items()):
            raise ConfigError(
                f"the job reserves {wanted} of a cluster that has {there}; lower the actors, learner_ranks or "
                "cpus_per_actor"
            )
        yield
    finally:
        ray.shutdown()

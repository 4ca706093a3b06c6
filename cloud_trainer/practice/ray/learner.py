"""The sharded learner on Ray Train: restarted from its state file when a rank dies, followed as any other.

Rank 0 holds the pool of rollout and judge actors (pool.py). Events and the wish to stop travel through a mailbox,
since Ray Train's workers have no other way to speak while they run.
"""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any, ClassVar

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from torch.distributed.device_mesh import init_device_mesh

from cloud_trainer.practice.dreams import watched
from cloud_trainer.practice.grpo_job import GrpoJob
from cloud_trainer.practice.ray.fsdp import RankSampler, learn
from cloud_trainer.practice.ray.pool import RayPool
from cloud_trainer.practice.train import Training, left_by
from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent, never, silent
from gymnast_core.errors import ConfigError, GymnastError, TransientBridgeError
from gymnast_core.jobs.cluster import ActorConfig, Actors, Reserved
from gymnast_core.policies.processor import use_threads
from gymnast_core.settings import CountOrZero, Settings

LONGEST_WAIT_S = 4 * 3600
"""Other ranks wait so long for rank 0 to sample a batch."""


class FsdpConfig(Settings):
    """How the learner is spread."""

    where: ClassVar[str] = "learner"

    workers: Actors = 2
    """Ranks, one GPU each where there are any."""
    use_gpu: bool = False
    """Whether there are."""
    cpus_per_worker: Reserved = 1.0
    """Ray's reservation."""
    max_failures: CountOrZero = 3
    """Times Ray Train restarts the group from the state file."""


class Mailbox:
    """An actor between the workers of a group and whoever waits for them."""

    def __init__(self) -> None:
        self._events: list[ProgressEvent] = []
        self._stop = False
        self._failure: GymnastError | None = None

    def put(self, event: ProgressEvent) -> None:
        """A worker's progress."""
        self._events.append(event)

    def events(self, since: int) -> list[ProgressEvent]:
        """What came after the first `since` events."""
        return self._events[since:]

    def stop(self) -> None:
        """Ask the workers to stop."""
        self._stop = True

    def stopped(self) -> bool:
        """Whether they were asked to."""
        return self._stop

    def fail(self, failure: GymnastError) -> None:
        """A worker's error that starting again would not mend."""
        self._failure = self._failure or failure

    def failure(self) -> GymnastError | None:
        """It."""
        return self._failure


def train_worker(settings: Mapping[str, Any]) -> None:
    """What every rank runs; settings hold the job, the pool's configuration and the mailbox."""
    mailbox = settings["mailbox"]
    if ray.get(mailbox.failure.remote()) is not None:
        return  # a restart after an error that stays
    try:
        _learn(settings)
    except CancelledError:
        pass  # whoever asked knows
    except GymnastError as error:
        if not isinstance(error, TransientBridgeError):
            ray.get(mailbox.fail.remote(error))
        raise
    finally:
        gc.collect()  # modules have cycles; what holds the process group goes before Ray ends it, see wm.distributed


def _learn(settings: Mapping[str, Any]) -> None:
    job: GrpoJob = settings["job"]
    config: ActorConfig = settings["ray"]
    mailbox = settings["mailbox"]
    use_threads(config.torch_threads)
    kind = "cuda" if torch.cuda.is_available() and settings["use_gpu"] else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))

    def report(event: ProgressEvent) -> None:
        ray.get(mailbox.put.remote(event))

    def stopped() -> bool:
        return bool(ray.get(mailbox.stopped.remote()))

    if dist.get_rank() != 0:
        learn(job, mesh, lambda device: RankSampler(None, None, device), progress=silent, cancelled=never)
        return
    job.out.mkdir(parents=True, exist_ok=True)
    pool = RayPool(job.recipe, config)
    try:
        inner = job.sampler(pool)
        learn(
            job, mesh, lambda device: watched(RankSampler(inner, pool.spread, device), job.out.parent),
            progress=report, cancelled=stopped,
        )  # fmt: skip
    finally:
        pool.close()


def run_on_ray_train(
    job: GrpoJob,
    config: ActorConfig,
    fsdp: FsdpConfig,
    *,
    storage: Path,
    progress: Progress = silent,
    cancelled: Cancelled = never,
    poll_s: float = 0.2,
) -> Training:
    """Train with the learner sharded over ranks.

    Args:
        job: what to train; its state file is where a restarted group continues.
        config: the rollout pool.
        fsdp: the learner's ranks.
        storage: folder for Ray Train's own bookkeeping, on storage that every machine sees.
        progress: called every iteration; one repeated after a death comes again.
        cancelled: asked every poll_s seconds.
        poll_s: between looks at the learner.

    Raises:
        CancelledError: cancelled; the state file has the last whole iteration.
        TransientBridgeError: a rank died more often than allowed.
    """
    if job.ahead is not None:
        raise ConfigError("a sharded learner does not sample ahead; leave out ahead or learner_ranks")
    mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "ray": config, "use_gpu": fsdp.use_gpu, "mailbox": mailbox},
        torch_config=TorchConfig(backend=None if fsdp.use_gpu else "gloo", timeout_s=LONGEST_WAIT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=fsdp.workers,
            use_gpu=fsdp.use_gpu,
            resources_per_worker={"CPU": fsdp.cpus_per_worker} | ({"GPU": 1.0} if fsdp.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=f"grpo-{uuid.uuid4().hex[:12]}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=fsdp.max_failures),
        ),
    )
    try:
        _follow(trainer.fit, mailbox, progress, cancelled, poll_s)
    finally:
        failure = ray.get(mailbox.failure.remote())
        ray.kill(mailbox)
    if failure is not None:
        raise failure
    training = left_by(job.out, job.state)
    if len(training.history) < job.config.iterations:
        raise CancelledError(f"GRPO cancelled after {len(training.history)} of {job.config.iterations} iterations")
    return training


def _follow(fit: Callable[[], Any], mailbox: Any, progress: Progress, cancelled: Cancelled, poll_s: float) -> None:
    """Pass on what the group reports until it is over; then raise what ended it, if anything."""
    seen = 0
    with ThreadPoolExecutor(1, thread_name_prefix="ray-train") as thread:
        running = thread.submit(fit)
        try:
            while True:
                over, _ = wait_for([running], timeout=poll_s)
                for event in ray.get(mailbox.events.remote(seen)):
                    seen += 1
                    progress(event)
                if over:
                    break
                if cancelled():
                    ray.get(mailbox.stop.remote())
        finally:
            ray.get(mailbox.stop.remote())
    if ray.get(mailbox.failure.remote()) is None and (error := running.exception()) is not None:
        raise TransientBridgeError(f"the learner's ranks did not come to an end: {error}") from error

"""Real Ray on two CPUs: actors and the learner are killed, and the result is the same to the bit."""

import functools
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import ray
import torch

from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.jobs.grpo_job import GrpoJob
from cloud_trainer.jobs.pieces import Recipe
from cloud_trainer.jobs.ray_backend import run_on_ray
from cloud_trainer.jobs.ray_pool import RayConfig, RayPool
from cloud_trainer.jobs.sharded import LocalPool
from cloud_trainer.world_model.compact_data import clips_of, starts_of
from gymnast_core.errors import ConfigError, TransientBridgeError
from tests.cloud.learning_fakes import episode, tiny_policy
from tests.cloud.ray_parts import BrokenWorld, ParityJudge, PausingWorld

CONFIG = GrpoConfig(group_size=2, groups=4, iterations=2, keep_low=0.0, keep_high=1.0, mini_batch=8, seed=0)
CLUSTER = RayConfig(rollout_actors=2, judge_actors=1, cpus_per_actor=0.25, wait_s=120.0)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    threads = torch.get_num_threads()
    torch.set_num_threads(CLUSTER.torch_threads)  # as many as the actors have: that is part of the arithmetic
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "policy"
    tiny_policy().save(folder)
    return folder


def job_in(folder, base) -> GrpoJob:
    folder.mkdir()
    recipe = Recipe(functools.partial(PausingWorld, folder), ParityJudge, base)
    starts = starts_of(clips_of([episode(seed) for seed in range(6)], 64))
    out, state = folder / "out", folder / "state"
    return GrpoJob(base, recipe, starts, CONFIG, out, state, groups_per_piece=1, candidate_every=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base):
    """The same job in this process."""
    return job_in(tmp_path_factory.mktemp("local") / "job", base).run(LocalPool)


def kill_when_claimed(folder) -> threading.Thread:
    def wait_and_kill():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (folder / "pid").exists():
                os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def versions(training):
    return [candidate.version for candidate in training.candidates]


def test_an_actor_killed_mid_rollout_costs_only_its_rollouts(tmp_path, base, undisturbed):
    job = job_in(tmp_path / "job", base)
    (tmp_path / "job" / "pause").touch()
    killer = kill_when_claimed(tmp_path / "job")
    pools = []

    def make_pool(recipe):
        pools.append(RayPool(recipe, CLUSTER))
        return pools[-1]

    training = job.run(make_pool)
    killer.join(timeout=60)
    assert (tmp_path / "job" / "pid").exists()  # somebody was really in the middle of a rollout
    assert 1 <= pools[0].lost <= CLUSTER.in_flight
    assert versions(training) == versions(undisturbed)
    assert training.history == undisturbed.history


def test_a_killed_learner_resumes_to_the_same_result(tmp_path, base, undisturbed):
    job, learners, events = job_in(tmp_path / "job", base), [], []

    def watch(event):
        events.append(event.step)
        if len(events) == 1:
            ray.kill(learners[0])

    single = replace(CLUSTER, rollout_actors=1)  # the undisturbed run used none: the number changes nothing
    training = run_on_ray(job, single, progress=watch, started=learners.append)
    assert len(learners) == 2
    assert events[-1] == CONFIG.iterations
    assert versions(training) == versions(undisturbed)
    assert training.history == undisturbed.history


def test_a_bug_in_the_job_is_raised_and_not_retried(tmp_path, base):
    job = job_in(tmp_path / "job", base)
    broken = replace(job, recipe=replace(job.recipe, world=BrokenWorld))
    with pytest.raises(ValueError, match="no floor"):
        broken.run(lambda recipe: RayPool(recipe, replace(CLUSTER, rollout_actors=1)))


@pytest.mark.slow
def test_a_piece_lost_again_and_again_ends_the_job(tmp_path, base):
    job = job_in(tmp_path / "job", base)
    (tmp_path / "job" / "pause").touch()
    killer = kill_when_claimed(tmp_path / "job")
    with pytest.raises(TransientBridgeError, match="lost 1 times"):
        job.run(lambda recipe: RayPool(recipe, replace(CLUSTER, attempts=1, rollout_actors=1)))
    killer.join()


def test_settings_that_cannot_run_are_refused():
    with pytest.raises(ConfigError, match="in_flight"):
        RayConfig(in_flight=0)

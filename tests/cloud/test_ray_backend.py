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

from cloud_trainer.practice.grpo_job import GrpoJob
from cloud_trainer.practice.pieces import Ground
from cloud_trainer.practice.ray.backend import run_on_ray
from cloud_trainer.practice.ray.learner import FsdpConfig, run_on_ray_train
from cloud_trainer.practice.ray.pool import RayPool
from cloud_trainer.practice.sharded import LocalPool
from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from gymnast_core.errors import ConfigError, TransientBridgeError
from gymnast_core.jobs.cluster import RayConfig
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import read_manifest
from tests.cloud.learning_fakes import episode, tiny_flow, tiny_policy
from tests.cloud.ray_parts import BrokenWorld, ParityJudge, PausingWorld, told_pid

CONFIG = GrpoConfig(group_size=2, groups=4, iterations=2, keep_low=0.0, keep_high=1.0, mini_batch=8, seed=0)
CLUSTER = RayConfig(rollout_actors=2, judge_actors=1, cpus_per_actor=0.25, wait_s=120.0)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    threads = torch.get_num_threads()
    use_threads(CLUSTER.torch_threads)  # as many as the actors have: that is part of the arithmetic
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()
    use_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "policy"
    tiny_policy().save(folder)
    return folder


def job_in(folder, base) -> GrpoJob:
    folder.mkdir()
    starts = starts_of(clips_of([episode(seed) for seed in range(6)], 64))
    grounds = [Ground(functools.partial(PausingWorld, folder), starts)]
    out, state = folder / "out", folder / "state"
    return GrpoJob(base, grounds, ParityJudge, CONFIG, out, state, groups_per_piece=1, candidate_every=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base):
    """The same job in this process."""
    return job_in(tmp_path_factory.mktemp("local") / "job", base).run(LocalPool)


def kill_when_claimed(folder, who="pid") -> threading.Thread:
    """Once an actor stands in the middle of a rollout, kill it, or the last rank of the learner that began."""

    def wait_and_kill():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (folder / "pid").exists():
                last = max(folder.glob(f"{who}*"), key=lambda path: path.stat().st_mtime_ns)
                os.kill(int(last.read_text()), signal.SIGKILL)
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


def test_a_flow_practises_on_ray_to_the_bit(tmp_path):
    """Its traces (states, noise, drawn steps) travel, and so does the way of exploring that the job names."""
    tiny_flow().save(tmp_path / "flow")
    config = CONFIG.changed(groups=2, exploration=Exploration(way="sde"))
    job, again = (replace(job_in(tmp_path / name, tmp_path / "flow"), config=config) for name in ("here", "ray"))
    single = CLUSTER.changed(rollout_actors=1)
    here, there = job.run(LocalPool), again.run(lambda recipe: RayPool(recipe, single))
    assert versions(there) == versions(here)
    assert there.history == here.history
    assert read_manifest(there.candidates[-1].folder).lineage["grpo"]["exploration"]["way"] == "sde"


def test_a_killed_learner_resumes_to_the_same_result(tmp_path, base, undisturbed):
    job, learners, events = job_in(tmp_path / "job", base), [], []

    def watch(event):
        events.append(event.step)
        if len(events) == 1:
            ray.kill(learners[0])

    single = CLUSTER.changed(rollout_actors=1)  # the undisturbed run used none: the number changes nothing
    training = run_on_ray(job, single, progress=watch, started=learners.append)
    assert len(learners) == 2
    assert events[-1] == CONFIG.iterations
    assert versions(training) == versions(undisturbed)
    assert training.history == undisturbed.history


def test_a_bug_in_the_job_is_raised_and_not_retried(tmp_path, base):
    job = job_in(tmp_path / "job", base)
    broken = replace(job, grounds=[Ground(BrokenWorld, job.grounds[0].starts)])
    with pytest.raises(ValueError, match="no floor"):
        broken.run(lambda recipe: RayPool(recipe, CLUSTER.changed(rollout_actors=1)))


@pytest.mark.slow
def test_a_piece_lost_again_and_again_ends_the_job(tmp_path, base):
    job = job_in(tmp_path / "job", base)
    (tmp_path / "job" / "pause").touch()
    killer = kill_when_claimed(tmp_path / "job")
    with pytest.raises(TransientBridgeError, match="lost 1 times"):
        job.run(lambda recipe: RayPool(recipe, CLUSTER.changed(attempts=1, rollout_actors=1)))
    killer.join()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train imports Ray Data, which warns about itself
def test_a_sharded_learner_is_killed_cancelled_and_resumed_to_what_one_process_learns(tmp_path, base, undisturbed):
    job, events = job_in(tmp_path / "job", base), []
    job = replace(job, anchor=functools.partial(told_pid, tmp_path / "job"))
    single = CLUSTER.changed(rollout_actors=1)
    fsdp = FsdpConfig(workers=2, cpus_per_worker=0.25, max_failures=1)
    run = functools.partial(run_on_ray_train, job, single, fsdp, storage=tmp_path / "train", progress=events.append)
    with pytest.raises(CancelledError, match="after 1 of 2"):
        run(cancelled=lambda: len(events) == 1)
    assert [event.step for event in events] == [1]
    (tmp_path / "job" / "pause").touch()  # the pool's actor stands still: a rank is killed in the middle of a batch
    killer = kill_when_claimed(tmp_path / "job", "rank")
    training = run()
    killer.join(timeout=60)
    assert len(list((tmp_path / "job").glob("rank*"))) == 3 * fsdp.workers  # begun, resumed, restarted after the kill
    assert [event.step for event in events] == [1, 2]
    assert len(training.candidates) == len(undisturbed.candidates) == 2
    for theirs, ours in zip(training.history, undisturbed.history, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bug_in_a_sharded_job_is_raised_and_not_retried(tmp_path, base):
    job = replace(job_in(tmp_path / "job", base), config=CONFIG.changed(keyframe_share=0.5))
    fsdp = FsdpConfig(workers=1, cpus_per_worker=0.25)
    with pytest.raises(ConfigError, match="0 keyframes"):
        run_on_ray_train(job, CLUSTER.changed(rollout_actors=1), fsdp, storage=tmp_path / "train")


def test_settings_that_cannot_run_are_refused():
    with pytest.raises(ConfigError, match="in_flight"):
        RayConfig(in_flight=0)
    with pytest.raises(ConfigError, match="workers"):
        FsdpConfig(workers=0)

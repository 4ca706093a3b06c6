"""The sharded learner makes the update a single process makes, and continues where it was."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.grpo.scored import Scored
from cloud_trainer.grpo.trainer import GrpoTrainer
from cloud_trainer.jobs.fsdp import FsdpConfig, FsdpTrainer, run_on_ray_train
from cloud_trainer.jobs.grpo_job import GrpoJob
from cloud_trainer.jobs.pieces import Recipe
from cloud_trainer.jobs.policy_weights import weights_of
from cloud_trainer.jobs.ray_pool import RayConfig
from cloud_trainer.jobs.sharded import LocalPool
from cloud_trainer.world_model.compact_data import clips_of, starts_of
from gymnast_core.errors import ConfigError
from gymnast_core.policies.compact import CompactPolicy
from gymnast_core.types import RolloutBatch
from tests.cloud.learning_fakes import episode, tiny_policy
from tests.cloud.ray_parts import ParityJudge, PausingWorld

CONFIG = GrpoConfig(group_size=2, groups=3, iterations=2, keep_low=0.0, keep_high=1.0, mini_batch=5, epochs=1)


def scored(policy, seed) -> Scored:
    """Six rows; mini-batches of 5 and 1: a rank has two rows, three, or none."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 256, (6, 10, 7))
    frames = rng.integers(0, 256, (6, 3, 64, 64, 3), dtype=np.uint8)
    texts = ["lift the red cube"] * 6
    with torch.no_grad():
        parts = [policy.token_log_probs(frames[:, c], texts, tokens[:, 5 * c : 5 * c + 5]).numpy() for c in (0, 1)]
    rollouts = RolloutBatch(
        texts,
        np.array([0, 5, 10]),
        frames,
        np.zeros((6, 10, 7), np.float32),
        tokens,
        np.concatenate(parts, 1),
        np.array([10, 10, 5, 10, 10, 5]),
        "policy-test",
        np.repeat(np.arange(3), 2),
    )
    return Scored(rollouts, np.array([1, 0, 0, 1, 1, 0], np.float32), np.ones(6, bool))


def batches(folder):
    start = CompactPolicy.load(folder / "base", row_by_row=False)
    return [scored(start, seed) for seed in (0, 1)]


def rank_main(rank, world, folder):
    """One update, save, a new trainer that loads, another update; rank 0 writes the whole weights."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    first, second = batches(folder)
    trainer = FsdpTrainer(CompactPolicy.load(folder / "base", row_by_row=False), CONFIG, mesh)
    report = trainer.update(first)
    trainer.save(folder / "state", {"note": 7})
    again = FsdpTrainer(CompactPolicy.load(folder / "base", row_by_row=False), CONFIG, mesh)
    assert again.load(folder / "state") == {"note": 7}
    assert again.updates == 1
    again.update(second)
    weights = weights_of(again.policy)
    if rank == 0:
        told = {name: torch.from_numpy(array) for name, array in weights.items()}
        told["report"] = torch.tensor([report.loss, report.grad_norm, report.kl])
        save_file(told, folder / "sharded.safetensors")
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_learn_what_one_process_learns_and_resume(tmp_path):
    tiny_policy().save(tmp_path / "base")
    torch.multiprocessing.spawn(rank_main, args=(2, tmp_path), nprocs=2)
    sharded = load_file(tmp_path / "sharded.safetensors")
    trainer = GrpoTrainer(CompactPolicy.load(tmp_path / "base", row_by_row=False), CONFIG)
    first, second = batches(tmp_path)
    report = trainer.update(first)
    trainer.update(second)
    told = sharded.pop("report").tolist()
    assert told == pytest.approx([report.loss, report.grad_norm, report.kl], rel=1e-3, abs=1e-6)
    moved = 0.0
    base = CompactPolicy.load(tmp_path / "base").network.state_dict()
    for name, tensor in trainer.policy.network.state_dict().items():
        torch.testing.assert_close(sharded[name], tensor, atol=2e-5, rtol=1e-4)
        moved = max(moved, float((tensor - base[name]).abs().max()))
    assert moved > 1e-4  # two AdamW steps of 2e-4


def test_settings_it_cannot_keep_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="kl_weight"):
        FsdpTrainer(tiny_policy(), replace(CONFIG, kl_weight=0.1), None)
    with pytest.raises(ConfigError, match="workers"):
        FsdpConfig(workers=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train imports Ray Data, which warns about itself
def test_ray_train_runs_the_sharded_learner(tmp_path):
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        tiny_policy().save(tmp_path / "base")
        (tmp_path / "job").mkdir()
        recipe = Recipe(functools.partial(PausingWorld, tmp_path / "job"), ParityJudge, tmp_path / "base")
        starts = starts_of(clips_of([episode(seed) for seed in range(6)], 64))
        job = GrpoJob(
            tmp_path / "base", recipe, starts, CONFIG, tmp_path / "out", tmp_path / "state", groups_per_piece=1
        )
        cluster = RayConfig(rollout_actors=1, judge_actors=1, cpus_per_actor=0.2)
        fsdp = FsdpConfig(workers=2, cpus_per_worker=0.5, max_failures=0)
        (last,) = run_on_ray_train(job, cluster, fsdp, storage=tmp_path / "train").candidates
    finally:
        ray.shutdown()
    trained, base = CompactPolicy.load(last.folder), CompactPolicy.load(tmp_path / "base")
    assert trained.version == last.version != base.version
    assert LocalPool(recipe).recipe.policy == tmp_path / "base"
    head = trained.network.head.weight.detach()
    assert float((head - base.network.head.weight.detach()).abs().max()) > 1e-5

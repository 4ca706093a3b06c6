"""Stale rollouts: dropped beyond the bound, corrected within it, untouched when fresh."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from cloud_trainer.practice.grpo.off_policy import VersionLog, corrected, importance_weights, is_fresh_enough
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.grpo_job import GrpoJob
from cloud_trainer.practice.pieces import Ground, Recipe
from cloud_trainer.practice.pipelined import PipelinedSampler
from cloud_trainer.practice.sharded import LocalPool, ShardedSampler
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.jobs.cluster import OffPolicy
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.compact import CompactPolicy
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world_model
from tests.cloud.ray_parts import ParityJudge

CONFIG = GrpoConfig(group_size=2, groups=2, iterations=1, keep_low=0.0, keep_high=1.0, mini_batch=4, seed=0)
STARTS = starts_of(clips_of([episode(seed) for seed in range(4)], 64))


@pytest.fixture
def parts(tmp_path):
    tiny_policy().save(tmp_path / "base")
    tiny_world_model().save(tmp_path / "world")
    recipe = Recipe((functools.partial(load_world, tmp_path / "world"),), ParityJudge)
    policy = CompactPolicy.load(tmp_path / "base", row_by_row=False, temperature=1.0)
    return policy, ShardedSampler(LocalPool(recipe), [Ground(recipe.worlds[0], STARTS)], CONFIG)


def shift(policy, factor=3.0):
    with torch.no_grad():
        policy.network.head.weight.mul_(factor)


def test_weights_by_hand():
    proximal, behaviour = np.log([0.5, 0.1, 0.4]).astype(np.float32), np.log([0.25, 0.2, 0.1]).astype(np.float32)
    np.testing.assert_allclose(importance_weights(proximal, behaviour, 3.0), [2.0, 0.5, 3.0], rtol=1e-6)


def test_fresh_rollouts_are_left_as_they_are(parts):
    policy, sampler = parts
    scored = sampler(policy, np.random.default_rng(0))
    same = corrected(scored, policy, OffPolicy())
    np.testing.assert_allclose(same.weight_BTA, 1.0, atol=1e-4)
    np.testing.assert_allclose(same.rollouts.log_probs_BTA, scored.rollouts.log_probs_BTA, atol=1e-4)


def test_stale_rollouts_are_recentred_and_weighed(parts):
    policy, sampler = parts
    scored = sampler(policy, np.random.default_rng(0))
    shift(policy)
    moved = corrected(scored, policy, OffPolicy(weight_cap=1.5))
    ratio = np.exp(moved.rollouts.log_probs_BTA - scored.rollouts.log_probs_BTA)
    assert np.abs(ratio - 1).max() > 0.01
    np.testing.assert_allclose(moved.weight_BTA, np.minimum(ratio, 1.5), rtol=1e-5)
    first = torch.from_numpy(moved.rollouts.log_probs_BTA[:, :5])
    trace = {"tokens": moved.rollouts.trace["tokens"][:, 0]}
    now = policy.log_probs(moved.rollouts.frames_BFHWC[:, 0], moved.rollouts.instructions, trace)
    torch.testing.assert_close(now.detach(), first, atol=1e-4, rtol=0)


def test_the_weight_scales_the_gradient(parts, tmp_path):
    """The gradient of one mini-batch is linear in the weight: half in, half out."""
    policy, sampler = parts
    scored = replace(sampler(policy, np.random.default_rng(0)), reward_B=np.array([1, 0, 1, 0], np.float32))
    ones = np.ones_like(scored.rollouts.log_probs_BTA)
    norms = []
    for weight in (ones, 0.5 * ones):
        start = CompactPolicy.load(tmp_path / "base", row_by_row=False)
        trainer = GrpoTrainer(start, CONFIG.changed(epochs=1))
        norms.append(trainer.update(replace(scored, weight_BTA=weight)).grad_norm)
    assert norms[0] > 0
    assert norms[1] == pytest.approx(0.5 * norms[0], rel=1e-4)


def test_age_is_counted_in_updates_and_bounded(parts):
    policy, sampler = parts
    log = VersionLog()
    scored = sampler(policy, np.random.default_rng(0))
    log.record(scored.rollouts.policy_version, 3)
    assert is_fresh_enough(scored.rollouts, log, 5, OffPolicy(max_age=2))
    assert not is_fresh_enough(scored.rollouts, log, 6, OffPolicy(max_age=2))
    with pytest.raises(ContractError, match="use a new name"):
        log.record(scored.rollouts.policy_version, 4)
    with pytest.raises(ContractError, match="never published"):
        log.age("policy-elsewhere#1", 6)
    with pytest.raises(ConfigError, match="weight_cap"):
        OffPolicy(weight_cap=0.5)


def test_pipelined_batches_are_one_version_old_and_corrected(parts):
    policy, sampler = parts
    pipelined = PipelinedSampler(sampler)
    rng = np.random.default_rng(0)
    first = pipelined(policy, rng)
    shift(policy)
    second = pipelined(policy, rng)
    pipelined.close()
    assert first.rollouts.policy_version.endswith("#1")
    assert second.rollouts.policy_version.endswith("#2")
    np.testing.assert_allclose(first.weight_BTA, 1.0, atol=1e-4)
    assert np.abs(second.weight_BTA - 1).max() > 0.01  # sampled before the shift, learned from after it


def test_a_job_that_samples_ahead_learns_from_stale_rollouts_to_its_end(parts, tmp_path):
    config = CONFIG.changed(iterations=3, learning_rate=1e-2)
    grounds = [Ground(functools.partial(load_world, tmp_path / "world"), STARTS)]
    job = GrpoJob(
        tmp_path / "base", grounds, ParityJudge, config, tmp_path / "out", tmp_path / "state", ahead=OffPolicy()
    )
    training = job.run(LocalPool)
    assert [row["iteration"] for row in training.history] == [1, 2, 3]
    assert training.candidates[-1].iteration == 3
    waited = replace(job, ahead=None, out=tmp_path / "waited", state=tmp_path / "state 2").run(LocalPool)
    assert training.candidates[-1].version != waited.candidates[-1].version


def test_a_batch_beyond_the_bound_is_dropped_and_sampled_again(parts):
    policy, sampler = parts
    pipelined = PipelinedSampler(sampler, OffPolicy(max_age=0))
    rng = np.random.default_rng(0)
    pipelined(policy, rng)
    shift(policy)
    second = pipelined(policy, rng)
    pipelined.close()
    assert pipelined.dropped == 1
    np.testing.assert_allclose(second.weight_BTA, 1.0, atol=1e-4)

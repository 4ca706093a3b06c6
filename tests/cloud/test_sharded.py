"""Sampling in pieces: the same whatever the pool, and the version rides with the data."""

import functools

import numpy as np
import pytest
import torch

from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.jobs.pieces import Recipe
from cloud_trainer.jobs.policy_weights import load_weights, weights_of
from cloud_trainer.jobs.sharded import LocalPool, ShardedSampler
from cloud_trainer.world_model.compact_data import clips_of, starts_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.policies.compact import CompactPolicy
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world_model
from tests.cloud.ray_parts import ParityJudge

CONFIG = GrpoConfig(group_size=2, groups=4, iterations=1, seed=0)
STARTS = starts_of(clips_of([episode(seed) for seed in range(6)], 64))


@pytest.fixture
def recipe(tmp_path):
    tiny_policy().save(tmp_path / "base")
    tiny_world_model().save(tmp_path / "world")
    world = functools.partial(load_world, tmp_path / "world")
    return Recipe(world, ParityJudge, tmp_path / "base")


class Backwards(LocalPool):
    """Finishes the last piece first, as a cluster may."""

    def run(self, version, weights, works):
        yield from reversed(list(super().run(version, weights, works)))


def sample(pool, recipe, **options):
    policy = CompactPolicy.load(recipe.policy, row_by_row=False)
    sampler = ShardedSampler(pool, STARTS, CONFIG, groups_per_piece=2, **options)
    return sampler(policy, np.random.default_rng(3)), sampler


def test_order_of_completion_does_not_matter(recipe):
    first, sampler = sample(LocalPool(recipe), recipe)
    second, _ = sample(Backwards(recipe), recipe)
    np.testing.assert_array_equal(first.rollouts.tokens_BTA, second.rollouts.tokens_BTA)
    np.testing.assert_array_equal(first.reward_B, second.reward_B)
    assert first.rollouts.group_B.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sampler.ledger.rollouts == 8
    assert set(sampler.ledger.seconds) == {"policy", "world_model", "judge"}


def test_version_rides_with_the_data_and_new_weights_are_used(recipe):
    pool = LocalPool(recipe)
    policy = CompactPolicy.load(recipe.policy, row_by_row=False)
    sampler = ShardedSampler(pool, STARTS, CONFIG)
    first = sampler(policy, np.random.default_rng(3))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.mul_(1.5)
    second = sampler(policy, np.random.default_rng(3))
    assert first.rollouts.policy_version == f"{policy.version}#1"
    assert second.rollouts.policy_version == f"{policy.version}#2"
    assert (first.rollouts.tokens_BTA != second.rollouts.tokens_BTA).any()
    images = second.rollouts.frames_BFHWC[:, 0]
    again = policy.token_log_probs(images, second.rollouts.instructions, second.rollouts.tokens_BTA[:, :5])
    np.testing.assert_allclose(again.detach().numpy(), second.rollouts.log_probs_BTA[:, :5], atol=1e-4)


def test_weights_survive_the_journey_bfloat16_too():
    policy, other = tiny_policy(0), tiny_policy(1)
    for each in (policy, other):
        each.network.layer2.to(torch.bfloat16)
    load_weights(other, weights_of(policy))
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], tensor), name


def test_settings_without_anything_to_sample_are_refused(recipe):
    with pytest.raises(ConfigError, match="0 starts"):
        ShardedSampler(LocalPool(recipe), [], CONFIG)
